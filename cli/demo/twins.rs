//! Two runs that train in turn: one step of the first, one of the second.
//!
//! Machines slow down and speed up with heat and neighbours. Runs that alternate meet the same
//! conditions, so the ratio of their median step times is a fair one.

use std::path::PathBuf;
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar};
use mediswift_data::Dataset;
use mediswift_model::run::{StepMetrics, TrainingReport, read_log};
use mediswift_model::session::{Advance, Session};
use mediswift_model::watch::Progress;
use mediswift_model::{Config, Error};

use crate::signals::StopSignal;
use crate::{output, progress};

/// One of the runs.
pub struct Twin {
    /// What it is called on its progress bar.
    pub name: &'static str,
    /// Its settings.
    pub config: Config,
    /// Its run folder.
    pub out: PathBuf,
}

/// A trained twin.
pub struct Trained {
    /// Its final report.
    pub report: TrainingReport,
    /// Median duration of its optimiser steps.
    pub seconds_per_step: f64,
}

/// A twin under way.
struct Training<'a> {
    twin: &'a Twin,
    session: Session,
    bar: ProgressBar,
}

/// Trains both in turn, and evaluates and saves them at the end. A signal stops both, and both are
/// saved as they are.
pub fn train(
    [dense, sparse]: &[Twin; 2],
    dataset: &Arc<Dataset>,
    signals: &StopSignal,
) -> Result<[Trained; 2], Error> {
    let bars = MultiProgress::new();
    let start = |twin| Training::start(twin, dataset, &bars);
    let mut twins = [start(dense)?, start(sparse)?];
    let trained = in_turn(&mut twins, signals);
    if let Err(Error::Stopped) = trained {
        for twin in &mut twins {
            twin.session.save()?;
        }
    }
    for twin in &twins {
        twin.bar.finish_and_clear();
    }
    trained
}

fn in_turn(twins: &mut [Training<'_>; 2], signals: &StopSignal) -> Result<[Trained; 2], Error> {
    for _ in 0..twins[0].twin.config.train.steps {
        for twin in twins.iter_mut() {
            twin.step(signals)?;
        }
    }
    let [dense, sparse] = twins;
    Ok([dense.finish(signals)?, sparse.finish(signals)?])
}

impl<'a> Training<'a> {
    fn start(twin: &'a Twin, dataset: &Arc<Dataset>, bars: &MultiProgress) -> Result<Self, Error> {
        let session = Session::start(twin.config.clone(), Arc::clone(dataset), &twin.out)?;
        let bar = bars.add(progress::count(twin.config.train.steps as u64, twin.name));
        Ok(Self { twin, session, bar })
    }

    fn step(&mut self, signals: &StopSignal) -> Result<(), Error> {
        let metrics = match self.session.advance(&mut |_: Progress<'_>| signals.flow())? {
            Advance::Stepped(metrics) => metrics,
            Advance::Skipped(_, problem) => return Err(problem),
            Advance::Stopped => return Err(Error::Stopped),
            Advance::Finished => return Ok(()),
        };
        self.bar.set_position(metrics.step as u64);
        let said = format!("{:<6} loss {:.3}", self.twin.name, metrics.loss);
        let steps = self.twin.config.train.steps;
        if self.bar.is_hidden() && metrics.step.is_multiple_of((steps / 5).max(1)) {
            output::note(&format!("step {} of {steps}  {said}", metrics.step));
        }
        self.bar.set_message(said);
        if signals.flow().is_break() { Err(Error::Stopped) } else { Ok(()) }
    }

    fn finish(&mut self, signals: &StopSignal) -> Result<Trained, Error> {
        self.session.evaluate(&mut |_: Progress<'_>| signals.flow())?;
        self.session.save()?;
        let report = self.session.finish()?;
        let steps = read_log::<StepMetrics>(&self.twin.out)?.into_iter().map(|step| step.seconds);
        let mut durations: Vec<f64> =
            steps.scan(0.0, |before, now| Some(now - std::mem::replace(before, now))).collect();
        durations.sort_by(f64::total_cmp);
        Ok(Trained { report, seconds_per_step: durations[durations.len() / 2] })
    }
}
