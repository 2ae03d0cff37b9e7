//! Dense models that a sparse one is compared with. Seconds and operations are known only when the runs
//! are done that they come from, so [`Rule`]s stand for numbers of steps until then.

use super::record::{Outcome, Pretrained, Record};
use crate::config::Config;
use crate::flops::{Convention, Workload};
use crate::presets::Preset;
use crate::sparsity::linear_weights;

/// How many steps a run makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// As its settings say.
    Given,
    /// As many as cost the operations of that cell.
    Flops {
        /// The cell.
        of: String,
    },
    /// As many as take the time of that cell, at the speed of the dense one.
    Seconds {
        /// The cell.
        of: String,
        /// A cell of the same dense model.
        dense: String,
    },
}

/// The same settings without sparsity.
pub(super) fn dense(config: &Config) -> Config {
    let preset: &'static Preset = config.model.preset;
    Config { sparsity: Config::new(preset).sparsity, ..config.clone() }
}

/// The dense model of as many layers and heads with the width at which its linear layers have as many
/// weights as those of `config` keep, or nearly so: the heads divide it.
pub(super) fn narrower(config: &Config) -> Config {
    let mut narrow = dense(config);
    let kept = config.sparsity.kept(&config.model) as f64;
    let all: usize = linear_weights(&config.model).map(|weight| weight.len()).sum();
    let (width, heads) = (config.model.d_model as f64, config.model.heads);
    let each = (width * (kept / all as f64).sqrt() / heads as f64).round().max(1.0);
    narrow.model.d_model = each as usize * heads;
    narrow
}

impl Rule {
    /// Cells that must be finished before.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Rule::Given => Vec::new(),
            Rule::Flops { of } => vec![of],
            Rule::Seconds { of, dense } => vec![of, dense],
        }
    }

    /// `config` with as many steps as the rule says; none if a cell that it needs is not finished.
    pub fn applied<'r>(
        &self,
        config: &Config,
        record: impl Fn(&str) -> Option<&'r Record>,
    ) -> Option<Config> {
        let trained = |name: &str| match &record(name)?.outcome {
            Outcome::Pretrained(trained) => Some(trained),
            _ => None,
        };
        let mut config = config.clone();
        match self {
            Rule::Given => {}
            Rule::Flops { of } => {
                let of = trained(of)?;
                let mut step = config.clone();
                step.model.vocabulary = of.vocabulary;
                let flops = Workload::of_step(&step).flops(Convention::Executed).total;
                config.train.steps = some(of.flops / flops);
            }
            Rule::Seconds { of, dense } => {
                let per_step = |run: &Pretrained| run.seconds / run.step as f64;
                config.train.steps = some(trained(of)?.seconds / per_step(trained(dense)?));
            }
        }
        Some(config)
    }
}

/// At least one step.
fn some(steps: f64) -> usize {
    (steps.round() as usize).max(1)
}
