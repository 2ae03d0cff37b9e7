//! [`Trainer`]: a configuration and a dataset become a run folder with a trained model.
//!
//! The loop is short because its parts keep their promises: [`Optimisation::step`] makes one update
//! or none, [`crate::checkpoint`] saves whole states or none, and the order of the data is a
//! function of seed and position. So a run that is interrupted and resumed has the bits of one that
//! never was: weights, moments, data, learning rate and logs.

use crate::checkpoint::{self, DataState, Latest, Snapshot, weights_hash};
use crate::config::{Config, OnNonFinite};
use crate::error::Error;
use crate::evaluate::{Windows, validation_loss, validation_tokens};
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use crate::run::{Line, Log, RunFolder, StepMetrics, Validation, read_config};
use crate::sparsity::LayerSparsity;
use crate::tensorboard::Events;
use mediswift_data::{Batches, Dataset, Position, Split};
use mediswift_engine::TokenLayout;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

/// A run between two optimiser steps.
pub struct Trainer {
    config: Config,
    dataset: Arc<Dataset>,
    batches: Batches,
    folder: RunFolder,
    optimisation: Optimisation,
    metrics: Log<StepMetrics>,
    validations: Log<Validation>,
    events: Events,
    /// Floating-point operations of an optimiser step: the exact work of every operator.
    flops_per_step: f64,
    /// The last optimiser step, if there was one.
    last: Option<StepMetrics>,
    /// The last evaluation, if there was one.
    validation: Option<Validation>,
    /// The step of the newest checkpoint.
    saved: Option<usize>,
    /// Whether and how the run was taken up: what the observer is told first.
    resumed: Option<Resumed>,
}

/// How a run was taken up.
struct Resumed {
    checkpoint: Option<PathBuf>,
    skipped: Vec<String>,
}

/// Is told how a run gets on; every method may be left out.
pub trait Observer {
    /// The run was taken up at `step`, from `checkpoint` or, without one, from the beginning;
    /// `skipped` has a warning for every newer checkpoint that cannot be used.
    fn resumed(&mut self, step: usize, checkpoint: Option<&Path>, skipped: &[String]) {
        let _ = (step, checkpoint, skipped);
    }
    /// `done` of the `all` micro-batches of the step under way are done, but not all.
    fn accumulated(&mut self, done: usize, all: usize) {
        let _ = (done, all);
    }
    /// A step made no update because of `problem`, and the run goes on.
    fn skipped(&mut self, problem: &Error) {
        let _ = problem;
    }
    /// An optimiser step is done.
    fn stepped(&mut self, progress: &Progress<'_>) {
        let _ = progress;
    }
    /// The validation loss was measured.
    fn evaluated(&mut self, validation: &Validation) {
        let _ = validation;
    }
    /// A checkpoint was saved, and would survive a power loss.
    fn saved(&mut self, step: usize, checkpoint: &Path) {
        let _ = (step, checkpoint);
    }
}

/// Watches nothing.
impl Observer for () {}

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The step just done.
    pub metrics: &'a StepMetrics,
    /// Steps of the whole run.
    pub steps: usize,
    /// Tokens per second of training, over all steps so far.
    pub tokens_per_second: f64,
    /// Floating-point operations per second of the step just done, by the work of every operator.
    pub flops_per_second: f64,
    /// Seconds that the steps left will take at that speed; evaluating and saving not counted.
    pub seconds_left: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished(Box<Report>),
    /// A signal asked to stop; the state is saved.
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// Steps done.
        step: usize,
    },
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Optimiser steps done.
    pub step: usize,
    /// Mean loss of the last step's batch, in nats per token.
    pub train_loss: f64,
    /// Mean loss on the validation windows, in nats per token.
    pub val_loss: f64,
    /// Tokens per second of training; evaluating and saving are not counted.
    pub tokens_per_second: f64,
    /// Floating-point operations of all training steps: the exact work of every operator.
    pub flops: f64,
    /// BLAKE3 over all parameters in name order.
    pub weights_hash: String,
    /// Stored parameters.
    pub parameters: usize,
    /// Stored weights of the layers that sparsity applies to.
    pub nnz: usize,
    /// Sparsity of every such layer.
    pub layers: Vec<LayerSparsity>,
}

