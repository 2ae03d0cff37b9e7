//! The threads that compute: a pool of this module's own, beside those that other packages have.
//!
//! A call gives up the interpreter's lock, takes the locks of what it works on, and then lends the work to the
//! pool. No lock is taken inside the pool: its threads help each other, and one that waited for what the work
//! below it on the same stack holds would wait forever. Only the callback of a training calls from inside of it, with
//! nothing locked below, and computes for others while it waits ([`locked`]).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LockResult, Mutex, PoisonError, TryLockError, TryLockResult};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

/// Most threads that may be asked for.
const MOST: usize = 1024;

/// How often long work looks whether somebody wants to stop it.
const GLANCE: Duration = Duration::from_millis(50);

/// How long a thread of the pool waits for a lock when there is nothing to compute.
const PAUSE: Duration = Duration::from_micros(100);

struct Pool {
    /// The process whose threads these are: a fork has none of them.
    process: u32,
    threads: Arc<ThreadPool>,
}

/// Locked only with the interpreter's lock held.
static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// Calls that compute now.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Counts a call for as long as it computes.
struct AtWork;

impl AtWork {
    fn begin() -> Self {
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

fn build(threads: usize) -> PyResult<Pool> {
    let name = |at| format!("mediswift-{at}");
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
    let threads =
        pool.map_err(|e| PyRuntimeError::new_err(format!("cannot start threads: {e}")))?;
    Ok(Pool { process: std::process::id(), threads: Arc::new(threads) })
}

/// The pool of this process, started if there is none.
/// # Errors
/// If threads cannot be started, or this is a fork of a process that was computing.
fn pool() -> PyResult<Arc<ThreadPool>> {
    let mut slot = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut threads = thread::available_parallelism().map_or(1, usize::from);
    match slot.take() {
        Some(pool) if pool.process == std::process::id() => {
            return Ok(Arc::clone(&slot.insert(pool).threads));
        }
        Some(pool) if AT_WORK.load(Ordering::SeqCst) > 0 => {
            *slot = Some(pool);
            return Err(PyRuntimeError::new_err(
                "this process was forked while another thread of its parent computed here, and waits for it \
                 in vain: start it by multiprocessing's 'spawn' or 'forkserver'",
            ));
        }
        Some(pool) => {
            threads = pool.threads.current_num_threads();
            // Its threads are not here to be ended.
            std::mem::forget(pool);
        }
        None => {}
    }
    Ok(Arc::clone(&slot.insert(build(threads)?).threads))
}

/// Computes on the pool that it is handed, without the interpreter's lock.
/// # Errors
/// As `work`; if there is no pool, or `work` panics.
pub fn compute<T: Send>(py: Python<'_>, work: impl FnOnce(&ThreadPool) -> T + Send) -> PyResult<T> {
    let pool = pool()?;
    let done = py.detach(|| {
        let _at_work = AtWork::begin();
        catch_unwind(AssertUnwindSafe(|| work(&pool)))
    });
    done.map_err(|panic| panicked(&*panic))
}

/// Computes on the pool for long. The thread that calls looks after signals meanwhile; `work` is told to stop
/// by the flag, and is waited for.
/// # Errors
/// As for [`compute`]; what Python's handler of a signal raised, after `work` has ended.
pub fn compute_long<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> T + Send,
) -> PyResult<T> {
    let pool = pool()?;
    let (stop, ended, caller) = (AtomicBool::new(false), AtomicBool::new(false), thread::current());
    let mut interrupt = None;
    let done = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _at_work = AtWork::begin();
            let done = catch_unwind(AssertUnwindSafe(|| pool.install(|| work(&stop))));
            ended.store(true, Ordering::SeqCst);
            caller.unpark();
            done
        });
        while !ended.load(Ordering::SeqCst) {
            py.detach(|| thread::park_timeout(GLANCE));
            if interrupt.is_none()
                && let Err(raised) = py.check_signals()
            {
                stop.store(true, Ordering::SeqCst);
                interrupt = Some(raised);
            }
        }
        py.detach(|| worker.join()).unwrap_or_else(Err)
    });
    match (interrupt, done) {
        (Some(raised), _) => Err(raised),
        (None, done) => done.map_err(|panic| panicked(&*panic)),
    }
}

/// A lock. Who holds it may be waiting for a thread of the pool: one that wants the lock itself, as it does when it
/// calls the callback of a training, computes for others until it has it.
pub fn locked<G>(
    attempt: impl Fn() -> TryLockResult<G>,
    wait: impl FnOnce() -> LockResult<G>,
) -> G {
    if rayon::current_thread_index().is_none() {
        return wait().unwrap_or_else(PoisonError::into_inner);
    }
    loop {
        match attempt() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(error)) => return error.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        if rayon::yield_now() != Some(Yield::Executed) {
            thread::sleep(PAUSE);
        }
    }
}

/// A panic as an exception.
fn panicked(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    PyRuntimeError::new_err(format!("mediswift failed, which is a mistake of its own: {text}"))
}

/// Lets all computing of this process use `n` threads, from 1 to 1024. At first there are as many as the process
/// may use CPUs. Results do not depend on it.
#[pyfunction]
pub fn set_num_threads(n: usize) -> PyResult<()> {
    if !(1..=MOST).contains(&n) {
        return Err(PyValueError::new_err(format!(
            "threads: is {n}, but must be from 1 to {MOST}"
        )));
    }
    if pool()?.current_num_threads() != n {
        *POOL.lock().unwrap_or_else(PoisonError::into_inner) = Some(build(n)?);
    }
    Ok(())
}

/// Threads that compute.
#[pyfunction]
pub fn num_threads() -> PyResult<usize> {
    Ok(pool()?.current_num_threads())
}
