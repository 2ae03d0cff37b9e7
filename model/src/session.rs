//! [`Session`]: a configuration and a dataset become a run folder with a trained model, one optimiser
//! step at a time.
//!
//! A session is a run between two steps. Its parts keep their promises: [`Optimisation::step`] makes
//! one update or none, [`crate::checkpoint`] saves whole states or none, and the order of the data is
//! a function of seed and position. So a run that is interrupted and resumed has the bits of one that
//! never was: weights, moments, data, learning rate and logs. [`mod@crate::pretrain`] is the loop.

use crate::adamw::Moments;
use crate::checkpoint::{self, Checkpoint, Choice, Chosen, DataState, Snapshot, weights_hash};
use crate::config::{Config, OnNonFinite};
use crate::error::Error;
use crate::evaluate::{Windows, validation_loss, validation_tokens};
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use crate::run::{
    Line, Log, Opened, RunFolder, StepMetrics, TrainingReport, Validation, read_config,
};
use crate::schedule::Schedule;
use crate::tensorboard::Events;
use crate::watch::{Pace, Progress, Watch};
use mediswift_data::{Batches, Dataset, Position, Split};
use mediswift_engine::TokenLayout;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A run between two optimiser steps.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use mediswift_data::{Dataset, Preparation, prepare, synth};
/// use mediswift_model::Config;
/// use mediswift_model::session::{Advance, Session};
///
/// let folder = tempfile::tempdir()?;
/// let corpus = folder.path().join("corpus.jsonl");
/// synth::write(&corpus, 1, 150, &mut |_| ControlFlow::Continue(()))?;
/// let preparation = Preparation::new(vec![corpus], folder.path().join("dataset"));
/// prepare(&preparation, &mut |_| ControlFlow::Continue(()))?;
///
/// let mut config = Config::from_preset("micro")?;
/// (config.train.steps, config.sparsity.sparsity) = (2, 0.75);
/// let dataset = Arc::new(Dataset::open(&preparation.out)?);
/// let mut session = Session::start(config, dataset, &folder.path().join("run"))?;
/// while let Advance::Stepped(metrics) = session.advance(&mut ())? {
///     println!("step {}: loss {:.3}", metrics.step, metrics.loss);
/// }
/// assert_eq!(session.step(), 2);
/// session.save()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Session {
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
    /// Seconds of the last step of this session.
    last_seconds: f64,
    /// The last optimiser step, if there was one and its line is not lost.
    last: Option<StepMetrics>,
    /// Steps whose lines are there: all, unless some were lost.
    logged: usize,
    /// The last evaluation, if there was one.
    validation: Option<Validation>,
    /// The newest checkpoint and its step.
    saved: Option<(usize, PathBuf)>,
    /// Whether and how the run was taken up.
    resumed: Option<Resumed>,
    /// What whoever trains it should know of how it goes on.
    notes: Vec<String>,
}

/// How a run was taken up.
struct Resumed {
    step: usize,
    checkpoint: Option<PathBuf>,
    skipped: Vec<String>,
}

/// What became of a step.
#[derive(Debug)]
pub enum Advance {
    /// It updated the weights.
    Stepped(StepMetrics),
    /// It counts, but made no update because of this problem.
    Skipped(StepMetrics, Error),
    /// It was given up because the watch asked to stop: all is as before.
    Stopped,
    /// All steps of the run are done: there was none to make.
    Finished,
}

impl Session {
    /// Starts a run in the folder `out`, which must not exist or be empty.
    /// # Errors
    /// If the configuration is out of range or does not fit the data, or the folder is in use.
    pub fn start(config: Config, dataset: Arc<Dataset>, out: &Path) -> Result<Self, Error> {
        let (mut config, batches) = fit(config, &dataset)?;
        let gpt = Gpt::new(&config)?;
        config.kernels.plans = gpt.plans();
        let optimisation = Optimisation::new(gpt, &config)?;
        let folder = RunFolder::create(out, &config, &dataset)?;
        Self::assemble(config, dataset, batches, folder, optimisation)
    }

    /// Takes up the run in the folder `out` at its newest whole checkpoint: [`Session::resume_at`].
    /// # Errors
    /// As for [`Session::resume_at`].
    pub fn resume(config: Config, dataset: Arc<Dataset>, out: &Path) -> Result<Self, Error> {
        Self::resume_at(config, dataset, out, Choice::default())
    }

