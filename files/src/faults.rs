//! For tests: what is left when a step is the last one, fails, or the power goes after it.
//!
//! [`Recording`] notes the steps that a piece of work takes below a folder, from any thread; its
//! [`each_state`](Recording::each_state) then lays out, one by one, all that a stop of the process may
//! leave of the folder, and some of what a power cut may. [`fail`] makes one step fail.
//! [`abort_after`] ends the process for good.

mod disk;

pub use crate::step::Step;

use disk::Disk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that watches the steps at and below a path.
struct Observer {
    number: usize,
    root: PathBuf,
    kind: Kind,
}

enum Kind {
    Record(Arc<Mutex<Vec<Step>>>),
    /// Steps left, this one included.
    Abort(usize),
    /// Steps before the one that fails.
    Fail(usize),
}

static OBSERVERS: Mutex<Vec<Observer>> = Mutex::new(Vec::new());

fn observers() -> MutexGuard<'static, Vec<Observer>> {
    OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a step at `path`; those that are observed one after another, in the order that is recorded.
pub(crate) fn take<T>(
    path: &Path,
    act: impl FnOnce() -> io::Result<T>,
    step: impl FnOnce(&T) -> Step,
) -> io::Result<T> {
    let mut observers = observers();
    let mut watching: Vec<&mut Kind> = observers
        .iter_mut()
        .filter(|observer| path.starts_with(&observer.root))
        .map(|observer| &mut observer.kind)
        .collect();
    if watching.is_empty() {
        drop(observers);
        return act();
    }
    for kind in &mut watching {
        if let Kind::Fail(before) = kind {
            let fails = *before == 0;
            *before = before.wrapping_sub(1);
            if fails {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "a fault for a test"));
            }
        }
    }
    let done = act()?;
    let step = step(&done);
    for kind in watching {
        match kind {
            Kind::Record(steps) => {
                steps.lock().unwrap_or_else(PoisonError::into_inner).push(step.clone());
            }
            Kind::Abort(left) => {
                *left -= 1;
                if *left == 0 {
                    std::process::abort();
                }
            }
            Kind::Fail(_) => {}
        }
    }
    Ok(done)
}

/// Ends an observation when dropped.
struct Observation(usize);

impl Observation {
    fn begin(root: &Path, kind: Kind) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        observers().push(Observer { number, root: root.to_path_buf(), kind });
        Self(number)
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        observers().retain(|observer| observer.number != self.0);
    }
}

/// Ends the process, as a kill does, after `steps` steps below `root`.
/// # Panics
/// If there is nothing to wait for.
pub fn abort_after(root: &Path, steps: usize) {
    assert!(steps > 0, "after at least one step");
    std::mem::forget(Observation::begin(root, Kind::Abort(steps)));
}

/// Does `work` with the step after `before` steps below `root` refused, as by a full disk; says too
/// whether there was such a step.
pub fn fail<T>(root: &Path, before: usize, work: impl FnOnce() -> T) -> (T, bool) {
    let observation = Observation::begin(root, Kind::Fail(before));
    let done = work();
    let left = observers().iter().find_map(|observer| match observer.kind {
        Kind::Fail(left) if observer.number == observation.0 => Some(left),
        _ => None,
    });
    // Wrapped once it failed.
    (done, left.is_some_and(|left| left > before))
}

/// The steps of a piece of work, and what was there before it.
pub struct Recording {
    before: Disk,
    steps: Vec<Step>,
}

/// What is left of a folder when something stopped the work.
pub struct State<'a> {
    /// The steps that were done.
    pub done: &'a [Step],
    /// Whether the power was cut, and not only the process stopped.
    pub power_cut: bool,
    /// Where what is left was laid out, in place of the folder that was observed.
    pub folder: &'a Path,
}

impl Recording {
    /// Does `work` and notes its steps below the folder `root`.
    /// # Panics
    /// If the folder cannot be read.
    pub fn of<T>(root: &Path, work: impl FnOnce() -> T) -> (T, Self) {
        let before = Disk::read(root);
        let steps = Arc::default();
        let observation = Observation::begin(root, Kind::Record(Arc::clone(&steps)));
        let done = work();
        drop(observation);
        let steps = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
        (done, Self { before, steps })
    }

    /// The steps, in their order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Hands `check` what is left after no step, after one, … , after all: once if the process stops
    /// there, `power_cuts` times if the power is cut. `scratch` is a folder to lay it out in.
    /// # Panics
    /// If `scratch` cannot be written, or the steps do not follow from what was there: then something
    /// was written past this crate.
    pub fn each_state(&self, scratch: &Path, power_cuts: usize, mut check: impl FnMut(&State<'_>)) {
        let mut disk = self.before.clone();
        let folder = scratch.join("left");
        for count in 0..=self.steps.len() {
            if let Some(last) = count.checked_sub(1) {
                disk.follow(&self.steps[last]);
            }
            for cut in 0..=power_cuts {
                if cut == 0 {
                    disk.lay_out(&folder);
                } else {
                    disk.cut_power(&folder, (count * power_cuts + cut) as u64);
                }
                let done = &self.steps[..count];
                check(&State { done, power_cut: cut > 0, folder: &folder });
                std::fs::remove_dir_all(&folder).expect("the scratch folder can be emptied");
            }
        }
    }
}
