//! Whole optimiser steps, measured by part.
//!
//! A step is forward, backward, clipping, AdamW and the packing of sparse weights, on random tokens. To
//! compare models, let their benches take turns step by step, so that all see the same machine.

use crate::config::Config;
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use mediswift_engine::{Pass, TokenLayout};
use std::time::Instant;

/// A model whose steps are measured.
pub struct StepBench {
    sparsity: f64,
    vocabulary: u32,
    layout: TokenLayout,
    optimisation: Optimisation,
    /// Steps done, the first included, which only warms up.
    steps: u32,
    seconds: Vec<f64>,
}

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    /// Fraction of the linear layers' weights that are left out, by its settings.
    pub sparsity: f64,
    /// Tokens of a step.
    pub tokens: usize,
    /// Median over steps.
    pub seconds: f64,
    /// Floating-point operations of a step: the exact work of every operator.
    pub flops: u64,
    /// Parts of a mean step.
    pub parts: Vec<StepPart>,
}

/// One part of a mean step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPart {
    /// What it is, such as `sparse linear forward`.
    pub name: String,
    /// How long it takes.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: f64,
}

impl StepBench {
    /// A model with random weights whose steps have `train.batch` sequences in one pass.
    /// # Errors
    /// If the settings make no model or no optimiser.
    pub fn new(config: &Config) -> Result<Self, Error> {
        // Masks are those of the end: a bench makes too few steps for them to move.
        let mut config = config.clone();
        config.sparsity.stay();
        let layout = TokenLayout { sequences: config.train.batch, context: config.train.context };
        Ok(Self {
            sparsity: config.sparsity.sparsity,
            vocabulary: config.model.vocabulary as u32,
            layout,
            optimisation: Optimisation::new(Gpt::new(&config)?, &config)?,
            steps: 0,
            seconds: Vec::new(),
        })
    }

    /// How the tokens of a step lie.
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }

    /// Does one step. The first allocates what the others reuse, and is not measured.
    /// # Errors
    /// If a sequence is longer than the model's positions, or a gradient is not finite.
    pub fn step(&mut self) -> Result<(), Error> {
        let batch = self.random_batch();
        let started = Instant::now();
        self.optimisation.step(std::slice::from_ref(&batch), &mut ())?;
        match self.steps {
            0 => self.optimisation.profile().start(),
            _ => self.seconds.push(started.elapsed().as_secs_f64()),
        }
        self.steps += 1;
        Ok(())
    }

    fn random_batch(&self) -> TokenBatch {
        let tokens = self.layout.tokens();
        let token = |at: usize| (at as u32 + 31 * self.steps).wrapping_mul(2_654_435_761) >> 7;
        let ids: Vec<u32> = (0..=tokens).map(|at| token(at) % self.vocabulary).collect();
        TokenBatch {
            layout: self.layout,
            targets: ids[1..].to_vec(),
            ids: ids[..tokens].to_vec(),
            weights: None,
        }
    }

    /// The times of the steps so far.
    /// # Panics
    /// If there were fewer than two: none is measured yet.
    #[track_caller]
    pub fn times(&mut self) -> StepTimes {
        assert!(!self.seconds.is_empty(), "no step is measured yet");
        let steps = self.seconds.len() as f64;
        let parts = self.optimisation.profile().parts().iter().map(|part| StepPart {
            name: match part.pass {
                Pass::Forward => format!("{} forward", part.name),
                Pass::Backward => format!("{} backward", part.name),
                Pass::Update => part.name.to_owned(),
            },
            seconds: part.seconds / steps,
            flops: part.flops as f64 / steps,
        });
        let parts = parts.collect();
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let cost = self.optimisation.gpt().cost(self.layout);
        StepTimes {
            sparsity: self.sparsity,
            tokens: self.layout.tokens(),
            seconds: seconds[seconds.len() / 2],
            flops: cost.forward_flops + cost.backward_flops,
            parts,
        }
    }
}

impl StepTimes {
    /// Tokens per second, by the median.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Operations per second, by the median.
    pub fn flops_per_second(&self) -> f64 {
        self.flops as f64 / self.seconds
    }

    /// How many times faster than another.
    pub fn realised_speedup(&self, other: &Self) -> f64 {
        other.seconds / self.seconds
    }

    /// How many times fewer operations than another.
    pub fn theoretical_speedup(&self, other: &Self) -> f64 {
        other.flops as f64 / self.flops as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_measured_after_the_first() {
        let mut config = Config::from_preset("micro").unwrap();
        config.model.vocabulary = 40;
        (config.train.batch, config.train.context) = (2, 16);
        let bench = |sparsity: f64| {
            let mut config = config.clone();
            config.sparsity.sparsity = sparsity;
            let mut bench = StepBench::new(&config).unwrap();
            (0..3).for_each(|_| bench.step().unwrap());
            bench.times()
        };
        let (dense, sparse) = (bench(0.0), bench(0.75));
        assert_eq!((dense.tokens, dense.sparsity, sparse.sparsity), (32, 0.0, 0.75));
        assert!(sparse.theoretical_speedup(&dense) > 1.0 && sparse.realised_speedup(&dense) > 0.0);
        for pass in ["forward", "backward"] {
            let part = sparse.parts.iter().find(|part| part.name == format!("output head {pass}"));
            assert!(part.is_some_and(|part| part.flops > 0.0 && part.seconds > 0.0), "{pass}");
        }
        let flops: f64 = sparse.parts.iter().map(|part| part.flops).sum();
        assert!((flops - sparse.flops as f64).abs() < 1.0, "parts have all the work: {flops}");
    }
}
