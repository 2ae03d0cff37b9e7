//! One training of the grid: a cell.

use super::answer::{Answerer, by_likelihood, candidates};
use super::encode::{Encoded, ExampleEncoder, Fit, batch};
use super::settings::{Settings, Weights};
use super::start::Start;
use crate::architecture::PROMPT;
use crate::config::Config;
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use crate::tasks::{Example, Task};
use crate::watch::{Progress, Watch};
use mediswift_data::Tokenizer;
use mediswift_engine::{Arena, LossSum, Parameters};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Deserializer, Serialize};

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
    /// Mean loss of dev's target tokens after the best epoch, in nats; infinite, `null` in the file, if
    /// none of its examples fits the model.
    #[serde(deserialize_with = "null_is_infinite")]
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
    /// Whether this is better than `other` on dev.
    pub(crate) fn beats(&self, other: &CellReport) -> bool {
        is_better((self.dev_score, self.dev_loss), (other.dev_score, other.dev_loss))
    }
}

/// One pass over the training examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean loss of the target tokens met, in nats.
    pub train_loss: f64,
    /// Mean loss of dev's target tokens after it, in nats; as in [`CellReport`].
    #[serde(deserialize_with = "null_is_infinite")]
    pub dev_loss: f64,
    /// The task's score on dev after it.
    pub dev_score: f64,
}

fn null_is_infinite<'de, D: Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::INFINITY))
}

/// What all cells of a stage share.
pub(crate) struct Training<'a> {
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

impl Training<'_> {
    /// Trains from `start`. The parameters are those of the best epoch.
    /// # Errors
    /// If no example fits the model, a loss, a gradient or an answer is not finite, or `watch` asks to
    /// stop.
    /// # Panics
    /// If there is no epoch to train.
    pub fn run(
        &self,
        cell: &Cell,
        start: &Start,
        watch: &mut dyn Watch,
    ) -> Result<(CellReport, Parameters), Error> {
        let gpt = Gpt::from_parameters(&start.config, start.parameters.clone())?;
        let known = self.train.iter().chain(self.dev);
        let encoder = ExampleEncoder::new(self.task, self.tokenizer, &gpt, known);
        let (train, fit) = encoder.encode_to_train(self.train, watch)?;
        let (dev, _) = encoder.encode(self.dev, watch)?;
        let steps = self.epochs.saturating_mul(train.len().div_ceil(cell.batch));
        let config = self.settings.training(&start.config, cell.batch, cell.lr, steps);
        let mut optimisation = self.optimisation(gpt, &config)?;
        let (mut epochs, mut best): (Vec<Epoch>, Option<(usize, Parameters)>) = (Vec::new(), None);
        for epoch in 1..=self.epochs {
            let mut loss = LossSum::default();
            for examples in order(train.len(), cell.seed, epoch).chunks(cell.batch) {
                let micro_batches = micro_batches(&train, examples, config.train.micro_batch);
                loss = loss + optimisation.step(&micro_batches, watch)?.loss;
                let step = optimisation.steps() as usize;
                watch.tell(Progress::Tuned { epoch, step, steps, loss: loss.mean() })?;
            }
            let (gpt, train_loss) = (optimisation.gpt(), loss.mean());
            let dev_loss = mean_loss(gpt, &dev, config.train.micro_batch, watch)?;
            let dev_score = self.score(gpt, &encoder, &train, &dev, watch)?;
            epochs.push(Epoch { train_loss, dev_loss, dev_score });
            let known = |best: usize| (epochs[best - 1].dev_score, epochs[best - 1].dev_loss);
            if best.as_ref().is_none_or(|(best, _)| is_better((dev_score, dev_loss), known(*best)))
            {
                best = Some((epoch, gpt.parameters().clone()));
            }
            watch.tell(Progress::Passed { epoch, train_loss, dev_loss, dev_score })?;
            let best_epoch = best.as_ref().map_or(epoch, |(best, _)| *best);
            if epoch - best_epoch >= self.settings.finetune.patience {
                break;
            }
        }
        let (best_epoch, parameters) = best.expect("a training has an epoch");
        let Epoch { dev_loss, dev_score, .. } = epochs[best_epoch - 1];
        let (cell, steps) = (cell.clone(), optimisation.steps() as usize);
        let report = CellReport { cell, dev_score, dev_loss, best_epoch, epochs, steps, fit };
        Ok((report, parameters))
    }

    /// The task's score on dev.
    fn score(
        &self,
        gpt: &Gpt,
        encoder: &ExampleEncoder<'_>,
        train: &[Encoded],
        dev: &[Option<Encoded>],
        watch: &mut dyn Watch,
    ) -> Result<f64, Error> {
        let micro_batch = self.settings.micro_batch();
        let mut answerer =
            Answerer::new(gpt, encoder, self.task, self.tokenizer, train, micro_batch);
        let answers = if self.settings.by_likelihood() && self.task.one_label() {
            let targets = candidates(self.task, encoder);
            by_likelihood(self.task, &answerer.likelihoods(dev, &targets, watch)?, 0.0)
        } else {
            answerer.generate(dev, watch)?
        };
        Ok(self.task.score(&self.settings.finetune.form, self.dev, &answers)[0].value)
    }

    /// A model with the learning rates that the settings give weights and prompt.
    fn optimisation(&self, gpt: Gpt, config: &Config) -> Result<Optimisation, Error> {
        let tune = &self.settings.finetune;
        let weights = if tune.weights == Weights::Frozen { 0.0 } else { 1.0 };
        let prompt = if tune.prompt_lr > 0.0 { tune.prompt_lr / config.train.lr } else { 1.0 };
        let factor = |name: &str| if name == PROMPT { prompt } else { weights };
        let factors = gpt.parameters().iter().map(|(_, p)| factor(p.name)).collect();
        Ok(Optimisation::new(gpt, config)?.with_factors(factors))
    }
}

/// Whether a dev score with a dev loss is better than others: by score, then by loss.
fn is_better((score, loss): (f64, f64), (best, least): (f64, f64)) -> bool {
    score > best || score == best && loss < least
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
fn mean_loss(
    gpt: &Gpt,
    examples: &[Option<Encoded>],
    most: usize,
    watch: &mut dyn Watch,
) -> Result<f64, Error> {
    let encoded: Vec<Encoded> = examples.iter().flatten().cloned().collect();
    let all: Vec<usize> = (0..encoded.len()).collect();
    let (mut arena, mut loss) = (Arena::default(), LossSum::default());
    for (at, batch) in micro_batches(&encoded, &all, most).iter().enumerate() {
        watch.tell(Progress::Judging { done: at * most, all: all.len() })?;
        loss = loss + gpt.evaluate(batch, &mut arena)?;
    }
    Ok(if loss.weight > 0.0 { loss.mean() } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_nothing_was_measured_for_comes_back() {
        let cell = Cell { stage: "last".into(), batch: 2, lr: 1e-3, seed: 1 };
        let epoch = Epoch { train_loss: 1.5, dev_loss: f64::INFINITY, dev_score: 0.0 };
        let report = CellReport {
            cell,
            dev_score: 0.0,
            dev_loss: f64::INFINITY,
            best_epoch: 1,
            epochs: vec![epoch],
            steps: 3,
            fit: Fit::default(),
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<CellReport>(&text).unwrap(), report);
    }
}
