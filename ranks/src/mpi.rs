//! [`Mpi`]: ranks that are processes of an MPI job.
//!
//! Of MPI only sending and receiving is used. Messages are started and then asked for until they are done
//! or the time is up: a blocking call would wait for a stopped process for ever, and Open MPI moves
//! nothing in the background. Between two questions the thread sleeps a little once an answer is long in
//! coming, so that ranks that wait leave the cores to those that compute.

use crate::tally::Tally;
use crate::{Lost, Ranks, Traffic};
use mpi::environment::{Universe, library_version};
use mpi::request::Request;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{Destination, Source};
use mpi::{Threading, request};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// Most bytes of a message: MPI counts in C's int.
const LARGEST: usize = 1 << 30;

/// How long an answer is asked for without a rest.
const EAGER: Duration = Duration::from_micros(200);

/// The rest between two questions after that.
const REST: Duration = Duration::from_micros(50);

/// How long the end of a job may take where MPI hangs.
const LAST: Duration = Duration::from_secs(5);

/// One process of an MPI job.
pub struct Mpi {
    rank: usize,
    count: usize,
    /// How this one is called in messages, such as its host.
    name: String,
    patience: Duration,
    threading: Threading,
    universe: Mutex<Option<ManuallyDrop<Universe>>>,
    tally: Tally,
}

/// Why there are no ranks.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// MPI was started already.
    #[error("MPI was started already in this process")]
    Twice,
    /// The library cannot be used from a program with threads.
    #[error(
        "this MPI library allows no program with threads: it offers {0:?}, and Serialized is needed"
    )]
    Threads(Threading),
}

impl Mpi {
    /// Joins the job that this process was started for. `name` is how the process is called when it ends
    /// the job, `patience` how long it waits for another one.
    /// # Errors
    /// If MPI is in use already or too old.
    pub fn start(name: String, patience: Duration) -> Result<Self, StartError> {
        let start = || mpi::initialize_with_threading(Threading::Serialized);
        let (universe, threading) =
            within(patience, "MPI does not start: some rank may be missing", start)
                .ok_or(StartError::Twice)?;
        if threading < Threading::Serialized {
            return Err(StartError::Threads(threading));
        }
        let world = universe.world();
        Ok(Self {
            rank: world.rank() as usize,
            count: world.size() as usize,
            name,
            patience,
            threading,
            universe: Mutex::new(Some(ManuallyDrop::new(universe))),
            tally: Tally::default(),
        })
    }

    /// Waits for both messages.
    fn wait<'a, A, B, S, R>(
        &self,
        send: Option<Request<'a, A, S>>,
        receive: Option<Request<'a, B, R>>,
        to: usize,
        from: usize,
    ) where
        A: ?Sized,
        B: ?Sized,
        S: request::Scope<'a>,
        R: request::Scope<'a>,
    {
        let started = Instant::now();
        let (mut send, mut receive) = (send, receive);
        loop {
            send = send.and_then(|request| request.test().err());
            receive = receive.and_then(|request| request.test().err());
            if send.is_none() && receive.is_none() {
                return;
            }
            let waited = started.elapsed();
            if waited > self.patience {
                let rank = if receive.is_some() { from } else { to };
                self.end(&Lost::Silent { rank, seconds: waited.as_secs() }.to_string());
            }
            if waited > EAGER {
                std::thread::sleep(REST);
            }
        }
    }
}

/// Does what MPI may never come back from, and ends this process where it takes longer than `limit`.
fn within<T>(limit: Duration, problem: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("error: {problem} ({} seconds)", limit.as_secs());
            std::process::abort();
        }
    });
    let result = work();
    drop(done);
    result
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} of an MPI job", self.rank, self.count)
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn exchange(
        &self,
        to: usize,
        message: &[u8],
        from: usize,
        into: &mut [u8],
    ) -> Result<(), Lost> {
        let world = SimpleCommunicator::world();
        let (target, source) =
            (world.process_at_rank(to as i32), world.process_at_rank(from as i32));
        let (mut message, mut into) = (message, into);
        while !message.is_empty() || !into.is_empty() {
            let part = message.split_off(..message.len().min(LARGEST)).expect("a part");
            let into_part = into.split_off_mut(..into.len().min(LARGEST)).expect("a part");
            self.tally.received(into_part.len());
            request::scope(|scope| {
                let receive = (!into_part.is_empty())
                    .then(|| source.immediate_receive_into(scope, into_part));
                let send = (!part.is_empty()).then(|| {
                    self.tally.sent(part.len());
                    target.immediate_send(scope, part)
                });
                self.wait(send, receive, to, from);
            });
        }
        Ok(())
    }

    fn end(&self, reason: &str) {
        eprintln!("rank {} of {} on {} ends the job: {reason}", self.rank, self.count, self.name);
        // MPI tells the other processes, for which it may need the very network that is cut.
        std::thread::spawn(|| {
            std::thread::sleep(LAST);
            std::process::abort();
        });
        SimpleCommunicator::world().abort(1);
    }

    fn traffic(&self) -> Traffic {
        self.tally.traffic()
    }

    fn transport(&self) -> String {
        // Open MPI adds where it is from, MPICH how it was built.
        let version = library_version().unwrap_or_default();
        let version = version.split([',', '\n', '\0']).next().unwrap_or_default();
        let words: Vec<&str> = version.split_whitespace().collect();
        format!("{}, thread level {:?}", words.join(" "), self.threading)
    }

    fn leave(&self) {
        let universe = self.universe.lock().expect("nobody panics with it").take();
        within(self.patience, "the other ranks do not leave the job", || {
            drop(universe.map(ManuallyDrop::into_inner));
        });
    }
}
