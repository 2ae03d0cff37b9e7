//! `mediswift bench`: measurements.

mod layer;
mod step;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    pub enum BenchVerb {
        Layer(layer::Layer),
        Step(step::Step),
    }
}

/// Measure what this machine makes of sparsity
#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    verb: BenchVerb,
}

impl Verb for Bench {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.verb.run(context)
    }

    fn uses_ranks(&self) -> bool {
        self.verb.uses_ranks()
    }
}
