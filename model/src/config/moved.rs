//! Keys that were in another table once: files and run folders of that time are still read, and so
//! are assignments.

/// Keys of `[optimiser]` that were in `[train]` and `[finetune]`.
pub(crate) const TO_OPTIMISER: [&str; 7] = [
    "final_lr_fraction",
    "warmup_fraction",
    "weight_decay",
    "beta1",
    "beta2",
    "epsilon",
    "clip_norm",
];

/// The table that a key of `table` is in now, if it has moved.
pub(crate) fn home(table: &str, key: &str) -> Option<&'static str> {
    let has_moved = ["train", "finetune"].contains(&table) && TO_OPTIMISER.contains(&key);
    has_moved.then_some("optimiser")
}
