//! `mediswift export …`: a trained model for other programs.

mod gguf;
mod hf;
mod outcome;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum ExportVerb {
        Hf(hf::Hf),
        Gguf(gguf::Gguf),
    }
}

/// Write a trained model in the format of another program
///
/// Reads the newest whole checkpoint of a run, or the one that --step names. For research only, not for clinical use.
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
