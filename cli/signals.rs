//! Signals that ask long work to stop: a training run gives up the step under way and saves itself,
//! other jobs leave nothing behind.
//!
//! SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what cluster schedulers send before time is up) end the
//! program with 128 + the signal's number: 130, 143 or 138. A SIGINT after any of them ends it at
//! once.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use anyhow::Context;
use mediswift_ranks::collectives::gather_numbers;
use mediswift_ranks::{Lost, Ranks};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use crate::outcome::{Exit, Outcome};
use crate::output;

/// Makes a file that may not grow further (`ulimit -f`) an error of whoever writes it, as a full disk is, where
/// the system would end the program.
pub fn outlive_file_limits() -> anyhow::Result<()> {
    let nobody_asks = Arc::new(AtomicBool::new(false));
    flag::register(SIGXFSZ, nobody_asks).context("cannot watch for signals")?;
    Ok(())
}

/// Sends this process a SIGTERM when its standard input ends: work that watches for signals saves itself. The other
/// end of it closes with whoever holds it, however that one ends.
pub fn end_with_stdin() -> anyhow::Result<()> {
    let watch = || {
        // Nobody writes; what can be read no more has ended too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = low_level::raise(SIGTERM);
    };
    thread::Builder::new().name("parent".into()).spawn(watch).context("cannot watch the input")?;
    Ok(())
}

/// Holds the first signal that came.
pub struct StopSignal {
    first: Arc<AtomicI32>,
}

impl StopSignal {
    /// Takes the signals over. Only for work that asks for the [`flow`](Self::flow) often.
    pub fn watch() -> anyhow::Result<Self> {
        const PROBLEM: &str = "cannot watch for signals";
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).context(PROBLEM)?;
        let first = Arc::new(AtomicI32::new(0));
        let shared = Arc::clone(&first);
        let watch = move || {
            for signal in signals.forever() {
                let came_before =
                    shared.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
                if came_before.is_err() && signal == SIGINT {
                    low_level::exit(128 + SIGINT);
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(watch).context(PROBLEM)?;
        Ok(Self { first })
    }

    /// Go on, or stop: what those who watch work answer.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.first.load(Ordering::Relaxed) {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// Tells all ranks which signal stopped their work: the first in the order of ranks. Those that got
    /// none themselves have it too.
    /// # Errors
    /// If a rank is lost.
    pub fn share(&self, ranks: &dyn Ranks) -> Result<(), Lost> {
        let mine = self.first.load(Ordering::Relaxed);
        let all = gather_numbers(ranks, &[f64::from(mine)])?;
        let first = all.iter().map(|signal| signal[0] as i32).find(|signal| *signal != 0);
        self.first.store(first.unwrap_or(mine), Ordering::Relaxed);
        Ok(())
    }

    /// The outcome of work that a signal stopped after it saved itself: `json` and the signal's number
    /// on stdout, a note on stderr, and the signal's exit code.
    pub fn outcome(&self, note: &str, mut json: Value) -> Outcome {
        let signal = self.first.load(Ordering::Relaxed);
        output::note(&format!("signal {signal}: {note}"));
        json["interrupted"] = json!(signal);
        Outcome { json, text: String::new(), exit: 128 + number(signal) }
    }

    /// The outcome of work that is worth something when it is not done: where a signal ended it, with
    /// the signal's number and exit code, and a note on stderr.
    pub fn partial(&self, note: &str, mut outcome: Outcome) -> Outcome {
        let signal = self.first.load(Ordering::Relaxed);
        if signal != 0 {
            output::note(&format!("signal {signal}: {note}"));
            outcome.json["interrupted"] = json!(signal);
            outcome.exit = 128 + number(signal);
        }
        outcome
    }

    /// Nothing, unless a signal came.
    /// # Errors
    /// One that says `what` and exits with the signal's code.
    pub fn check(&self, what: &str) -> anyhow::Result<()> {
        match self.first.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Exit::interrupted(number(signal), what).into()),
        }
    }

    /// An error caused by a signal exits with the signal's code; other errors pass through.
    pub fn explain(&self, error: mediswift_data::DataError) -> anyhow::Error {
        match self.first.load(Ordering::Relaxed) {
            0 => error.into(),
            signal => Exit::interrupted(number(signal), error.to_string()).into(),
        }
    }
}

fn number(signal: i32) -> u8 {
    u8::try_from(signal).expect("the watched signals have small numbers")
}