    /// Takes up the run in the folder `out` at one of its checkpoints; a run that was stopped before its
    /// first one starts again. A finished run may be given more steps: those that follow have the
    /// learning rates that a run of so many steps has there.
    /// # Errors
    /// If there is no run, or one with other settings or other data; if there are checkpoints but
    /// none can be used; if the folder is in use.
    pub fn resume_at(
        mut config: Config,
        dataset: Arc<Dataset>,
        out: &Path,
        choice: Choice,
    ) -> Result<Self, Error> {
        let before = read_config(out)?;
        if config.kernels.plans.is_empty() {
            // Other plans would give other bits.
            config.kernels = before.kernels.clone();
        }
        let (config, mut batches) = fit(config, &dataset)?;
        let folder = RunFolder::resume(out, &config, &dataset)?;
        let fingerprint = dataset.fingerprint();
        let read = |checkpoint: &Checkpoint| {
            checkpoint.check_run(&config, &fingerprint)?;
            let gpt = checkpoint.model(&config)?;
            let moments = checkpoint.moments(gpt.parameters())?;
            let moments = moments.unwrap_or_else(|| Moments::zeros(gpt.parameters().layout()));
            Ok((gpt, moments))
        };
        let chosen = checkpoint::choose(&folder.checkpoints(), choice, read)?;
        let mut notes = Vec::new();
        let (optimisation, resumed) = match chosen {
            Some(Chosen { checkpoint, content: (gpt, moments), skipped }) => {
                let Checkpoint { path, manifest, config: planned } = checkpoint;
                let (sequences, windows) = (manifest.data.sequences, batches.windows_per_epoch());
                batches
                    .seek(Position { epoch: sequences / windows, index: sequences % windows })?;
                notes.extend(extension(&planned, &config));
                let optimisation =
                    Optimisation::resume(gpt, moments, manifest.step, manifest.skipped, &config)?;
                (
                    optimisation,
                    Resumed { step: manifest.step as usize, checkpoint: Some(path), skipped },
                )
            }
            None => {
                let (mine, theirs) = (config.train.steps, before.train.steps);
                if mine != theirs {
                    let differences = config.differences(&before);
                    return Err(Error::OtherSettings { path: out.to_path_buf(), differences });
                }
                let optimisation = Optimisation::new(Gpt::new(&config)?, &config)?;
                (optimisation, Resumed { step: 0, checkpoint: None, skipped: Vec::new() })
            }
        };
        if config.train.steps != before.train.steps {
            folder.plan(&config)?;
        }
        // What an interrupted save or removal left.
        let now = optimisation.steps();
        checkpoint::prune(&folder.checkpoints(), &config.checkpoint, now)?;
        let mut session = Self::assemble(config, dataset, batches, folder, optimisation)?;
        session.saved = resumed.checkpoint.clone().map(|path| (resumed.step, path));
        session.resumed = Some(resumed);
        session.notes.splice(0..0, notes);
        Ok(session)
    }

