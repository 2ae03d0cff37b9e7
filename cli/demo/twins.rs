//! Two runs that train in turn: one step of the first, one of the second.
//!
//! Machines slow down and speed up with heat and neighbours. Runs that alternate meet the same
//! conditions, so the ratio of their median step times is a fair one.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use indicatif::{MultiProgress, ProgressBar};
use mediswift_data::Dataset;
use mediswift_model::run::{StepMetrics, read_log};
use mediswift_model::trainer::{Observer, Outcome, Progress, Report, Trainer};
use mediswift_model::{Config, Error};

use crate::progress;
use crate::signals::StopSignal;

/// One of the runs.
pub struct Twin {
    /// What it is called on its progress bar.
    pub name: &'static str,
    /// Its settings.
    pub config: Config,
    /// Its run folder.
    pub out: PathBuf,
}

/// What became of the runs.
pub enum Ended {
    /// Both are trained.
    Trained(Box<[Trained; 2]>),
    /// A signal came, and both are saved.
    Interrupted(i32),
}

/// A trained twin.
pub struct Trained {
    /// Its final report.
    pub report: Report,
    /// Median duration of its optimiser steps.
    pub seconds_per_step: f64,
}

/// Trains both in turn.
pub fn train(
    twins: &[Twin; 2],
    dataset: &Arc<Dataset>,
    signals: &StopSignal,
) -> anyhow::Result<Ended> {
    let bars = MultiProgress::new();
    let (first, second) = Turn::pair();
    let [dense, sparse] = thread::scope(|scope| {
        let runs = twins.iter().zip([first, second]).map(|(twin, turn)| {
            let bar = bars.add(progress::count(twin.config.train.steps as u64, twin.name));
            let observer = TakingTurns { name: twin.name, bar, turn };
            scope.spawn(move || run(twin, Arc::clone(dataset), observer, signals))
        });
        let runs: Vec<_> = runs.collect();
        let mut ended = runs.into_iter().map(|run| run.join().unwrap_or_else(|p| resume_unwind(p)));
        [(); 2].map(|()| ended.next().expect("one result per twin"))
    });
    bars.clear()?;
    Ok(match (dense?, sparse?) {
        (Outcome::Finished(dense), Outcome::Finished(sparse)) => Ended::Trained(Box::new([
            trained(&twins[0].out, *dense)?,
            trained(&twins[1].out, *sparse)?,
        ])),
        (Outcome::Interrupted { signal, .. }, _) | (_, Outcome::Interrupted { signal, .. }) => {
            Ended::Interrupted(signal)
        }
    })
}

/// Trains one twin. Whatever it does, it does in its turn.
fn run(
    twin: &Twin,
    dataset: Arc<Dataset>,
    mut observer: TakingTurns,
    signals: &StopSignal,
) -> Result<Outcome, Error> {
    observer.turn.wait();
    let trainer = Trainer::start(twin.config.clone(), dataset, &twin.out)?;
    trainer.run(&mut observer, signals.flag())
}

fn trained(out: &Path, report: Report) -> anyhow::Result<Trained> {
    let finished_at = read_log::<StepMetrics>(out)?.into_iter().map(|step| step.seconds);
    let mut durations: Vec<f64> =
        finished_at.scan(0.0, |before, now| Some(now - std::mem::replace(before, now))).collect();
    durations.sort_by(f64::total_cmp);
    Ok(Trained { report, seconds_per_step: durations[durations.len() / 2] })
}

/// The right to work, which one of two threads has at a time. A thread that ends leaves it to the
/// other for good: its half of the channels is dropped, and nobody waits for it any more.
struct Turn {
    mine: Receiver<()>,
    others: Sender<()>,
}

impl Turn {
    /// Two ends; the first has the turn.
    fn pair() -> (Self, Self) {
        let (to_first, first) = channel();
        let (to_second, second) = channel();
        to_first.send(()).expect("the receiver is here");
        (Self { mine: first, others: to_second }, Self { mine: second, others: to_first })
    }

    fn wait(&self) {
        // An error says that the other has ended: then it is always our turn.
        let _ = self.mine.recv();
    }

    fn pass(&self) {
        let _ = self.others.send(());
        self.wait();
    }
}

/// Shows a run on its bar, and gives the turn away after every step.
struct TakingTurns {
    name: &'static str,
    bar: ProgressBar,
    turn: Turn,
}

impl Observer for TakingTurns {
    fn stepped(&mut self, progress: &Progress<'_>) {
        self.bar.set_position(progress.metrics.step as u64);
        self.bar.set_message(format!("{:<6} loss {:.3}", self.name, progress.metrics.loss));
        self.turn.pass();
    }
}
