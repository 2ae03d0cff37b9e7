//! One training of the grid: a cell.

use super::answer::{Answerer, by_likelihood, candidates};
use super::encode::{Encoded, Encoder, Fit, batch};
use super::settings::{Settings, Weights};
use super::start::Start;
use super::{Observer, Progress};
use crate::adamw::AdamW;
use crate::architecture::PROMPT;
use crate::config::Config;
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use crate::tasks::{Example, Task};
use mediswift_data::Tokenizer;
use mediswift_engine::{Arena, LossSum, Parameters};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI32, Ordering};

/// Which training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Stage that it belongs to.
    pub stage: String,
    /// Examples per step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Seed of the order of examples and of the prompt.
    pub seed: u64,
}

impl Cell {
    /// Its name in the run folder.
    pub fn name(&self) -> String {
        format!("{}-batch{}-lr{:e}-seed{}", self.stage, self.batch, self.lr, self.seed)
    }
}

/// What became of a cell: one JSON file each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    /// The cell.
    #[serde(flatten)]
    pub cell: Cell,
    /// The task's score on dev after the best epoch.
    pub dev_score: f64,
    /// Mean loss of dev's target tokens after the best epoch, in nats.
    pub dev_loss: f64,
    /// The best epoch, from 1.
    pub best_epoch: usize,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// Steps made.
    pub steps: usize,
    /// How the training examples fitted.
    pub fit: Fit,
}

impl CellReport {
    /// Whether this is better than `other`: by dev score, then by dev loss.
    pub fn beats(&self, other: &CellReport) -> bool {
        let (score, best) = (self.dev_score, other.dev_score);
        score > best || score == best && self.dev_loss < other.dev_loss
    }
}

/// One pass over the training examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean loss of the target tokens met, in nats.
    pub train_loss: f64,
    /// Mean loss of dev's target tokens after it, in nats.
    pub dev_loss: f64,
    /// The task's score on dev after it.
    pub dev_score: f64,
}

/// What all cells of a stage share.
pub struct Trainer<'a> {
    /// The task.
    pub task: &'a dyn Task,
    /// The run's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The run's settings.
    pub settings: &'a Settings,
    /// What to train on.
    pub train: &'a [Example],
    /// What to stop by.
    pub dev: &'a [Example],
    /// Most passes.
    pub epochs: usize,
}

impl Trainer<'_> {
    /// Trains from `start`; nothing if `stop` came before the end. The parameters are those of the
    /// best epoch.
    /// # Errors
    /// If no example fits the model, or a loss or a gradient is not finite.
    pub fn train(
        &self,
        cell: &Cell,
        start: &Start,
        observer: &mut dyn Observer,
        stop: &AtomicI32,
    ) -> Result<Option<(CellReport, Parameters)>, Error> {
        let gpt = Gpt::from_parameters(&start.config, start.parameters.clone())?;
        let known = self.train.iter().chain(self.dev);
        let encoder = Encoder::new(self.task, self.tokenizer, &gpt, known);
        let (train, fit) = encoder.encode_to_train(self.train)?;
        let (dev, _) = encoder.encode(self.dev);
        let per_epoch = train.len().div_ceil(cell.batch);
        let steps = self.epochs * per_epoch;
        let config = self.settings.training(&start.config, cell.batch, cell.lr, steps);
        let mut optimisation = self.optimisation(gpt, &config);
        let mut report = CellReport {
            cell: cell.clone(),
            dev_score: f64::NEG_INFINITY,
            dev_loss: f64::INFINITY,
            best_epoch: 0,
            epochs: Vec::new(),
            steps: 0,
            fit,
        };
        let mut best = None;
        for epoch in 1..=self.epochs {
            let mut loss = LossSum::default();
            for examples in order(train.len(), cell.seed, epoch).chunks(cell.batch) {
                if stop.load(Ordering::Relaxed) != 0 {
                    return Ok(None);
                }
                let micro_batches = micro_batches(&train, examples, config.train.micro_batch);
                loss = loss + optimisation.step(&micro_batches)?.loss;
                let step = optimisation.steps_done();
                observer.stepped(&Progress { cell, epoch, step, steps, loss: loss.mean() });
            }
            let gpt = optimisation.gpt();
            let dev_loss = mean_loss(gpt, &dev, config.train.micro_batch)?;
            let micro_batch = config.train.micro_batch;
            let mut answerer =
                Answerer::new(gpt, &encoder, self.task, self.tokenizer, &train, micro_batch);
            let answers = if self.settings.by_likelihood() && self.task.one_label() {
                let targets = candidates(self.task, &encoder);
                by_likelihood(self.task, &answerer.likelihoods(&dev, &targets)?, 0.0)
            } else {
                answerer.generate(&dev)?
            };
            let form = &self.settings.finetune.form;
            let dev_score = self.task.score(form, self.dev, &answers)[0].value;
            report.epochs.push(Epoch { train_loss: loss.mean(), dev_loss, dev_score });
            report.steps = optimisation.steps_done();
            let epochs = report.epochs.len();
            let better = dev_score > report.dev_score
                || dev_score == report.dev_score && dev_loss < report.dev_loss;
            if better || best.is_none() {
                (report.dev_score, report.dev_loss, report.best_epoch) =
                    (dev_score, dev_loss, epochs);
                best = Some(gpt.parameters().clone());
            }
            observer.evaluated(cell, epoch, &report.epochs[epochs - 1]);
            if epochs - report.best_epoch >= self.settings.finetune.patience {
                break;
            }
        }
        Ok(best.map(|parameters| (report, parameters)))
    }

    /// AdamW with the learning rates that the settings give weights and prompt.
    fn optimisation(&self, gpt: Gpt, config: &Config) -> Optimisation {
        let tune = &self.settings.finetune;
        let weights = if tune.weights == Weights::Frozen { 0.0 } else { 1.0 };
        let prompt = if tune.prompt_lr > 0.0 { tune.prompt_lr / config.train.lr } else { 1.0 };
        let factor = |name: &str| if name == PROMPT { prompt } else { weights };
        let factors = gpt.parameters().iter().map(|(_, p)| factor(p.name)).collect();
        let adamw = AdamW::new(&config.optimiser, gpt.parameters().layout()).with_factors(factors);
        Optimisation::resume(gpt, adamw, config)
    }
}

/// The order of the examples in an epoch: a function of seed and epoch.
fn order(examples: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..examples).collect();
    for last in (1..examples).rev() {
        order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
    order
}

/// The examples of a step, those of like length together.
fn micro_batches(examples: &[Encoded], chosen: &[usize], most: usize) -> Vec<TokenBatch> {
    let mut sorted: Vec<&Encoded> = chosen.iter().map(|&at| &examples[at]).collect();
    sorted.sort_by_key(|e| e.prefix.len() + e.target.len());
    let part = |part: &[&Encoded]| batch(part.iter().map(|e| (&*e.prefix, &*e.target)));
    sorted.chunks(most).map(part).collect()
}

/// Mean loss of the target tokens of all examples that fit; infinite without any.
fn mean_loss(gpt: &Gpt, examples: &[Option<Encoded>], most: usize) -> Result<f64, Error> {
    let encoded: Vec<Encoded> = examples.iter().flatten().cloned().collect();
    let all: Vec<usize> = (0..encoded.len()).collect();
    let (mut arena, mut loss) = (Arena::default(), LossSum::default());
    for batch in micro_batches(&encoded, &all, most) {
        loss = loss + gpt.evaluate(&batch, &mut arena)?;
    }
    Ok(if loss.weight > 0.0 { loss.mean() } else { f64::INFINITY })
}
