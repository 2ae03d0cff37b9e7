//! What every export says.

use std::path::Path;

use indicatif::HumanCount;
use mediswift_model::interchange::Exported;
use serde_json::json;

use crate::trained;
use crate::verb::Outcome;

/// Tells what was written to `out`.
pub fn outcome(out: &Path, exported: &Exported) -> Outcome {
    trained::warn_of(&exported.skipped, exported.step);
    let Exported { tensors, masks, bytes, step, .. } = exported;
    let with_masks = if *masks > 0 { format!(", {masks} masks") } else { String::new() };
    let text = format!(
        "{}: step {step}, {tensors} tensors{with_masks}, {} bytes\n",
        out.display(),
        HumanCount(*bytes),
    );
    let path = out.display().to_string();
    let json =
        json!({ "tensors": tensors, "masks": masks, "bytes": bytes, "step": step, "path": path });
    Outcome::new(json, text)
}
