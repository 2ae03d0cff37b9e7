//! `mediswift bench`: measurements.

mod layer;

use crate::verb::verbs;

verbs! {
    pub enum What {
        Layer(layer::Layer),
    }
}

/// Measure what this machine makes of sparsity
#[derive(clap::Args)]
#[command(subcommand_required = true)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

impl crate::verb::Verb for Bench {
    fn run(self, context: &crate::verb::Context) -> anyhow::Result<crate::verb::Outcome> {
        self.what.run(context)
    }
}
