//! [`Mpi`]: ranks that are processes of an MPI job.
//!
//! Of MPI only sending and receiving is used. Messages are started and then asked for until they are done
//! or the time is up: a blocking call would wait for a stopped process for ever, and Open MPI moves
//! nothing in the background. Between two questions the thread sleeps a little once an answer is long in
//! coming, so that ranks that wait leave the cores to those that compute.
//!
//! One thread at a time may call MPI (thread level Serialized): messages are one thread's business at any time, and
//! whoever ends the job, which may be another thread that panics, waits for that one to pause, and lets it
//! go on no more.

use crate::tally::Tally;
use crate::{Lost, Ranks, Traffic};
use mpi::environment::{Universe, library_version};
use mpi::request::{LocalScope, Request};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{Destination, Source};
use mpi::{Threading, request};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Most bytes of what MPI is given at once: with its header no more than what Open MPI sends over TCP without asking
/// first. Its question would wait behind all that is on the way already, and so two ranks that send each
/// other large messages would take turns.
const PIECE: usize = 60 << 10;

/// Pieces under way at once, in each direction.
const WINDOW: usize = 16;

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
    /// Held by the thread that is inside of MPI.
    calls: Mutex<()>,
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
            calls: Mutex::default(),
            tally: Tally::default(),
        })
    }

    /// What only one thread may have at a time, whoever panicked with it.
    fn calls(&self) -> MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message of one direction, as far as it is under way.
type UnderWay<'a, 's, D> = VecDeque<Request<'a, D, &'s LocalScope<'a>>>;

/// Lets go of what is done of it; whether anything was.
fn advance<D: ?Sized>(pieces: &mut UnderWay<'_, '_, D>) -> bool {
    let before = pieces.len();
    while let Some(first) = pieces.pop_front() {
        if let Err(first) = first.test() {
            pieces.push_front(first);
            break;
        }
    }
    pieces.len() < before
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
        self.tally.received(into.len());
        if !message.is_empty() {
            self.tally.sent(message.len());
        }
        let calls = self.calls();
        let world = SimpleCommunicator::world();
        let (target, source) =
            (world.process_at_rank(to as i32), world.process_at_rank(from as i32));
        drop(calls);
        request::scope(|scope| {
            let (mut outgoing, mut incoming) = (message.chunks(PIECE), into.chunks_mut(PIECE));
            let (mut sending, mut receiving) = (UnderWay::new(), UnderWay::new());
            // Of a long message the first piece is on its way until it is waited for on the other side, or all
            // that follows might have to be kept there.
            let mut is_awaited = outgoing.len() < 2;
            let started = Instant::now();
            let mut moved = started;
            loop {
                let calls = self.calls();
                while receiving.len() < WINDOW
                    && let Some(piece) = incoming.next()
                {
                    receiving.push_back(source.immediate_receive_into(scope, piece));
                }
                if !is_awaited && sending.is_empty() {
                    let first = outgoing.next().expect("several");
                    sending.push_back(target.immediate_synchronous_send(scope, first));
                }
                while is_awaited
                    && sending.len() < WINDOW
                    && let Some(piece) = outgoing.next()
                {
                    sending.push_back(target.immediate_send(scope, piece));
                }
                let (has_come, has_gone) = (advance(&mut receiving), advance(&mut sending));
                drop(calls);
                is_awaited |= has_gone;
                if receiving.is_empty()
                    && sending.is_empty()
                    && incoming.len() + outgoing.len() == 0
                {
                    return Ok(());
                }
                if has_come || has_gone {
                    moved = Instant::now();
                    continue;
                }
                let waited = moved.elapsed();
                if waited > self.patience {
                    let rank = if receiving.is_empty() { to } else { from };
                    self.end(&Lost::Silent { rank, seconds: waited.as_secs() }.to_string());
                }
                if started.elapsed() > EAGER {
                    std::thread::sleep(REST);
                }
            }
        })
    }

    fn end(&self, reason: &str) {
        eprintln!("rank {} of {} on {} ends the job: {reason}", self.rank, self.count, self.name);
        // MPI tells the other processes, for which it may need the very network that is cut.
        std::thread::spawn(|| {
            std::thread::sleep(LAST);
            std::process::abort();
        });
        let _calls = self.calls();
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
