//! `mediswift data …`: corpora and datasets.

mod cleaning;
mod fetch;
mod prepare;
mod show;
mod stats;
mod synth;

pub use cleaning::{CleaningArgs, report_inputs};

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum DataVerb {
        Fetch(fetch::Fetch),
        Synth(synth::Synth),
        Show(show::Show),
        Prepare(prepare::Prepare),
        Stats(stats::Stats),
    }
}

/// Fetch or make corpora, turn them into datasets, and describe these
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
