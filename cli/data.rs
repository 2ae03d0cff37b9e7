//! `mediswift data …`: corpora and datasets.

mod prepare;
mod synth;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum DataVerb {
        Synth(synth::Synth),
        Prepare(prepare::Prepare),
    }
}

/// Make corpora, and turn them into datasets to train on
#[derive(clap::Args)]
pub struct Data {
    #[command(subcommand)]
    verb: DataVerb,
}

impl Verb for Data {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.verb.run(context)
    }
}
