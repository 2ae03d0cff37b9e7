//! [`Session`]: a configuration and a dataset become a run folder with a trained model, one optimiser
//! step at a time.
//!
//! A session is a run between two steps. Its parts keep their promises: [`Optimisation::step`] makes
//! one update or none, [`crate::checkpoint`] saves whole states or none, and the order of the data is
//! a function of seed and position. So a run that is interrupted and resumed has the bits of one that
//! never was: weights, moments, data, learning rate and logs. [`mod@crate::pretrain`] is the loop.
//!
//! Of several ranks each has a session, and all do the same with theirs at the same time; what one is told
//! or cannot do counts for all (`agreement.rs`). Rank 0 alone has the run folder's files open
//! (`records.rs`); the others read the checkpoint that it has chosen, so they must see the same file system.
//! A run has the same bits for any number of ranks, unless they add up gradients in a faster way ([`Reduce::Fast`]); it
//! may change that number and that way whenever it is resumed, and its records know whether the faster one was used.

mod records;
mod taken;
mod together;

use crate::adamw::Moments;
use crate::agreement::agree;
use crate::checkpoint::{self, Choice, DataState, Snapshot, weights_hash};
use crate::config::{Config, OnNonFinite};
use crate::error::Error;
use crate::evaluate::{Windows, validation_loss};
use crate::flops::Spent;
use crate::gpt::{Gpt, TokenBatch};
use crate::optimisation::Optimisation;
use crate::plans;
use crate::reduction::Reduce;
use crate::run::{RunFolder, StepMetrics, Together, TrainingReport, Validation};
use crate::sparsity::MaskState;
use crate::watch::{Pace, Progress, Watch};
use mediswift_data::{Batches, Dataset, Position};
use mediswift_engine::TokenLayout;
use mediswift_ranks::{Alone, Ranks};
use records::{Opened, Records};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use taken::{Model, Resumed, Taken, fit, useless};
use together::{Origin, check_equal, check_weights, first_says};

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
    ranks: Arc<dyn Ranks>,
    config: Config,
    dataset: Arc<Dataset>,
    batches: Batches,
    optimisation: Optimisation,
    /// How the run's gradients were added up: the faster way if any of them were.
    reduce: Reduce,
    /// What is written of the run: by rank 0.
    records: Option<Records>,
    /// Floating-point operations of the next optimiser step: the exact work of every operator.
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
        Self::start_among(Arc::new(Alone), Reduce::Exact, config, dataset, out)
    }

    /// Starts a run as one of several ranks, which add up gradients in that way.
    /// # Errors
    /// As for [`Session::start`]; if ranks have other programs, settings or data, or are more than can
    /// share a step.
    pub fn start_among(
        ranks: Arc<dyn Ranks>,
        reduce: Reduce,
        config: Config,
        dataset: Arc<Dataset>,
        out: &Path,
    ) -> Result<Self, Error> {
        let (mut config, batches) = agree(&*ranks, fit(config, &dataset))?;
        check_equal(&*ranks, reduce, &config, &dataset)?;
        let together = Together { ranks: ranks.count(), reduce: reduce.among(ranks.count()) };
        // Rank 0 plans, for plans decide the last bits and may be measured.
        let planned = first_says(&*ranks, || {
            let gpt = Gpt::new(&config)?;
            config.kernels.plans = plans::of_run(&config, gpt.plans())?;
            let config = config.to_toml();
            Ok((gpt, Origin { config, checkpoint: None, reduce: together.reduce }))
        })?;
        let gpt = match planned {
            (Some(gpt), _) => Ok(gpt),
            (None, origin) => origin.config().and_then(|planned| {
                config = planned;
                Gpt::new(&config)
            }),
        };
        let gpt = agree(&*ranks, gpt)?;
        check_weights(&*ranks, gpt.parameters())?;
        let moments = Optimisation::zero_moments(&*ranks, reduce, &gpt);
        let optimisation =
            Optimisation::among(Arc::clone(&ranks), reduce, gpt, moments, 0, 0, &config);
        let optimisation =
            agree(&*ranks, optimisation)?.with_moving_masks(&config, MaskState::default());
        agree(&*ranks, optimisation.share(config.micro_batches()))?;
        let folder = match ranks.rank() {
            0 => RunFolder::create(out, &config, &dataset, together).map(Some),
            _ => Ok(None),
        };
        let folder = agree(&*ranks, folder)?;
        let mut session = Self::assemble(ranks, config, dataset, batches, folder, optimisation)?;
        session.reduce = together.reduce;
        session.notes.extend(useless(reduce, together));
        Ok(session)
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
        config: Config,
        dataset: Arc<Dataset>,
        out: &Path,
        choice: Choice,
    ) -> Result<Self, Error> {
        Self::resume_among(Arc::new(Alone), Reduce::Exact, config, dataset, out, choice)
    }

    /// Takes up a run as one of several ranks, which need not be as many as before, nor add up in the same way.
    /// # Errors
    /// As for [`Session::resume_at`] and [`Session::start_among`].
    pub fn resume_among(
        ranks: Arc<dyn Ranks>,
        reduce: Reduce,
        config: Config,
        dataset: Arc<Dataset>,
        out: &Path,
        choice: Choice,
    ) -> Result<Self, Error> {
        check_equal(&*ranks, reduce, &config, &dataset)?;
        let taken = first_says(&*ranks, || {
            let taken = Taken::up(&*ranks, reduce, config, &dataset, out, choice)?;
            let checkpoint = taken.resumed.checkpoint.clone();
            let origin =
                Origin { config: taken.config.to_toml(), checkpoint, reduce: taken.reduce };
            Ok((taken, origin))
        })?;
        let taken = match taken {
            (Some(taken), _) => Ok(taken),
            (None, origin) => Taken::after(&*ranks, reduce, &origin, &dataset),
        };
        let taken = agree(&*ranks, taken)?;
        let Taken { config, batches, folder, model, reduce: so_far, resumed, notes } = taken;
        let Model { gpt, moments, step, skipped, loss_scale, masks } = model;
        let ranks_too = Arc::clone(&ranks);
        let optimisation =
            Optimisation::among(ranks_too, reduce, gpt, moments, step, skipped, &config);
        let optimisation = agree(&*ranks, optimisation)?;
        let optimisation =
            optimisation.with_loss_scale(loss_scale).with_moving_masks(&config, masks);
        check_weights(&*ranks, optimisation.gpt().parameters())?;
        agree(&*ranks, optimisation.share(config.micro_batches()))?;
        let mut session = Self::assemble(ranks, config, dataset, batches, folder, optimisation)?;
        session.reduce = so_far;
        session.saved = resumed.checkpoint.clone().map(|path| (resumed.step, path));
        session.resumed = Some(resumed);
        session.notes.splice(0..0, notes);
        Ok(session)
    }

    fn assemble(
        ranks: Arc<dyn Ranks>,
        config: Config,
        dataset: Arc<Dataset>,
        batches: Batches,
        folder: Option<RunFolder>,
        optimisation: Optimisation,
    ) -> Result<Self, Error> {
        let step = optimisation.steps() as usize;
        let layers = optimisation.gpt().layer_sparsity(&config.sparsity);
        let opened = folder.map(|folder| Records::open(folder, step, &layers)).transpose();
        // Who knows the last evaluation knows whether another one is due.
        let (records, validation) = first_says(&*ranks, || {
            let opened = opened?.expect("rank 0 has the folder");
            let validation = opened.validation.clone();
            Ok((opened, validation))
        })?;
        let Opened { records, last, logged, notes, .. } = match records {
            Some(Opened { records, last, logged, notes, .. }) => {
                Opened { records: Some(records), last, logged, notes, validation: None }
            }
            None => {
                Opened { records: None, last: None, logged: step, notes: vec![], validation: None }
            }
        };
        Ok(Self {
            ranks,
            flops_per_step: flops_per_step(optimisation.gpt(), &config),
            config,
            dataset,
            batches,
            optimisation,
            reduce: Reduce::Exact,
            records,
            last_seconds: f64::NAN,
            last,
            logged,
            validation,
            saved: None,
            resumed: None,
            notes,
        })
    }

    /// All ranks that train this run.
    pub fn ranks(&self) -> &dyn Ranks {
        &*self.ranks
    }

    /// What all ranks return if all succeeded; otherwise an error on every rank.
    /// # Errors
    /// If a rank failed or is lost.
    pub(crate) fn agree<T>(&self, mine: Result<T, Error>) -> Result<T, Error> {
        agree(&*self.ranks, mine)
    }

    /// Optimiser steps done.
    pub fn step(&self) -> usize {
        self.optimisation.steps() as usize
    }

    /// The model.
    pub fn gpt(&self) -> &Gpt {
        self.optimisation.gpt()
    }

    /// The optimiser's moments: those of this rank's shard.
    pub fn moments(&self) -> &Moments {
        self.optimisation.moments()
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
        if self.step() >= self.config.train.steps {
            return Ok(Advance::Finished);
        }
        let (started, position) = (Instant::now(), self.batches.position());
        let (on_nonfinite, lr) =
            (self.config.train.on_nonfinite, self.optimisation.learning_rate());
        let all = self.config.micro_batches();
        let mine = self.optimisation.share(all).and_then(|share| self.next_micro_batches(share));
        let (loss, grad_norm, masks, problem) = match self.optimisation.step_of(all, mine, watch) {
            Ok(done) => {
                let scale = self.optimisation.loss_scale().map(|loss_scale| loss_scale.scale);
                let too_large = scale.filter(|_| done.grad_norm.is_nan());
                let problem = too_large.map(|scale| Error::TooLargeForF16 { scale });
                (done.loss.mean(), done.grad_norm, done.masks, problem)
            }
            Err(error) if on_nonfinite == OnNonFinite::Skip && may_be_skipped(&error) => {
                self.optimisation.skip();
                (f64::NAN, f64::NAN, None, Some(error))
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
            masks,
        };
        if masks.is_some() {
            self.flops_per_step = flops_per_step(self.gpt(), &self.config);
        }
        let logged = self.records.as_mut().map_or(Ok(()), |records| records.step(&metrics));
        self.agree(logged)?;
        self.logged += 1;
        self.last = Some(metrics.clone());
        Ok(match problem {
            None => Advance::Stepped(metrics),
            Some(problem) => Advance::Skipped(metrics, problem),
        })
    }

    /// The sequences of this rank's micro-batches of the next step; those of others are passed over.
    fn next_micro_batches(&mut self, share: Range<usize>) -> Result<Vec<TokenBatch>, Error> {
        let train = &self.config.train;
        let (batch, most) = (train.batch, train.micro_batch);
        let (first, end) = (share.start * most, batch.min(share.end * most));
        self.pass_over(first)?;
        let firsts = (first..end).step_by(most);
        let micro_batches = firsts.map(|first| {
            let sequences = (first..end.min(first + most)).map(|_| self.batches.next_sequence());
            Ok(TokenBatch::new(sequences.collect::<Result<Vec<_>, _>>()?.into_iter()))
        });
        let micro_batches = micro_batches.collect::<Result<_, Error>>()?;
        self.pass_over(batch - end)?;
        Ok(micro_batches)
    }

    /// Goes on in the data as if so many sequences had been read.
    fn pass_over(&mut self, sequences: usize) -> Result<(), Error> {
        if sequences > 0 {
            let Position { epoch, index } = self.batches.position();
            let windows = self.batches.windows_per_epoch();
            let all = epoch * windows + index + sequences as u64;
            self.batches.seek(Position { epoch: all / windows, index: all % windows })?;
        }
        Ok(())
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
        let found = validation_loss(self.gpt(), &self.dataset, windows, &*self.ranks, watch)?;
        let validation = Validation { step: self.step(), val_loss: found.val_loss };
        let logged =
            self.records.as_mut().map_or(Ok(()), |records| records.evaluation(&validation));
        self.agree(logged)?;
        self.validation = Some(validation.clone());
        Ok(validation)
    }

    /// Saves the state as a checkpoint, unless it is one already, and returns its folder.
    /// # Errors
    /// If a weight or a moment is not finite, or the system refuses; if ranks have come to hold other
    /// weights.
    pub fn save(&mut self) -> Result<PathBuf, Error> {
        let now = self.step();
        if let Some((step, path)) = &self.saved
            && *step == now
        {
            return Ok(path.clone());
        }
        let path = match self.ranks.count() {
            1 => self.write_checkpoint(None)?,
            _ => {
                check_weights(&*self.ranks, self.gpt().parameters())?;
                let moments = self.optimisation.whole_moments()?;
                let saved = match &moments {
                    Some(whole) => self.write_checkpoint(Some(whole)),
                    None => Ok(PathBuf::new()),
                };
                moments.into_iter().for_each(|whole| self.optimisation.recycle(whole));
                let (_, path) = first_says(&*self.ranks, || saved.map(|path| ((), path)))?;
                path
            }
        };
        self.saved = Some((now, path.clone()));
        Ok(path)
    }

    /// Writes a checkpoint with those moments, or with the optimiser's own, where the records are.
    fn write_checkpoint(&mut self, moments: Option<&Moments>) -> Result<PathBuf, Error> {
        let records = self.records.as_mut().expect("rank 0 writes");
        records.sync()?;
        let Position { epoch, index } = self.batches.position();
        let snapshot = Snapshot {
            config: &self.config,
            step: self.optimisation.steps(),
            skipped: self.optimisation.skipped(),
            loss_scale: self.optimisation.loss_scale(),
            masks: self.optimisation.mask_state(),
            parameters: self.optimisation.gpt().parameters(),
            moments: Some(moments.unwrap_or(self.optimisation.moments())),
            data: DataState {
                sequences: epoch * self.batches.windows_per_epoch() + index,
                fingerprint: self.dataset.fingerprint(),
                tokenizer: self.dataset.tokenizer_hash(),
            },
        };
        let folder = records.folder().checkpoints();
        let path = checkpoint::save(&folder, &snapshot)?;
        checkpoint::prune(&folder, &self.config.checkpoint, self.optimisation.steps())?;
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
            flops: self.flops(),
            weights_hash: weights_hash(gpt.parameters()),
            parameters: gpt.parameters().count(),
            nnz: layers.iter().map(|layer| layer.nnz).sum(),
            layers,
            mask_updates: self.optimisation.mask_state().map(|masks| masks.updates),
            reduce: self.reduce,
        };
        let written = self.records.as_ref().map_or(Ok(()), |records| {
            records.folder().describe_sparsity(&report.layers)?;
            records.folder().finish(&self.config, &report)
        });
        self.agree(written)?;
        Ok(report)
    }

    /// Floating-point operations of all steps so far.
    fn flops(&self) -> f64 {
        match self.optimisation.mask_state() {
            Some(masks) => Spent::new(&self.config).by_masks(self.step(), masks),
            None => self.flops_per_step * self.step() as f64,
        }
    }
}

/// Floating-point operations of an optimiser step: the exact work of every operator.
fn flops_per_step(gpt: &Gpt, config: &Config) -> f64 {
    let (sequences, context) = (config.train.batch, config.train.context);
    let cost = gpt.cost(TokenLayout { sequences, context });
    (cost.forward_flops + cost.backward_flops) as f64
}

/// Whether a step failed because of its data, so that the next one may succeed.
fn may_be_skipped(error: &Error) -> bool {
    let Error::Step { source, .. } = error else { return false };
    matches!(**source, Error::NonFinite { what: "loss" | "gradient", .. })
}
