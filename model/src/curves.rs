//! The loss curves of a run: losses against tokens, operations and time (the paper's Figure 2).

use crate::error::Error;
use crate::flops::{Convention, Workload};
use crate::run::{self, StepMetrics, Validation};
use std::path::Path;

/// Fraction of a run over which a point of a smoothed curve is the mean.
const SMOOTHING: f64 = 0.03;

/// A loss, and what it took to get there.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Tokens trained on.
    pub tokens: f64,
    /// Floating-point operations executed.
    pub flops: f64,
    /// Time in training steps.
    pub hours: f64,
    /// In nats per token.
    pub loss: f64,
}

/// The curves of one run.
#[derive(Clone, Debug)]
pub struct Curves {
    /// Name and sparsity.
    pub label: String,
    /// One point per optimiser step.
    pub training: Vec<Point>,
    /// One point per evaluation.
    pub validation: Vec<Point>,
}

impl Curves {
    /// Reads the logs of the run in the folder `run`, finished or not.
    /// # Errors
    /// If they cannot be read, or no step is done yet.
    pub fn read(run: &Path) -> Result<Self, Error> {
        let config = run::read_config(run)?;
        let steps = run::read_log::<StepMetrics>(run)?;
        if steps.is_empty() {
            return Err(Error::not_found(run, "no step is done yet"));
        }
        let flops = Workload::of_step(&config).flops(Convention::Executed).total;
        let point = |step: &StepMetrics, loss| Point {
            tokens: step.tokens as f64,
            flops: flops * step.step as f64,
            hours: step.seconds / 3600.0,
            loss,
        };
        let evaluations = run::read_log::<Validation>(run)?;
        let at = |evaluation: &Validation| {
            let step = steps.iter().find(|step| step.step == evaluation.step)?;
            Some(point(step, evaluation.val_loss))
        };
        // A step that was skipped has no loss.
        let with_loss = steps.iter().filter(|step| step.loss.is_finite());
        let absolute = std::path::absolute(run).map_err(Error::io("find", run))?;
        let name = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy();
        Ok(Self {
            label: format!("{name}: {}", config.sparsity.describe(&config.model)),
            training: with_loss.map(|step| point(step, step.loss)).collect(),
            validation: evaluations.iter().filter_map(at).collect(),
        })
    }

    /// The training losses, smoothed: every point is the mean of its neighbourhood, as long before it
    /// as after it, so that curves are not shifted; only at the end, where they are flat, none is
    /// left after it.
    pub fn smoothed(&self) -> Vec<Point> {
        let count = self.training.len();
        let reach = (0.5 * SMOOTHING * count as f64).round() as usize;
        let mut sums = vec![0.0];
        for point in &self.training {
            sums.push(sums[sums.len() - 1] + point.loss);
        }
        let smooth = |(at, point): (usize, &Point)| {
            let reach = reach.min(at);
            let (first, end) = (at - reach, count.min(at + reach + 1));
            let mean = (sums[end] - sums[first]) / (end - first) as f64;
            Point { loss: mean, ..*point }
        };
        self.training.iter().enumerate().map(smooth).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_does_not_shift_a_curve() {
        let point = |step: usize| {
            let at = step as f64;
            let noise = if step.is_multiple_of(2) { 0.1 } else { -0.1 };
            Point { tokens: at, flops: at, hours: at, loss: 10.0 - 0.01 * at + noise }
        };
        let training: Vec<Point> = (0..1000).map(point).collect();
        let run = Curves { label: String::new(), training, validation: Vec::new() };
        let smoothed = run.smoothed();
        for (before, after) in run.training.iter().zip(&smoothed) {
            assert_eq!(before.tokens, after.tokens);
        }
        for point in &smoothed[15..985] {
            assert!((point.loss - (10.0 - 0.01 * point.tokens)).abs() < 0.01, "{point:?}");
        }
        assert_eq!(smoothed[0].loss, run.training[0].loss);
        assert!((smoothed[999].loss - 0.08).abs() < 0.02, "{:?}", smoothed[999]);
    }
}