    fn assemble(
        config: Config,
        dataset: Arc<Dataset>,
        batches: Batches,
        folder: RunFolder,
        optimisation: Optimisation,
    ) -> Result<Self, Error> {
        let step = optimisation.steps() as usize;
        let mut notes = Vec::new();
        let Opened { log: metrics, lines: mut steps, damage } =
            Log::<StepMetrics>::open(folder.path(), step)?;
        let logged = steps.len();
        if logged < step {
            let (path, reason) = (folder.path().join(StepMetrics::FILE), reason(damage));
            notes.push(format!(
                "{}: holds {logged} of the steps 1 to {step}{reason}; speeds and times count these alone",
                path.display()
            ));
        }
        let Opened { log: validations, lines: mut evaluations, damage } =
            Log::<Validation>::open(folder.path(), step)?;
        notes.extend(damage.map(|damage| format!("an evaluation is left out: {damage}")));
        let events = Events::open(folder.path(), folder.started()?, &steps, &evaluations)?;
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
            last_seconds: f64::NAN,
            last: steps.pop(),
            logged,
            validation: evaluations.pop(),
            saved: None,
            resumed: None,
            notes,
        })
    }

    /// Optimiser steps done.
    pub fn step(&self) -> usize {
        self.optimisation.steps() as usize
    }

    /// The model.
    pub fn gpt(&self) -> &Gpt {
        self.optimisation.gpt()
    }

    /// How the run was taken up, if it was.
    pub fn resumed(&self) -> Option<Progress<'_>> {
        let Resumed { step, checkpoint, skipped } = self.resumed.as_ref()?;
        Some(Progress::Resumed { step: *step, checkpoint: checkpoint.as_deref(), skipped })
    }

    /// What whoever trains it should know of how it goes on: that it was given more steps, that parts of
    /// its logs are lost.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Makes an optimiser step, unless all are done.
    /// # Errors
    /// If a loss or a gradient is not finite and not to be skipped: then all is as before. If a weight
    /// or a moment is not finite after the update: then the run can only be resumed, from its last
    /// checkpoint. If data cannot be read or logs not be written.
    pub fn advance(&mut self, watch: &mut dyn Watch) -> Result<Advance, Error> {
        let train = &self.config.train;
        if self.step() >= train.steps {
            return Ok(Advance::Finished);
        }
        let (started, position) = (Instant::now(), self.batches.position());
        let (on_nonfinite, lr) = (train.on_nonfinite, self.optimisation.learning_rate());
        let micro_batches = self.next_micro_batches()?;
        let (loss, grad_norm, problem) = match self.optimisation.step(&micro_batches, watch) {
            Ok(done) => (done.loss.mean(), done.grad_norm, None),
            Err(error) if on_nonfinite == OnNonFinite::Skip && may_be_skipped(&error) => {
                self.optimisation.skip();
                (f64::NAN, f64::NAN, Some(error))
            }
            Err(error) => {
                self.batches.seek(position)?;
                return if let Error::Stopped = error { Ok(Advance::Stopped) } else { Err(error) };
            }
        };
        self.last_seconds = started.elapsed().as_secs_f64();
        let before = self.last.as_ref().map_or(0.0, |last| last.seconds);
        let train = &self.config.train;
        let metrics = StepMetrics {
            step: self.step(),
            loss,
            lr,
            grad_norm,
            tokens: (self.step() * train.batch * train.context) as u64,
            seconds: before + self.last_seconds,
            skipped: self.optimisation.skipped(),
        };
        self.metrics.append(&metrics)?;
        self.events.step(&metrics)?;
        self.logged += 1;
        self.last = Some(metrics.clone());
        Ok(match problem {
            None => Advance::Stepped(metrics),
            Some(problem) => Advance::Skipped(metrics, problem),
        })
    }

    /// The sequences of the next step.
    fn next_micro_batches(&mut self) -> Result<Vec<TokenBatch>, Error> {
        let train = &self.config.train;
        let firsts = (0..train.batch).step_by(train.micro_batch);
        let micro_batches = firsts.map(|first| {
            let count = train.micro_batch.min(train.batch - first);
            let sequences = (0..count).map(|_| self.batches.next_sequence());
            Ok(TokenBatch::new(sequences.collect::<Result<Vec<_>, _>>()?.into_iter()))
        });
        micro_batches.collect()
    }

    /// How fast the run is; not a number before a step.
    pub fn pace(&self) -> Pace {
        let (steps, step) = (self.config.train.steps, self.step());
        let seconds = self.last.as_ref().map_or(0.0, |last| last.seconds);
        Pace {
            steps,
            tokens_per_second: self.tokens_per_second(),
            flops_per_second: self.flops_per_step / self.last_seconds,
            seconds_left: (steps - step) as f64 * seconds / self.logged as f64,
        }
    }

    /// Tokens per second of the steps whose times are known.
    fn tokens_per_second(&self) -> f64 {
        let train = &self.config.train;
        let tokens = (self.logged * train.batch * train.context) as f64;
        tokens / self.last.as_ref().map_or(0.0, |last| last.seconds)
    }

    /// Whether the configuration asks for an evaluation here that was not made yet.
    pub fn is_evaluation_due(&self) -> bool {
        let known = self.validation.as_ref().is_some_and(|last| last.step == self.step());
        !known && self.is_due(self.config.eval.every)
    }

    /// Whether the configuration asks for a checkpoint here that was not saved yet.
    pub fn is_save_due(&self) -> bool {
        let known = self.saved.as_ref().is_some_and(|(step, _)| *step == self.step());
        !known && self.is_due(self.config.checkpoint.every)
    }

    /// Whether something that happens every `every` steps, and after the last, is due now.
    fn is_due(&self, every: usize) -> bool {
        let step = self.step();
        step >= self.config.train.steps || step > 0 && every > 0 && step.is_multiple_of(every)
    }

    /// Measures the validation loss, and writes it down.
    /// # Errors
    /// If it is not finite, `watch` asks to stop, data cannot be read or logs not be written.
    pub fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Validation, Error> {
        let windows = Windows::of(&self.config);
        let found = validation_loss(self.gpt(), &self.dataset, windows, watch)?;
        let validation = Validation { step: self.step(), val_loss: found.val_loss };
        self.validations.append(&validation)?;
        self.events.evaluation(&validation)?;
        self.validation = Some(validation.clone());
        Ok(validation)
    }

    /// Saves the state as a checkpoint, unless it is one already, and returns its folder.
    /// # Errors
    /// If a weight or a moment is not finite, or the system refuses.
    pub fn save(&mut self) -> Result<PathBuf, Error> {
        let now = self.step();
        if let Some((step, path)) = &self.saved
            && *step == now
        {
            return Ok(path.clone());
        }
        self.metrics.sync()?;
        self.validations.sync()?;
        let Position { epoch, index } = self.batches.position();
        let snapshot = Snapshot {
            config: &self.config,
            step: self.optimisation.steps(),
            skipped: self.optimisation.skipped(),
            parameters: self.optimisation.gpt().parameters(),
            moments: Some(self.optimisation.moments()),
            data: DataState {
                sequences: epoch * self.batches.windows_per_epoch() + index,
                fingerprint: self.dataset.fingerprint(),
                tokenizer: self.dataset.tokenizer_hash(),
            },
        };
        let path = checkpoint::save(&self.folder.checkpoints(), &snapshot)?;
        checkpoint::prune(&self.folder.checkpoints(), &self.config.checkpoint, now as u64)?;
        self.saved = Some((now, path.clone()));
        Ok(path)
    }

    /// Writes the final report into the folder.
    /// # Errors
    /// If the system refuses.
    /// # Panics
    /// If the model as it is was not evaluated.
    pub fn finish(&self) -> Result<TrainingReport, Error> {
        let last = self.last.as_ref().filter(|last| last.step == self.step());
        let validation = self.validation.as_ref().filter(|last| last.step == self.step());
        let gpt = self.gpt();
        let layers = gpt.layer_sparsity(&self.config.sparsity);
        let report = TrainingReport {
            step: self.step(),
            train_loss: last.map_or(f64::NAN, |last| last.loss),
            val_loss: validation.expect("a model that was evaluated").val_loss,
            tokens_per_second: self.tokens_per_second(),
            flops: self.flops_per_step * self.step() as f64,
            weights_hash: weights_hash(gpt.parameters()),
            parameters: gpt.parameters().count(),
            nnz: layers.iter().map(|layer| layer.nnz).sum(),
            layers,
        };
        self.folder.finish(&self.config, &report)?;
        Ok(report)
    }
}

/// Why lines of a log are missing, where that is known.
fn reason(damage: Option<Error>) -> String {
    damage.map_or(String::new(), |damage| format!(" ({damage})"))
}

/// What becomes of the learning rate where a run that has done all of its `planned` steps gets more.
fn extension(planned: &Config, now: &Config) -> Option<String> {
    let (done, all) = (planned.train.steps, now.train.steps);
    (done != all).then(|| {
        let last = Schedule::new(planned).learning_rate(done.saturating_sub(1));
        let next = Schedule::new(now).learning_rate(done);
        format!(
            "all {done} steps are done, and {all} are wanted now: the learning rate goes on as planned for \
             {all} steps, from {last:.3e} to {next:.3e}"
        )
    })
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
        return Err(Error::setting("model.vocabulary", problem));
    }
    validation_tokens(dataset)?;
    let (context, seed) = (config.train.context, config.train.seed);
    let batches = Batches::new(Arc::clone(dataset), Split::Train, context, seed)?;
    Ok((config, batches))
}
