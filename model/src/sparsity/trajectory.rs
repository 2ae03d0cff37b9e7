//! [`Trajectory`]: how many weights a run keeps, step by step, as planned.

use super::targets::Targets;
use super::timing::Timing;
use super::weights::linear_weights;
use crate::config::Config;

/// Stretches of steps between which masks change size: one, unless a schedule makes a dense model sparse.
pub(crate) struct Trajectory {
    stretches: Vec<Stretch>,
}

struct Stretch {
    /// Steps done before it.
    start: usize,
    /// Fraction of the updates made before it.
    progress: f64,
    /// Weights of all linear layers that it keeps.
    kept: usize,
    /// The sum of these over all steps before it.
    before: f64,
}

impl Trajectory {
    /// That of a run.
    pub fn new(config: &Config) -> Self {
        let (sparsity, steps) = (&config.sparsity, config.train.steps);
        let (timing, schedule) = (Timing::new(sparsity, steps), sparsity.algorithm);
        let targets = Targets::new(sparsity, &config.model);
        let weights: Vec<_> =
            linear_weights(&config.model).map(|weight| (targets.of(&weight), weight)).collect();
        let kept = |progress: f64| {
            let kept = weights
                .iter()
                .map(|(target, weight)| weight.kept(schedule.sparsity(*target, progress)));
            kept.sum::<usize>()
        };
        let mut stretches = vec![Stretch { start: 0, progress: 0.0, kept: kept(0.0), before: 0.0 }];
        if !schedule.changes_size() {
            return Self { stretches };
        }
        let all = timing.updates_until(steps);
        for update in 1..=all {
            let last = &stretches[stretches.len() - 1];
            // Its own step is still made with the mask of before.
            let (start, progress) =
                (timing.step_of(update), update as f64 / timing.updates() as f64);
            let before = last.before + (start - last.start) as f64 * last.kept as f64;
            stretches.push(Stretch { start, progress, kept: kept(progress), before });
        }
        Self { stretches }
    }

    /// The sum of the weights kept over so many steps.
    pub fn sum(&self, steps: usize) -> f64 {
        let after = self.stretches.partition_point(|stretch| stretch.start <= steps);
        let last = &self.stretches[after - 1];
        last.before + (steps - last.start) as f64 * last.kept as f64
    }

    /// Fractions of the updates made where the most weights are kept: before the first update and after it.
    pub fn largest(&self) -> impl Iterator<Item = f64> {
        self.stretches.iter().take(2).map(|stretch| stretch.progress)
    }

    /// Fractions of the updates made, from the first stretch to the last.
    pub fn progress(&self) -> impl Iterator<Item = f64> {
        self.stretches.iter().map(|stretch| stretch.progress)
    }
}
