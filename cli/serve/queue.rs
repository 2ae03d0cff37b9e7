//! Work waits for its turn: one request is computed at a time, in the order in which they came.
//!
//! Who leaves while waiting leaves the queue; who leaves while being computed for ends that work at its
//! next token. A request that finds the queue full is told to come back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mediswift_model::Error;
use mediswift_model::watch::{Progress, Watch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task;

use super::connections::Computed;
use super::problem::Problem;

/// A queue of requests.
pub struct Queue {
    places: Arc<Semaphore>,
    /// Semaphores are fair: it is first come, first served.
    turn: Arc<Semaphore>,
    /// How long one request may be computed.
    limit: Duration,
    /// Whether the server stops.
    stops: Arc<AtomicBool>,
}

/// The right to compute.
pub struct Turn {
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    limit: Duration,
    stops: Arc<AtomicBool>,
}

impl Queue {
    /// A queue with places for so many requests, the one that is computed included.
    pub fn new(places: usize, limit: Duration, stops: Arc<AtomicBool>) -> Self {
        let (places, turn) = (Semaphore::new(places), Semaphore::new(1));
        Self { places: Arc::new(places), turn: Arc::new(turn), limit, stops }
    }

    /// Waits until no other request is computed.
    pub async fn turn(&self) -> Result<Turn, Problem> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Problem::with_status(503, "too many requests are waiting; try again later")
        })?;
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| stopping())?;
        let (limit, stops) = (self.limit, Arc::clone(&self.stops));
        Ok(Turn { _permits: (place, turn), limit, stops })
    }
}

impl Turn {
    /// Computes an answer, on a thread of its own. `client` is who waits for it.
    pub async fn answer<T: Send + 'static>(
        self,
        client: Computed,
        work: impl FnOnce(&mut Leash<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        task::spawn_blocking(move || {
            let made = work(&mut self.leash(&|| answer.is_closed()));
            drop((self, client));
            // Without anybody who waits for it there is nobody to tell.
            let _ = answer.send(made);
        });
        answered.await.unwrap_or_else(|_| Err(broken()))
    }

    /// Computes on a thread of its own as long as `is_gone` does not hold.
    pub fn run(
        self,
        client: Computed,
        is_gone: impl Fn() -> bool + Send + Sync + 'static,
        work: impl FnOnce(&mut Leash<'_>) + Send + 'static,
    ) {
        task::spawn_blocking(move || {
            work(&mut self.leash(&is_gone));
            drop((self, client));
        });
    }

    fn leash<'a>(&'a self, is_gone: &'a (dyn Fn() -> bool + Sync)) -> Leash<'a> {
        Leash { is_gone, stops: &self.stops, begun: Instant::now(), limit: self.limit }
    }
}

/// Ends work that has no purpose any more, or takes too long.
pub struct Leash<'a> {
    is_gone: &'a (dyn Fn() -> bool + Sync),
    stops: &'a AtomicBool,
    begun: Instant,
    limit: Duration,
}

impl Watch for Leash<'_> {
    fn see(&mut self, _: Progress<'_>) -> ControlFlow<()> {
        let late = self.begun.elapsed() > self.limit;
        match late || self.stops.load(Ordering::Relaxed) || (self.is_gone)() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Leash<'_> {
    /// What an error of the work means.
    pub fn explain(&self, error: Error) -> Problem {
        match error {
            Error::Stopped if self.stops.load(Ordering::Relaxed) => stopping(),
            Error::Stopped => {
                let seconds = self.limit.as_secs();
                let message = format!(
                    "the request took more than {seconds} seconds (--time-limit): ask for less at once"
                );
                Problem::with_status(503, message)
            }
            error => error.into(),
        }
    }
}

/// The server is told to stop.
pub fn stopping() -> Problem {
    Problem::with_status(503, "the server stops")
}

/// The work ended without an answer: it panicked.
fn broken() -> Problem {
    Problem::with_status(500, "the server has a fault; its log says more")
}
