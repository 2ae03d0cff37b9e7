//! [`Crew`]: works on cells, some of them side by side.
//!
//! A cell is a process of this program: what `pretrain`, `eval` and `finetune` do, by the same arguments that
//! anybody may give them. So cells side by side share nothing, each has threads and CPUs of its own, and one that
//! fails takes no other with it. Each is in a process group of its own: what a terminal sends to all is sent to
//! them once, by the one who waits for them. Should that one be killed, they see the end of their standard input,
//! save themselves and end too.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::ProgressBar;
use mediswift_model::study::{Cell, Ledger, Sources, Study, Work};
use rustix::process::{Pid, Signal, kill_process};

use crate::job::cores;
use crate::signals::StopSignal;
use crate::{machine, output, progress};

/// How long to look away from a cell or from signals.
const MOMENT: Duration = Duration::from_millis(20);

/// How long another process may go on with a cell before it is in the way.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who works on the cells of a study.
pub struct Crew<'a> {
    pub plan: &'a Study,
    pub sources: &'a Sources,
    pub signals: &'a StopSignal,
    /// How many cells at a time.
    pub jobs: usize,
}

/// How the work ended.
pub enum Ended {
    /// Every cell is finished.
    Done,
    /// A signal came.
    Stopped,
    /// Some cells came to nothing, each with why.
    Failed(Vec<String>),
}

/// What all know.
struct State<'a> {
    ledger: Ledger,
    /// Cells that nobody has begun, in order.
    waiting: Vec<&'a Cell>,
    running: usize,
    /// Names of cells that failed, and what to say of them.
    failed: Vec<(String, String)>,
}

/// Cells under way.
struct Shift<'a> {
    crew: &'a Crew<'a>,
    state: Mutex<State<'a>>,
    changed: Condvar,
    bar: ProgressBar,
    /// Threads of a cell.
    threads: usize,
}

/// How a cell ended.
enum CellEnd {
    /// Its work is done; an evaluation has printed what it found.
    Done(String),
    Stopped,
}

impl Crew<'_> {
    /// Works until every cell that is not finished is, or failed, or a signal came, with so many threads in all.
    pub fn work(&self, ledger: Ledger, threads: usize) -> anyhow::Result<(Ledger, Ended)> {
        let is_known = |cell: &&Cell| ledger.record(&cell.name).is_some();
        let waiting: Vec<&Cell> = self.plan.cells.iter().filter(|cell| !is_known(cell)).collect();
        let bar = progress::count(self.plan.cells.len() as u64, "cells");
        bar.set_position((self.plan.cells.len() - waiting.len()) as u64);
        let jobs = self.jobs.min(waiting.len());
        let state = State { ledger, waiting, running: 0, failed: Vec::new() };
        let shift = Shift {
            crew: self,
            state: Mutex::new(state),
            changed: Condvar::new(),
            bar,
            threads: (threads / self.jobs).max(1),
        };
        let places = machine::places(&machine::allowed_cpus());
        thread::scope(|scope| {
            for part in 0..jobs {
                let (shift, places) = (&shift, &places);
                scope.spawn(move || {
                    // Its cells inherit it. Where there are too few CPUs, they have to share.
                    let share = cores::share(places, part, shift.crew.jobs);
                    if let Some(cpus) = share.filter(|cpus| cpus.len() >= shift.threads) {
                        let _ = machine::bind(&cpus);
                    }
                    shift.work();
                });
            }
        });
        shift.bar.finish_and_clear();
        let State { ledger, failed, .. } = shift.state.into_inner().expect("no panic");
        let ended = match failed.is_empty() {
            _ if self.signals.flow().is_break() => Ended::Stopped,
            true => Ended::Done,
            false => {
                let line = |(name, why): (String, String)| format!("{name}: {why}");
                Ended::Failed(failed.into_iter().map(line).collect())
            }
        };
        Ok((ledger, ended))
    }
}

