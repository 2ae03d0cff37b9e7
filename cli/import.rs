//! `mediswift import …`: models of other programs as runs.

mod hf;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum ImportVerb {
        Hf(hf::Hf),
    }
}

/// Make a model of another program a run
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift import hf gpt2 --out run")]
pub struct Import {
    #[command(subcommand)]
    verb: ImportVerb,
}

impl Verb for Import {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.verb.run(context)
    }
}
