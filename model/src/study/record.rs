//! [`Record`]: what is kept of a finished cell, in a few kilobytes.

use crate::curves::{Curves, Point};
use crate::error::Error;
use crate::finetune::report::TuningReport;
use crate::run::{self, json};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Most points of a curve that are kept.
const POINTS: usize = 120;

/// A finished cell: `NAME.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub cell: String,
    /// Its settings, as TOML.
    pub settings: String,
    /// What the data is known by that it was trained, measured or tuned on; nothing for other work than training in
    /// records of older programs.
    pub data: String,
    /// Where it ran.
    pub machine: Machine,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a cell ran on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// Instruction set.
    pub isa: String,
    /// Threads of the cell.
    pub threads: usize,
    /// Cells that ran at the same time, at most.
    pub jobs: usize,
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Pre-training.
    Pretrained(Box<Pretrained>),
    /// The loss on other data.
    Evaluated {
        /// In nats per token.
        val_loss: f64,
        /// Tokens that it is the mean of.
        tokens: u64,
    },
    /// Fine-tuning.
    Tuned {
        /// What is measured.
        metric: String,
        /// As a fraction, by seed.
        per_seed: Vec<f64>,
    },
}

/// What came of pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pretrained {
    /// Optimiser steps.
    pub step: usize,
    /// Mean loss of the last step's batch, in nats per token.
    pub train_loss: Option<f64>,
    /// Mean validation loss at the end.
    pub val_loss: f64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Floating-point operations of all training steps, as executed.
    pub flops: f64,
    /// Seconds of all training steps; evaluating and saving not counted.
    pub seconds: f64,
    /// Stored parameters.
    pub parameters: usize,
    /// Weights of linear layers that are there.
    pub nnz: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// BLAKE3 over all parameters.
    pub weights_hash: String,
    /// Training losses, means of neighbouring steps.
    pub training: Curve,
    /// Validation losses.
    pub validation: Curve,
}

/// Losses, and what it took to get there: columns of the same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Tokens trained on.
    pub tokens: Vec<u64>,
    /// Operations executed.
    pub flops: Vec<f64>,
    /// Seconds of training steps.
    pub seconds: Vec<f64>,
    /// Nats per token.
    pub loss: Vec<f64>,
}

/// A number that needs few letters: to six digits.
fn brief(number: f64) -> f64 {
    format!("{number:.5e}").parse().expect("a number")
}

impl Curve {
    /// At most [`POINTS`] points, each the mean loss of as many neighbours, at the last one's place.
    fn of(points: &[Point]) -> Self {
        let mut curve = Self::default();
        for part in points.chunks(points.len().div_ceil(POINTS).max(1)) {
            let last = part[part.len() - 1];
            let mean = part.iter().map(|point| point.loss).sum::<f64>() / part.len() as f64;
            curve.tokens.push(last.tokens as u64);
            curve.flops.push(brief(last.flops));
            curve.seconds.push(brief(3600.0 * last.hours));
            curve.loss.push(brief(mean));
        }
        curve
    }

    /// The points.
    pub fn points(&self) -> Vec<Point> {
        let point = |at: usize| Point {
            tokens: self.tokens[at] as f64,
            flops: self.flops[at],
            hours: self.seconds[at] / 3600.0,
            loss: self.loss[at],
        };
        (0..self.loss.len()).map(point).collect()
    }

    /// Seconds until the loss was first as low, between points along a line; none if it never was.
    pub fn seconds_to(&self, loss: f64) -> Option<f64> {
        let at = self.loss.iter().position(|found| *found <= loss)?;
        let Some(before) = at.checked_sub(1) else { return Some(self.seconds[0]) };
        let part = (self.loss[before] - loss) / (self.loss[before] - self.loss[at]);
        Some(self.seconds[before] + part * (self.seconds[at] - self.seconds[before]))
    }
}

/// The parts of a run's `report.json` that are kept.
#[derive(Deserialize)]
struct Finished {
    step: usize,
    train_loss: Option<f64>,
    val_loss: f64,
    flops: f64,
    parameters: usize,
    nnz: usize,
    weights_hash: String,
}