impl<'a> Shift<'a> {
    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().expect("no panic")
    }

    /// Prints a line above the bar.
    fn note(&self, line: &str) {
        self.bar.suspend(|| output::note(line));
    }

    /// One cell after the other.
    fn work(&self) {
        while let Some(cell) = self.next() {
            self.note(&format!("{}: begins", cell.name));
            let ended = self.run(&cell);
            let mut state = self.state();
            state.running -= 1;
            let finished = match ended {
                Ok(CellEnd::Done(printed)) => {
                    let finished = state.ledger.finish(&cell, &printed, self.crew.jobs);
                    finished.map(|_| Some("finished")).map_err(anyhow::Error::from)
                }
                Ok(CellEnd::Stopped) => Ok(None),
                Err(error) => Err(error),
            };
            let line = match finished {
                Ok(done) => done.map(str::to_string),
                Err(error) => {
                    let why = output::with_causes(error.as_ref());
                    state.failed.push((cell.name.clone(), why.clone()));
                    Some(format!("failed: {why}"))
                }
            };
            drop(state);
            self.changed.notify_all();
            if let Some(line) = line {
                self.bar.inc(1);
                self.note(&format!("{}: {line}", cell.name));
            }
        }
    }

    /// The next cell that can begin, with nothing left to a rule; none if there will be none.
    fn next(&self) -> Option<Cell> {
        let mut state = self.state();
        loop {
            if self.crew.signals.flow().is_break() {
                return None;
            }
            let State { ledger, waiting, running, failed } = &mut *state;
            waiting.retain(|cell| {
                let lost = |name: &&str| failed.iter().any(|(lost, _)| lost == *name);
                let Some(needs) = cell.after().into_iter().find(lost) else { return true };
                let why = format!("it needs {needs}");
                failed.push((cell.name.clone(), why));
                false
            });
            let ready = waiting.iter().enumerate().find_map(|(at, cell)| {
                let cell = ledger.decided(cell)?;
                Some((at, cell))
            });
            if let Some((at, cell)) = ready {
                waiting.remove(at);
                *running += 1;
                return Some(cell);
            }
            if *running == 0 {
                return None;
            }
            state = self.changed.wait_timeout(state, MOMENT).expect("no panic").0;
        }
    }

    /// Waits until nobody else works on a cell: of a study that was killed, it may still be saving itself.
    fn let_go(&self, cell: &Cell) -> anyhow::Result<()> {
        let begun = Instant::now();
        let is_late = || begun.elapsed() > PATIENCE || self.crew.signals.flow().is_break();
        while !is_late() && self.state().ledger.is_busy(cell)? {
            thread::sleep(MOMENT);
        }
        Ok(())
    }

    /// Does the work of a cell.
    fn run(&self, cell: &Cell) -> anyhow::Result<CellEnd> {
        self.let_go(cell)?;
        let (settings, place, of) = {
            let State { ledger, .. } = &*self.state();
            (ledger.start(cell)?, ledger.place(&cell.name), ledger.run_of(cell))
        };
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["--json", "--end-with-stdin", "--threads", &self.threads.to_string()]);
        let data = self.crew.sources.of(cell).expect("it was checked");
        match &cell.work {
            Work::Pretrain { config, .. } => {
                command.args(["pretrain", "--config"]).arg(settings);
                command.arg("--data").arg(data).arg("--out").arg(&place);
                let lines = (config.train.steps / 5).max(1).to_string();
                command.args(["--log-every", &lines]);
                if place.join("config.toml").exists() {
                    command.arg("--resume");
                }
            }
            Work::Evaluate { .. } => {
                command.arg("eval").arg(&of).arg("--data").arg(data);
            }
            Work::Finetune { task, .. } => {
                command.args(["finetune", task.name(), "--from"]).arg(&of);
                command.arg("--data").arg(data).arg("--out").arg(&place);
                match place.join("finetune.toml").exists() {
                    true => command.arg("--resume"),
                    false => command.arg("--config").arg(settings),
                };
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let child = command.spawn().context("cannot start a process")?;
        self.wait(cell, child)
    }

    /// Waits for a cell, passes on what it says, and stops it when a signal comes. Its standard input stays open for
    /// as long.
    fn wait(&self, cell: &Cell, mut child: Child) -> anyhow::Result<CellEnd> {
        let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let said = thread::scope(|scope| {
            let printed = scope.spawn(move || {
                let mut text = String::new();
                let read = stdout.as_mut().map(|pipe| pipe.read_to_string(&mut text));
                read.transpose().map(|_| text)
            });
            let last = scope.spawn(move || {
                let lines = stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines());
                let mut last = String::new();
                for line in lines.map_while(Result::ok) {
                    match line.strip_prefix("error: ") {
                        Some(error) => last = error.to_string(),
                        None => self.note(&format!("{}: {line}", cell.name)),
                    }
                }
                last
            });
            let status = self.status(&mut child);
            (status, printed.join().expect("no panic"), last.join().expect("no panic"))
        });
        let (status, printed, error) = said;
        let status = status.context("cannot wait for a process")?;
        match status.code() {
            Some(0) => Ok(CellEnd::Done(printed.context("cannot read what it printed")?)),
            _ if self.crew.signals.flow().is_break() => Ok(CellEnd::Stopped),
            _ if error.is_empty() => anyhow::bail!("its process ended with {status}"),
            _ => anyhow::bail!(error),
        }
    }

    /// How a process ended, which is asked to stop when a signal comes.
    fn status(&self, child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if !told && self.crew.signals.flow().is_break() {
                told = true;
                if let Some(number) = Pid::from_raw(child.id().cast_signed()) {
                    // One that has just ended cannot be told anything.
                    let _ = kill_process(number, Signal::TERM);
                }
            }
            thread::sleep(MOMENT);
        }
    }
}