impl Trainer {
    /// Starts a run in the folder `out`, which must not exist or be empty.
    /// # Errors
    /// If the configuration is out of range or does not fit the data, or the folder is in use.
    pub fn start(config: Config, dataset: Arc<Dataset>, out: &Path) -> Result<Self, Error> {
        let (mut config, batches) = fit(config, &dataset)?;
        let gpt = Gpt::new(&config)?;
        config.kernels.plans = gpt.plans();
        let optimisation = Optimisation::new(gpt, &config);
        let folder = RunFolder::create(out, &config, &dataset)?;
        Self::assemble(config, dataset, batches, folder, optimisation)
    }

    /// Takes up the run in the folder `out` at its newest complete checkpoint; a run that was
    /// stopped before its first one starts again.
    /// # Errors
    /// If there is no run, or one with other settings or other data; if there are checkpoints but
    /// none is complete; if the folder is in use.
    pub fn resume(mut config: Config, dataset: Arc<Dataset>, out: &Path) -> Result<Self, Error> {
        if config.kernels.plans.is_empty() {
            // Other plans would give other bits.
            config.kernels = read_config(out)?.kernels;
        }
        let (config, mut batches) = fit(config, &dataset)?;
        let folder = RunFolder::resume(out, &config, &dataset)?;
        let Latest { checkpoint, skipped } = checkpoint::latest(&folder.checkpoints())?;
        let optimisation = match &checkpoint {
            Some(checkpoint) => {
                checkpoint.check_run(&config, &dataset.fingerprint())?;
                let gpt = checkpoint.model(&config)?;
                let adamw = checkpoint.optimiser(gpt.parameters())?;
                let (sequences, windows) =
                    (checkpoint.manifest.data.sequences, batches.windows_per_epoch());
                let position = Position { epoch: sequences / windows, index: sequences % windows };
                batches.seek(position)?;
                Optimisation::resume(gpt, adamw, &config)
            }
            None if skipped.is_empty() => Optimisation::new(Gpt::new(&config)?, &config),
            None => {
                let problem = format!("no checkpoint can be used: {}", skipped.join("; "));
                return Err(Error::Checkpoint { path: folder.checkpoints(), problem });
            }
        };
        // What an interrupted save or removal left.
        checkpoint::prune(&folder.checkpoints(), &config.checkpoint)?;
        let mut trainer = Self::assemble(config, dataset, batches, folder, optimisation)?;
        trainer.saved = checkpoint.as_ref().map(|_| trainer.step());
        let checkpoint = checkpoint.map(|checkpoint| checkpoint.path);
        trainer.resumed = Some(Resumed { checkpoint, skipped });
        Ok(trainer)
    }

    fn assemble(
        config: Config,
        dataset: Arc<Dataset>,
        batches: Batches,
        folder: RunFolder,
        optimisation: Optimisation,
    ) -> Result<Self, Error> {
        let step = optimisation.steps_done();
        let (metrics, mut steps) = folder.log::<StepMetrics>(step)?;
        if steps.iter().map(|line| line.step).ne(1..=step) {
            let (path, found) = (folder.path().join(StepMetrics::FILE), steps.len());
            let problem = format!("holds {found} of the steps 1 to {step}");
            return Err(Error::config(path.display().to_string(), problem));
        }
        let (validations, mut evaluations) = folder.log::<Validation>(step)?;
        let events = folder.events(&steps, &evaluations)?;
        let gpt = optimisation.gpt();
        folder.describe_sparsity(&gpt.layer_sparsity(&config.sparsity))?;
        let (sequences, context) = (config.train.batch, config.train.context);
        let cost = gpt.cost(TokenLayout { sequences, context });
        Ok(Self {
            config,
            dataset,
            batches,
            folder,
            optimisation,
            metrics,
            validations,
            events,
            flops_per_step: (cost.forward_flops + cost.backward_flops) as f64,
            last: steps.pop(),
            validation: evaluations.pop(),
            saved: None,
            resumed: None,
        })
    }

