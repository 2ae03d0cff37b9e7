//! Input files → segments of cleaned documents, in parallel, a unit of input at a time.
//!
//! A unit is a large file, or neighbouring small ones. When all of a unit is on disk, its account is:
//! a run that is interrupted goes on with the units that have none.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::progress::{PrepareProgress, PrepareStage, Watch};
use super::segment::{Properties, Segment, SegmentWriter};
use super::unit::{Account, Unit};
use crate::DataError;
use crate::clean::sketch::{Sketch, exact};
use crate::clean::{Cleaning, Document, DropReason};
use crate::source::{self, Event, Registry, Revision};

/// Damaged places, and notes, told apart; more are only counted.
const MAX_DAMAGES: usize = 1000;

/// How often progress is reported.
const REPORT: Duration = Duration::from_millis(100);

/// Reads all units that have no account yet, and returns all accounts.
pub(crate) fn extract(
    units: &[Unit],
    cleaning: &Cleaning,
    strict: bool,
    folder: &Path,
    progress: Watch,
) -> Result<Vec<Account>, DataError> {
    let shared = Shared {
        cleaning,
        strict,
        folder,
        bytes_read: AtomicU64::new(0),
        documents: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut waiting = Vec::new();
    for (number, unit) in units.iter().enumerate() {
        if Account::path(folder, number).is_file() {
            shared.bytes_read.fetch_add(unit.bytes, Ordering::Relaxed);
        } else {
            waiting.push(number);
        }
    }
    // The largest first, so that none is left alone at the end.
    waiting.sort_by_key(|&number| std::cmp::Reverse(units[number].bytes));
    let bytes_total = units.iter().map(|unit| unit.bytes).sum();
    let next = AtomicUsize::new(0);
    let (done, finished) = mpsc::channel();
    // Not rayon's threads: this one waits for them, and may be one of rayon's.
    let failures = std::thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            let (done, next, waiting, shared) = (done.clone(), &next, &waiting, &shared);
            scope.spawn(move || {
                while let Some(&number) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = shared.read_unit(number, &units[number]) {
                        shared.stop.store(true, Ordering::Relaxed);
                        // The receiver outlives the threads.
                        let _ = done.send((number, error));
                    }
                }
            });
        }
        drop(done);
        let mut failures = Vec::new();
        loop {
            let now = PrepareProgress {
                stage: PrepareStage::Reading,
                bytes_read: shared.bytes_read.load(Ordering::Relaxed),
                bytes_total,
                documents: shared.documents.load(Ordering::Relaxed),
            };
            if progress(&now).is_break() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            match finished.recv_timeout(REPORT) {
                Ok(failure) => failures.push(failure),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return failures,
            }
        }
    });
    // The failure that says most: damage before the interruption it caused elsewhere.
    let order =
        |failure: &(usize, DataError)| (matches!(failure.1, DataError::Interrupted), failure.0);
    if let Some((_, error)) = failures.into_iter().min_by_key(order) {
        return Err(error);
    }
    if shared.stop.load(Ordering::Relaxed) {
        return Err(DataError::Interrupted);
    }
    (0..units.len()).map(|number| Account::load(folder, number)).collect()
}

/// All segments of the units, in order.
pub(crate) fn segments(accounts: &[Account], folder: &Path) -> Result<Vec<Segment>, DataError> {
    let of_unit = |(unit, account): (usize, &Account)| {
        (0..account.segments).map(move |segment| Segment::open(folder, unit, segment))
    };
    accounts.iter().enumerate().flat_map(of_unit).collect()
}

struct Shared<'a> {
    cleaning: &'a Cleaning,
    strict: bool,
    folder: &'a Path,
    bytes_read: AtomicU64,
    documents: AtomicU64,
    stop: AtomicBool,
}

impl Shared<'_> {
    fn read_unit(&self, number: usize, unit: &Unit) -> Result<(), DataError> {
        let mut writer = SegmentWriter::new(self.folder, number);
        let mut account = Account { dropped: DropReason::zeros(), ..Account::default() };
        for file in &unit.files {
            // An error of ours must stop the work, however the file's own errors are treated.
            let mut own = None;
            let outcome = source::read_counted(file, &self.bytes_read, &mut |event| {
                self.take(event, &mut writer, &mut account).inspect_err(|_| own = Some(()))
            });
            match outcome {
                Err(damage @ DataError::Input { .. }) if own.is_none() => {
                    self.note(damage, &mut account)?
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        account.segments = writer.finish()?;
        account.save(self.folder, number)
    }

    fn take(
        &self,
        event: Event,
        writer: &mut SegmentWriter,
        account: &mut Account,
    ) -> Result<(), DataError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DataError::Interrupted);
        }
        let record = match event {
            Event::Record(record) => record,
            Event::Deleted(numbers) => {
                let before = writer.documents();
                account.deleted.extend(
                    numbers.into_iter().map(|number| (key(Registry::PubMed, number), before)),
                );
                return Ok(());
            }
            Event::Noted(note) => {
                if account.notes.len() < MAX_DAMAGES {
                    account.notes.push(note.to_string());
                }
                return Ok(());
            }
            Event::Damaged(damage) => {
                account.records += 1;
                count(account, DropReason::Malformed);
                return self.note(damage, account);
            }
        };
        account.records += 1;
        let revision = record.revision;
        match self.cleaning.clean(record) {
            Err(reason) => count(account, reason),
            Ok(document) => {
                writer.push(&document.text, &properties(&document, revision))?;
                self.documents.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn note(&self, damage: DataError, account: &mut Account) -> Result<(), DataError> {
        if self.strict {
            return Err(damage);
        }
        if account.damaged.len() < MAX_DAMAGES {
            account.damaged.push(damage.to_string());
        }
        Ok(())
    }
}

fn count(account: &mut Account, reason: DropReason) {
    *account.dropped.entry(reason.name().to_owned()).or_default() += 1;
}

/// Registry and number as one number that is not 0.
pub(crate) fn key(registry: Registry, number: u64) -> u64 {
    let registry = match registry {
        Registry::PubMed => 1,
        Registry::Pmc => 2,
    };
    registry << 60 | number & ((1 << 60) - 1)
}

fn properties(document: &Document, revision: Option<Revision>) -> Properties {
    let exact = exact(&document.text);
    let draw = match &document.identity {
        Some(identity) => crate::clean::sketch::exact(identity)[0],
        None => exact[0],
    };
    Properties {
        draw,
        number: revision.map_or(0, |r| key(r.registry, r.number)),
        version: revision.map_or(0, |r| u64::from(r.version)),
        exact,
        sketch: Sketch::of(&document.text),
    }
}