/// The parts of a run's `environment.json` that are kept.
#[derive(Deserialize)]
struct Environment {
    cpu: String,
    isa: String,
    threads: usize,
}

/// The parts of what `eval --json` prints that are kept.
#[derive(Deserialize)]
struct Evaluation {
    val_loss: f64,
    tokens: u64,
}

impl Outcome {
    /// Of the finished run of pre-training in the folder `place`.
    /// # Errors
    /// If a file of it is missing or damaged.
    pub(super) fn pretrained(place: &Path) -> Result<Self, Error> {
        Ok(Self::Pretrained(Pretrained::read(place)?.into()))
    }

    /// Of an evaluation of the run in `place`, which `printed` what it found, as JSON.
    /// # Errors
    /// If that is malformed.
    pub(super) fn evaluated(place: &Path, printed: &str) -> Result<Self, Error> {
        let Evaluation { val_loss, tokens } = serde_json::from_str(printed)
            .map_err(|error| Error::damaged(place, error.to_string()))?;
        Ok(Self::Evaluated { val_loss, tokens })
    }

    /// Of the finished run of fine-tuning in the folder `place`.
    /// # Errors
    /// If its report is missing or damaged.
    pub(super) fn tuned(place: &Path) -> Result<Self, Error> {
        let TuningReport { metric, per_seed, .. } = json::read(&place.join("report.json"))?;
        Ok(Self::Tuned { metric, per_seed })
    }
}

impl Machine {
    /// What the run in the folder `place` ran on, with so many cells at the same time.
    pub(super) fn of_run(place: &Path, jobs: usize) -> Self {
        match json::read::<Environment>(&place.join("environment.json")) {
            Ok(Environment { cpu, isa, threads }) => Self { cpu, isa, threads, jobs },
            // An imported run has none.
            Err(_) => Self { cpu: String::new(), isa: String::new(), threads: 0, jobs },
        }
    }
}

impl Pretrained {
    fn read(place: &Path) -> Result<Self, Error> {
        let Finished { step, train_loss, val_loss, flops, parameters, nnz, weights_hash } =
            json::read(&place.join("report.json"))?;
        let curves = Curves::read(place)?;
        let vocabulary = run::read_config(place)?.model.vocabulary;
        let last = curves.training.last();
        let last = last.ok_or_else(|| Error::damaged(place, "no step has a loss"))?;
        Ok(Self {
            step,
            train_loss: train_loss.map(brief),
            val_loss,
            tokens: last.tokens as u64,
            flops,
            seconds: brief(3600.0 * last.hours),
            parameters,
            nnz,
            vocabulary,
            weights_hash,
            training: Curve::of(&curves.training),
            validation: Curve::of(&curves.validation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_thinned_to_means() {
        let point = |at: usize| Point {
            tokens: (10 * at) as f64,
            flops: 1e9 * at as f64,
            hours: at as f64 / 3600.0,
            loss: at as f64,
        };
        let points: Vec<Point> = (1..=240).map(point).collect();
        let curve = Curve::of(&points);
        assert_eq!(curve.loss.len(), POINTS);
        assert_eq!((curve.tokens[0], curve.loss[0], curve.seconds[119]), (20, 1.5, 240.0));
        assert_eq!(curve.points().len(), POINTS);
        assert_eq!(Curve::of(&points[..7]).loss, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(Curve::of(&[]), Curve::default());
    }

    #[test]
    fn a_loss_is_reached_between_two_evaluations() {
        let curve = Curve {
            tokens: vec![1, 2, 3],
            flops: vec![1.0, 2.0, 3.0],
            seconds: vec![10.0, 20.0, 40.0],
            loss: vec![5.0, 4.0, 3.0],
        };
        let found = [6.0, 5.0, 4.5, 3.25, 2.0].map(|loss| curve.seconds_to(loss));
        assert_eq!(found, [Some(10.0), Some(10.0), Some(15.0), Some(35.0), None]);
    }
}
