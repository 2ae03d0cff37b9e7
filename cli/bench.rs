//! `mediswift bench`: measurements.

mod comm;
mod layer;
mod scaling;
mod step;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    pub enum BenchVerb {
        Layer(layer::Layer),
        Step(step::Step),
        Comm(comm::Comm),
        Scaling(scaling::Scaling),
    }
}

/// Measure what this machine, or a job of several, makes of sparsity
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