    /// Optimiser steps done.
    pub fn step(&self) -> usize {
        self.optimisation.steps_done()
    }

    /// The model.
    pub fn gpt(&self) -> &Gpt {
        self.optimisation.gpt()
    }

    /// Trains until all steps are done, or until `stop` holds the number of a signal: then the step
    /// under way is given up after its current micro-batch, and the state before it is saved.
    /// # Errors
    /// If a loss or a gradient is not finite (the step made no update) and not to be skipped, or the
    /// folder cannot be written.
    pub fn run(mut self, observer: &mut dyn Observer, stop: &AtomicI32) -> Result<Outcome, Error> {
        if let Some(Resumed { checkpoint, skipped }) = self.resumed.take() {
            observer.resumed(self.step(), checkpoint.as_deref(), &skipped);
        }
        loop {
            let evaluated = self.evaluate_if_due(observer, stop)?;
            let signal = stop.load(Ordering::Relaxed);
            if signal != 0 || self.is_due(self.config.checkpoint.every) {
                self.save(observer)?;
            }
            if evaluated && self.step() >= self.config.train.steps {
                return self.finish();
            }
            if signal != 0 {
                return Ok(Outcome::Interrupted { signal, step: self.step() });
            }
            self.train_step(observer, stop)?;
        }
    }

    /// Whether something that happens every `every` steps, and after the last, is due now.
    fn is_due(&self, every: usize) -> bool {
        let step = self.step();
        step >= self.config.train.steps || step > 0 && every > 0 && step.is_multiple_of(every)
    }

    /// Makes a step; none if `stop` came in between.
    fn train_step(&mut self, observer: &mut dyn Observer, stop: &AtomicI32) -> Result<(), Error> {
        let started = Instant::now();
        let position = self.batches.position();
        let train = &self.config.train;
        let micro_batches: Vec<TokenBatch> = (0..train.batch)
            .step_by(train.micro_batch)
            .map(|first| {
                let count = train.micro_batch.min(train.batch - first);
                let sequences = (0..count).map(|_| self.batches.next_sequence());
                Ok(TokenBatch::new(sequences.collect::<Result<Vec<_>, _>>()?.into_iter()))
            })
            .collect::<Result<_, Error>>()?;
        let lr = self.optimisation.learning_rate();
        let outcome = self.optimisation.step_unless(&micro_batches, &mut |done| {
            observer.accumulated(done, micro_batches.len());
            stop.load(Ordering::Relaxed) != 0
        });
        let (loss, grad_norm) = match outcome {
            Ok(Some(done)) => (done.loss.mean(), done.grad_norm),
            Ok(None) => return Ok(self.batches.seek(position)?),
            Err(error) if train.on_nonfinite == OnNonFinite::Skip && may_be_skipped(&error) => {
                self.optimisation.skip();
                observer.skipped(&error);
                (f64::NAN, f64::NAN)
            }
            Err(error) => return Err(error),
        };
        let before = self.last.as_ref().map_or(0.0, |last| last.seconds);
        let seconds = started.elapsed().as_secs_f64();
        let metrics = StepMetrics {
            step: self.optimisation.steps_done(),
            loss,
            lr,
            grad_norm,
            tokens: (self.optimisation.steps_done() * train.batch * train.context) as u64,
            seconds: before + seconds,
            skipped: self.optimisation.steps_skipped(),
        };
        self.metrics.append(&metrics)?;
        self.events.step(&metrics)?;
        let seconds_per_step = metrics.seconds / metrics.step as f64;
        observer.stepped(&Progress {
            metrics: &metrics,
            steps: train.steps,
            tokens_per_second: metrics.tokens as f64 / metrics.seconds,
            flops_per_second: self.flops_per_step / seconds,
            seconds_left: (train.steps - metrics.step) as f64 * seconds_per_step,
        });
        self.last = Some(metrics);
        Ok(())
    }

