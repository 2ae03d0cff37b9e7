//! [`Watch`]: is told how long work gets on, and answers whether it shall.
//!
//! Training, evaluation, scoring, generation, fine-tuning with all its judging and its baselines tell one
//! watch of every piece of work. Told to stop, they end at that place with [`Error::Stopped`], in fractions of a
//! second as a rule; every long job says what it leaves then.

use crate::error::Error;
use crate::run::{StepMetrics, Validation};
use std::ops::ControlFlow;
use std::path::Path;

/// Watches long work.
///
/// `()` watches nothing, and any closure that takes a [`Progress`] and says whether to go on is a watch:
///
/// ```
/// use mediswift_model::watch::{Progress, Watch};
/// use std::ops::ControlFlow;
///
/// fn long_work(watch: &mut dyn Watch) -> bool {
///     (0..9).all(|done| watch.see(Progress::Judging { done, all: 9 }).is_continue())
/// }
///
/// assert!(long_work(&mut ()));
/// assert!(!long_work(&mut |progress: Progress<'_>| match progress {
///     Progress::Judging { done: 5, .. } => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// }));
/// ```
pub trait Watch {
    /// Takes note, and says whether to go on.
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()>;
}

impl Watch for () {
    fn see(&mut self, _: Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(Progress<'_>) -> ControlFlow<()>> Watch for F {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        self(progress)
    }
}

impl dyn Watch + '_ {
    /// Tells of progress; an answer to stop becomes an error.
    pub(crate) fn tell(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        match self.see(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A run was taken up.
    Resumed {
        /// Optimiser steps done.
        step: usize,
        /// From where; without one, from the beginning.
        checkpoint: Option<&'a Path>,
        /// One warning for every newer checkpoint that cannot be used.
        skipped: &'a [String],
    },
    /// Some micro-batches of the step under way are done, but not all.
    Accumulated {
        /// How many.
        done: usize,
        /// Of how many.
        all: usize,
    },
    /// A step made no update because of this problem, and the run goes on.
    Skipped(&'a Error),
    /// An optimiser step of a run is done.
    Stepped {
        /// The step.
        metrics: &'a StepMetrics,
        /// How fast the run is.
        pace: Pace,
    },
    /// Some examples were made tokens, but not all.
    Encoding {
        /// How many.
        done: usize,
        /// Of how many.
        all: usize,
    },
    /// A part of a model's judgement is done: windows of an evaluation, answers to examples, rounds of
    /// fitting a baseline.
    Judging {
        /// How many of its pieces are done.
        done: usize,
        /// Of how many.
        all: usize,
    },
    /// A continuation is to get another token.
    Generating {
        /// How many it has.
        tokens: usize,
    },
    /// The validation loss was measured.
    Evaluated(&'a Validation),
    /// A checkpoint was saved, and would survive a power loss.
    Saved {
        /// Optimiser steps done.
        step: usize,
        /// Its folder.
        checkpoint: &'a Path,
    },
    /// Something that should be known of a run, or by the reader of a fine-tuning report.
    Noted(&'a str),
    /// A training of a fine-tuning run begins.
    Began {
        /// Its name in the run folder.
        training: &'a str,
        /// Its place among the trainings of its stage, from 1.
        index: usize,
        /// How many these are.
        count: usize,
        /// Whether it was finished before, so that nothing is left to do.
        known: bool,
    },
    /// An optimiser step of fine-tuning is done.
    Tuned {
        /// The pass over the examples, from 1.
        epoch: usize,
        /// Steps done.
        step: usize,
        /// Steps planned.
        steps: usize,
        /// Mean loss of the pass so far, in nats per token.
        loss: f64,
    },
    /// A pass over the examples is done, and judged on dev.
    Passed {
        /// Which, from 1.
        epoch: usize,
        /// Mean loss of the target tokens met, in nats.
        train_loss: f64,
        /// Mean loss of dev's target tokens after it, in nats.
        dev_loss: f64,
        /// The task's score on dev after it.
        dev_score: f64,
    },
}

/// How fast a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Steps of the whole run.
    pub steps: usize,
    /// Tokens per second of training, over all steps so far.
    pub tokens_per_second: f64,
    /// Floating-point operations per second of the last step, by the work of every operator.
    pub flops_per_second: f64,
    /// Seconds that the steps left will take at that speed; evaluating and saving not counted.
    pub seconds_left: f64,
}
