//! Signals as a question that long work asks now and then: has someone asked us to stop?

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Remembers the first signal; a second one quits at once.
pub struct Interrupts {
    received: Arc<AtomicUsize>,
}

impl Interrupts {
    /// Takes SIGINT and SIGTERM over. Only for work that asks [`received`](Self::received) often.
    pub fn watch() -> anyhow::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and only sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))
                .and_then(|_| flag::register(signal, Arc::clone(&armed)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&received), signal as usize))
                .context("cannot watch for signals")?;
        }
        Ok(Self { received })
    }

    /// The number of the signal that asked to stop, if one did.
    pub fn received(&self) -> Option<u8> {
        u8::try_from(self.received.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }

    /// Go on, or stop: what progress callbacks return.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.received() {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }
}
