//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! step-00001234/
//!     weights.safetensors     parameters by name
//!     optimizer.safetensors   AdamW's moments, `m.<name>` and `v.<name>`, where it made updates
//!     manifest.json           step, settings, position in the data, length and hash of the others
//! ```
//!
//! A dense weight is `[rows, columns]` or `[n]`. A sparse weight is three tensors: its non-zeros
//! `<name>` `[nnz]`, `<name>.row_offsets` `[rows + 1]` and `<name>.column_indices` `[nnz]` (CSR,
//! u32); the file's `__metadata__` has `"<name>": "rows columns"`. Moments have the shape of the
//! values; a model from elsewhere, and a fine-tuned one, has none. There is no random state to keep: all that is random derives from seed, name and step.
//!
//! **A checkpoint is complete or does not exist.** Files are written to a folder `.tmp-…`, the
//! manifest last, each waited for until it is on the disk; then the folder gets its name in one
//! step. Removal starts with the manifest. So a crash at any instant leaves folders without a name
//! or without a manifest, which [`latest`] passes over and `prune` clears away. One that has changed since
//! is known by its hashes when it is read, and passed over for an older one unless [`Choice`] says not to.

mod choosing;
mod hash;
mod manifest;
mod reading;
mod saving;

pub use choosing::{Choice, Latest, latest};
pub(crate) use choosing::{Chosen, choose, prune};
pub use hash::weights_hash;
pub use manifest::{CheckpointManifest, DataState, VERSION};
pub use reading::Checkpoint;
pub use saving::{Snapshot, save};

#[cfg(test)]
mod tests;
