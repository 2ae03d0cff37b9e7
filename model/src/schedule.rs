//! The learning rate: linear warm-up, then a cosine (MediSwift §3.2).
//!
//! With w warm-up steps of N, peak rate p and final rate f, step k (from 0) has
//!
//! ```text
//! k < w:  p · (k + 1) / w
//! k ≥ w:  f + ½ (p − f) (1 + cos(π (k − w) / (N − w)))
//! ```
//!
//! so the last warm-up step and the first one after it have the peak rate. It is a pure function of
//! the step: nothing about it needs saving.

use crate::config::Config;

/// A planned learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Rate that the cosine approaches.
    pub last: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// Steps of the whole run.
    pub steps: usize,
}

impl Schedule {
    /// The schedule that a configuration asks for.
    pub fn new(config: &Config) -> Self {
        let train = &config.train;
        Self {
            peak: train.lr,
            last: train.lr * config.optimiser.final_lr_fraction,
            warmup: config.warmup_steps(),
            steps: train.steps,
        }
    }

    /// Learning rate of step `step`, counted from 0; the final rate from the last step on.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        if step >= self.steps {
            return self.last;
        }
        let progress = (step - self.warmup) as f64 / (self.steps - self.warmup) as f64;
        self.last + 0.5 * (self.peak - self.last) * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_the_final_rate() {
        let schedule = Schedule { peak: 2.0, last: 0.2, warmup: 10, steps: 110 };
        let rate = |step| schedule.learning_rate(step);
        assert_eq!(rate(0), 0.2);
        assert_eq!(rate(9), 2.0);
        assert_eq!(rate(10), 2.0);
        assert!((rate(60) - 1.1).abs() < 1e-12);
        assert!(rate(109) > 0.2 && rate(109) < 0.201);
        assert_eq!(rate(110), 0.2);
        assert_eq!(rate(usize::MAX), 0.2);
        for step in 0..9 {
            assert!(rate(step) < rate(step + 1));
        }
        for step in 10..110 {
            assert!(rate(step) > rate(step + 1));
        }
    }

    #[test]
    fn runs_without_warm_up_or_of_warm_up_alone_work() {
        let cold = Schedule { peak: 1.0, last: 0.1, warmup: 0, steps: 1 };
        assert_eq!(cold.learning_rate(0), 1.0);
        let warm = Schedule { peak: 1.0, last: 0.1, warmup: 4, steps: 4 };
        assert_eq!(warm.learning_rate(3), 1.0);
        assert_eq!(warm.learning_rate(4), 0.1);
    }

    #[test]
    fn the_configuration_gives_the_papers_schedule() {
        let schedule = Schedule::new(&Config::from_preset("xl").unwrap());
        assert_eq!((schedule.warmup, schedule.steps), (20_000, 200_000));
        assert!((schedule.last - 2e-5).abs() < 1e-18);
    }
}
