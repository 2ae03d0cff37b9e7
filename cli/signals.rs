//! Signals that ask long work to stop: a training run gives up the step under way and saves itself,
//! other jobs leave nothing behind.
//!
//! SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what cluster schedulers send before time is up) end the
//! program with 128 + the signal's number: 130, 143 or 138. A SIGINT after any of them ends it at
//! once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::verb::Exit;

/// Holds the first signal that came.
pub struct StopSignal {
    first: Arc<AtomicI32>,
}

impl StopSignal {
    /// Takes the signals over. Only for work that looks at [`flag`](Self::flag) often.
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

    /// 0 until a signal comes, then its number.
    pub fn flag(&self) -> &AtomicI32 {
        &self.first
    }

    /// Go on, or stop: what progress callbacks return.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.first.load(Ordering::Relaxed) {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
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

/// The exit code of work that was saved because of a signal.
pub fn exit_code(signal: i32) -> u8 {
    128 + number(signal)
}

fn number(signal: i32) -> u8 {
    u8::try_from(signal).expect("the watched signals have small numbers")
}