    /// Evaluates where it is time to; false if `stop` came in between.
    fn evaluate_if_due(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicI32,
    ) -> Result<bool, Error> {
        let step = self.step();
        let known = self.validation.as_ref().is_some_and(|last| last.step == step);
        if known || !self.is_due(self.config.eval.every) {
            return Ok(true);
        }
        let windows = Windows {
            context: self.config.train.context,
            sequences: self.config.eval.sequences,
            micro_batch: self.config.train.micro_batch,
        };
        let stopped = || stop.load(Ordering::Relaxed) != 0;
        let Some(found) = validation_loss(self.gpt(), &self.dataset, windows, stopped)? else {
            return Ok(false);
        };
        let validation = Validation { step, val_loss: found.val_loss };
        self.validations.append(&validation)?;
        self.events.evaluation(&validation)?;
        observer.evaluated(&validation);
        self.validation = Some(validation);
        Ok(true)
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        let step = self.step();
        if self.saved == Some(step) {
            return Ok(());
        }
        self.metrics.sync()?;
        self.validations.sync()?;
        let Position { epoch, index } = self.batches.position();
        let snapshot = Snapshot {
            config: &self.config,
            parameters: self.optimisation.gpt().parameters(),
            optimiser: self.optimisation.adamw(),
            data: DataState {
                sequences: epoch * self.batches.windows_per_epoch() + index,
                fingerprint: self.dataset.fingerprint(),
                tokenizer: self.dataset.tokenizer_hash(),
            },
        };
        let path = checkpoint::save(&self.folder.checkpoints(), &snapshot)?;
        checkpoint::prune(&self.folder.checkpoints(), &self.config.checkpoint)?;
        self.saved = Some(step);
        observer.saved(step, &path);
        Ok(())
    }

    fn finish(self) -> Result<Outcome, Error> {
        let gpt = self.gpt();
        let (last, validation) =
            self.last.as_ref().zip(self.validation.as_ref()).expect("a step and an evaluation");
        let layers = gpt.layer_sparsity(&self.config.sparsity);
        let report = Report {
            step: last.step,
            train_loss: last.loss,
            val_loss: validation.val_loss,
            tokens_per_second: last.tokens as f64 / last.seconds,
            flops: self.flops_per_step * last.step as f64,
            weights_hash: weights_hash(gpt.parameters()),
            parameters: gpt.parameters().count(),
            nnz: layers.iter().map(|layer| layer.nnz).sum(),
            layers,
        };
        self.folder.finish(&self.config, &report)?;
        Ok(Outcome::Finished(Box::new(report)))
    }
}

/// Whether a step failed because of its data, so that the next one may succeed.
fn may_be_skipped(error: &Error) -> bool {
    let Error::Step { source, .. } = error else { return false };
    matches!(**source, Error::NonFinite { what: "loss" | "gradient", .. })
}

/// The configuration with the vocabulary of the data, and the data that it asks for.
fn fit(mut config: Config, dataset: &Arc<Dataset>) -> Result<(Config, Batches), Error> {
    config.validate()?;
    let needed = dataset.vocab_size();
    if config.model.vocabulary == 0 {
        config.model.vocabulary = needed;
    }
    if config.model.vocabulary < needed {
        let found = config.model.vocabulary;
        let problem = format!("is {found}, but the data have {needed} tokens: leave it at 0");
        return Err(Error::config("model.vocabulary", problem));
    }
    validation_tokens(dataset)?;
    let (context, seed) = (config.train.context, config.train.seed);
    let batches = Batches::new(Arc::clone(dataset), Split::Train, context, seed)?;
    Ok((config, batches))
}
