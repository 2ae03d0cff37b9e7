//! `mediswift export …`: a trained model for other programs.

mod gguf;
mod hf;

use std::path::Path;

use indicatif::HumanCount;
use mediswift_model::interchange::Exported;
use serde_json::json;

use crate::output;
use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum ExportVerb {
        Hf(hf::Hf),
        Gguf(gguf::Gguf),
    }
}

/// Write a trained model in the format of another program
///
/// Reads the newest complete checkpoint of a run. For research only, not for clinical use.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift export hf run --out for-transformers
  mediswift export gguf run --out model.gguf")]
pub struct Export {
    #[command(subcommand)]
    verb: ExportVerb,
}

impl Verb for Export {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.verb.run(context)
    }
}

/// Tells what was written to `out`.
fn outcome(out: &Path, exported: &Exported) -> Outcome {
    exported.skipped.iter().for_each(|warning| output::warning(warning));
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
