//! Input files → segments of cleaned documents, in parallel, a unit of input at a time.
//!
//! A unit is a large file, or neighbouring small ones. When all of a unit is on disk, its report is:
//! a run that is interrupted goes on with the units that have none.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use mediswift_files as files;
use serde::{Deserialize, Serialize};

use super::segment::{Properties, Segment, SegmentWriter};
use super::{Progress, Stage};
use crate::DataError;
use crate::clean::sketch::{Sketch, exact};
use crate::clean::{Cleaning, Document, DropReason};
use crate::error::DatasetProblem;
use crate::source::{self, Event, Registry, Revision};

/// Small files are read together up to this many bytes, as stored.
const UNIT_BYTES: u64 = 8 << 20;

/// Damaged places told apart; more are only counted.
const MAX_DAMAGES: usize = 1000;

/// How often progress is reported.
const REPORT: Duration = Duration::from_millis(100);

/// Files that are read one after the other by one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Index of the input, as asked for, that the files belong to.
    pub input: usize,
    pub files: Vec<PathBuf>,
    /// Size of the files as stored.
    pub bytes: u64,
}

/// What became of a unit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub segments: usize,
    pub records: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Damaged places, as messages.
    pub damaged: Vec<String>,
    /// Withdrawn PMIDs, each with the number of the unit's documents that came before.
    pub deleted: Vec<(u64, u64)>,
}

/// Groups files, which are in order, into units.
pub(crate) fn units(files: Vec<(usize, PathBuf)>) -> Result<Vec<Unit>, DataError> {
    let mut units: Vec<Unit> = Vec::new();
    for (input, file) in files {
        let bytes = fs::metadata(&file).map_err(|e| DataError::io("open", &file, e))?.len();
        match units.last_mut() {
            Some(unit) if unit.input == input && unit.bytes + bytes <= UNIT_BYTES => {
                unit.files.push(file);
                unit.bytes += bytes;
            }
            _ => units.push(Unit { input, files: vec![file], bytes }),
        }
    }
    Ok(units)
}

/// Reads all units that have no report yet, and returns all reports.
pub(crate) fn extract(
    units: &[Unit],
    cleaning: &Cleaning,
    strict: bool,
    folder: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Vec<Report>, DataError> {
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
        if report_path(folder, number).is_file() {
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
            let now = Progress {
                stage: Stage::Reading,
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
    (0..units.len()).map(|number| load_report(folder, number)).collect()
}

fn report_path(folder: &Path, unit: usize) -> PathBuf {
    folder.join(format!("{unit:06}.json"))
}

fn load_report(folder: &Path, unit: usize) -> Result<Report, DataError> {
    let path = report_path(folder, unit);
    let bytes = fs::read(&path).map_err(|e| DataError::io("read", &path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        DataError::dataset(&path, DatasetProblem::ReportDamaged { why: e.to_string() })
    })
}

/// All segments of the units, in order.
pub(crate) fn segments(reports: &[Report], folder: &Path) -> Result<Vec<Segment>, DataError> {
    let of_unit = |(unit, report): (usize, &Report)| {
        (0..report.segments).map(move |segment| Segment::open(folder, unit, segment))
    };
    reports.iter().enumerate().flat_map(of_unit).collect()
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
        let mut report = Report { dropped: DropReason::zeros(), ..Report::default() };
        for file in &unit.files {
            // An error of ours must stop the work, however the file's own errors are treated.
            let mut own = None;
            let outcome = source::read_counted(file, &self.bytes_read, &mut |event| {
                self.take(event, &mut writer, &mut report).inspect_err(|_| own = Some(()))
            });
            match outcome {
                Err(damage @ DataError::Input { .. }) if own.is_none() => {
                    self.note(damage, &mut report)?
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        report.segments = writer.finish()?;
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        Ok(files::write(&report_path(self.folder, number), &bytes)?)
    }

    fn take(
        &self,
        event: Event,
        writer: &mut SegmentWriter,
        report: &mut Report,
    ) -> Result<(), DataError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DataError::Interrupted);
        }
        let record = match event {
            Event::Record(record) => record,
            Event::Deleted(numbers) => {
                let before = writer.documents();
                report.deleted.extend(
                    numbers.into_iter().map(|number| (key(Registry::PubMed, number), before)),
                );
                return Ok(());
            }
            Event::Damaged(damage) => {
                report.records += 1;
                count(report, DropReason::Malformed);
                return self.note(damage, report);
            }
        };
        report.records += 1;
        let revision = record.revision;
        match self.cleaning.clean(record) {
            Err(reason) => count(report, reason),
            Ok(document) => {
                writer.push(&document.text, &properties(&document, revision))?;
                self.documents.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn note(&self, damage: DataError, report: &mut Report) -> Result<(), DataError> {
        if self.strict {
            return Err(damage);
        }
        if report.damaged.len() < MAX_DAMAGES {
            report.damaged.push(damage.to_string());
        }
        Ok(())
    }
}

fn count(report: &mut Report, reason: DropReason) {
    *report.dropped.entry(reason.name().to_owned()).or_default() += 1;
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
