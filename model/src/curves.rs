//! The loss curves of a run: losses against tokens, operations and time (the paper's Figure 2).

use crate::error::Error;
use crate::flops::Spent;
use crate::run::{self, StepMetrics, Validation};
use std::path::Path;

/// Fraction of a run over which a point of a smoothed curve is the mean, most of it near the point.
const SMOOTHING: f64 = 0.03;

/// A step that took so many times the median one was not computing all the time: the machine slept, or
/// gave the process no CPU.
const ASLEEP: f64 = 10.0;

/// A loss, and what it took to get there.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Tokens trained on.
    pub tokens: f64,
    /// Floating-point operations executed.
    pub flops: f64,
    /// Time that training steps computed.
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
        let kept = |step: &StepMetrics| step.masks.as_ref().map(|masks| masks.kept);
        let flops = Spent::new(&config).by_steps(steps.iter().map(|step| (step.step, kept(step))));
        let masks = |step: &StepMetrics| step.masks.as_ref().map_or(0.0, |masks| masks.seconds);
        let times: Vec<_> = steps.iter().map(|step| (step.seconds, masks(step))).collect();
        let computing = computing_time(&times);
        let point = |at: usize, loss| Point {
            tokens: steps[at].tokens as f64,
            flops: flops[at],
            hours: computing[at] / 3600.0,
            loss,
        };
        let evaluations = run::read_log::<Validation>(run)?;
        let evaluated = |evaluation: &Validation| {
            let at = steps.iter().position(|step| step.step == evaluation.step)?;
            Some(point(at, evaluation.val_loss))
        };
        // A step that was skipped has no loss.
        let with_loss = steps.iter().enumerate().filter(|(_, step)| step.loss.is_finite());
        let absolute = std::path::absolute(run).map_err(Error::io("find", run))?;
        let name = absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy();
        Ok(Self {
            label: format!("{name}: {}", config.sparsity.describe(&config.model)),
            training: with_loss.map(|(at, step)| point(at, step.loss)).collect(),
            validation: evaluations.iter().filter_map(evaluated).collect(),
        })
    }

    /// The training losses, smoothed: every point is a mean of its neighbourhood, as long before it
    /// as after it, so that curves are not shifted; only at the end, where they are flat, none is
    /// left after it. Weights fall off like a bell, of three plain means one after the other: a single
    /// high loss is a peak at its place, not a plateau.
    pub fn smoothed(&self) -> Vec<Point> {
        let reach = (0.25 * SMOOTHING * self.training.len() as f64).round() as usize;
        let losses = self.training.iter().map(|point| point.loss).collect();
        let smooth = (0..3).fold(losses, |losses: Vec<f64>, _| centred_means(&losses, reach));
        let point = |(point, loss): (&Point, f64)| Point { loss, ..*point };
        self.training.iter().zip(smooth).map(point).collect()
    }
}

/// Every value's mean with its neighbours, up to `reach` on either side.
fn centred_means(values: &[f64], reach: usize) -> Vec<f64> {
    let mut sums = vec![0.0];
    for value in values {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |at: usize| {
        let reach = reach.min(at);
        let (first, end) = (at - reach, values.len().min(at + reach + 1));
        (sums[end] - sums[first]) / (end - first) as f64
    };
    (0..values.len()).map(mean).collect()
}

/// Seconds of computing after every step, of the seconds that had passed and those that its masks took to move: steps
/// that took far longer than others, and not for their masks, count as one that computed all the time.
fn computing_time(passed: &[(f64, f64)]) -> Vec<f64> {
    let before = [0.0].into_iter().chain(passed.iter().map(|(passed, _)| *passed));
    let durations: Vec<(f64, f64)> = passed
        .iter()
        .zip(before)
        .map(|((now, masks), before)| (now - before - masks, *masks))
        .collect();
    let mut sorted: Vec<f64> = durations.iter().map(|(step, _)| *step).collect();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let computing = |sum: &mut f64, (step, masks): (f64, f64)| {
        *sum += masks + if step > ASLEEP * median { median } else { step };
        Some(*sum)
    };
    durations.into_iter().scan(0.0, computing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_asleep_counts_as_one_awake() {
        let still = [1.0, 2.0, 3.0, 903.0, 905.0].map(|passed| (passed, 0.0));
        assert_eq!(computing_time(&still), [1.0, 2.0, 3.0, 4.0, 6.0]);
        let moving = [(1.0, 0.0), (2.0, 0.0), (53.0, 50.0), (54.0, 0.0)];
        assert_eq!(computing_time(&moving), [1.0, 2.0, 53.0, 54.0], "masks took their time");
        assert_eq!(computing_time(&[]), [0.0; 0]);
    }

    #[test]
    fn a_single_high_loss_is_a_peak() {
        let mut losses = vec![1.0; 400];
        losses[200] = 9.0;
        let smooth = (0..3).fold(losses, |losses, _| centred_means(&losses, 3));
        assert!(smooth.iter().all(|loss| *loss <= smooth[200]), "highest where it was");
        assert!(smooth[195..200].is_sorted_by(|a, b| a < b), "{:?}", &smooth[190..210]);
        for (before, after) in (100..200).rev().zip(201..) {
            assert!((smooth[before] - smooth[after]).abs() < 1e-9, "as wide on both sides");
        }
    }

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
