//! Sends the pieces of an answer to a reader that may be slow, without waiting for it.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::answer::event;

/// Pieces that a reader may be behind, besides what the system's buffers hold.
pub const MOST_BEHIND: usize = 1024;

/// How long the model waits, in all, for a reader that is further behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends events, from a thread that computes.
pub struct Stream {
    events: Sender<Bytes>,
    runtime: Handle,
    patience: Duration,
}

impl Stream {
    /// # Panics
    /// If it is not called by a thread of the runtime.
    pub fn new(events: Sender<Bytes>) -> Self {
        Self { events, runtime: Handle::current(), patience: PATIENCE }
    }

    /// Sends an event; says whether it was taken.
    pub fn send(&mut self, data: &str) -> bool {
        let event = match self.events.try_send(event(data)) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(event)) => event,
        };
        let begun = Instant::now();
        let sent = self.runtime.block_on(self.events.send_timeout(event, self.patience));
        self.patience = self.patience.saturating_sub(begun.elapsed());
        sent.is_ok()
    }
}
