//! [`Ledger`]: the folder of a study's cells, which knows what is finished and under what settings.
//!
//! ```text
//! CELLS/NAME/        the run folder of a cell
//!       NAME.toml    its settings, written before it starts
//!       NAME.json    its record
//!       LOCK         held by the study at work
//! ```

use super::cell::{Cell, Work};
use super::plan::Study;
use super::record::{Machine, Outcome, Record};
use super::sources::{Fingerprints, Sources};
use crate::cells::Cells;
use crate::error::Error;
use crate::finetune::folder::read_examples;
use crate::run;
use mediswift_files::{self as files, Lock, SMALL};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder of cells, and the records in it.
#[derive(Debug)]
pub struct Ledger {
    cells: Cells,
    records: BTreeMap<String, Record>,
    /// Where their data is.
    sources: Sources,
    lock: Option<Lock>,
}

impl Ledger {
    /// Reads what the folder `path` knows of the cells of `study`, and nothing else.
    /// # Errors
    /// If a record is damaged, or a cell was finished with other settings or on other data than there is in `sources`.
    pub fn read(path: &Path, study: &Study, sources: &Sources) -> Result<Self, Error> {
        Self::of(path, study, sources, None)
    }

    /// The same to do what is missing. The folder is made if need be, and locked.
    /// # Errors
    /// As for [`Ledger::read`]; if a cell was started with other settings, or another process trains in the folder.
    pub fn open(path: &Path, study: &Study, sources: &Sources) -> Result<Self, Error> {
        files::create_folders(path)?;
        let lock = run::lock(path)?;
        Self::of(path, study, sources, Some(lock))
    }

    fn of(
        path: &Path,
        study: &Study,
        sources: &Sources,
        lock: Option<Lock>,
    ) -> Result<Self, Error> {
        let (cells, records) = (Cells::of(path), BTreeMap::new());
        let mut ledger = Self { cells, records, sources: sources.clone(), lock };
        let mut fingerprints = Fingerprints::default();
        for cell in &study.cells {
            let Some(cell) = ledger.decided(cell) else { continue };
            if let Some(record) = ledger.known(&cell, &mut fingerprints)? {
                ledger.records.insert(cell.name, record);
            } else if ledger.lock.is_some() {
                ledger.check_started(&cell)?;
            }
        }
        Ok(ledger)
    }

    /// A cell without rules, if all that it comes after are finished.
    pub fn decided(&self, cell: &Cell) -> Option<Cell> {
        cell.decided(|name| self.records.get(name))
    }

    /// The record of a finished cell.
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.records.get(name)
    }

    /// Records of all finished cells, by name.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// Where a cell works.
    pub fn place(&self, name: &str) -> PathBuf {
        self.cells.place(name)
    }

    /// Where the run is that a cell works with: its own, or that of the cell whose model it measures.
    pub fn run_of(&self, cell: &Cell) -> PathBuf {
        match &cell.work {
            Work::Pretrain { .. } => self.place(&cell.name),
            Work::Evaluate { of, .. } | Work::Finetune { of, .. } => self.place(of),
        }
    }

    /// Whether a process works on a cell: one that a study left when it was killed.
    /// # Errors
    /// If the system refuses to say.
    pub fn is_busy(&self, cell: &Cell) -> Result<bool, Error> {
        run::is_locked(&self.place(&cell.name))
    }

    /// Writes down the settings of a cell that is to start, and says where.
    /// # Errors
    /// If it was started with others before, or they cannot be written.
    pub fn start(&self, cell: &Cell) -> Result<PathBuf, Error> {
        self.check_started(cell)?;
        let (path, settings) = (self.settings(cell), cell.settings());
        if !settings.is_empty() {
            files::write(&path, settings.as_bytes())?;
        }
        Ok(path)
    }

    /// Keeps what came of a cell that is done: of an evaluation, what it `printed`.
    /// # Errors
    /// If its work cannot be read, or the record not be written.
    pub fn finish(&mut self, cell: &Cell, printed: &str, jobs: usize) -> Result<&Record, Error> {
        let (place, run) = (self.place(&cell.name), self.run_of(cell));
        let there_is = || Ok::<_, Error>(self.sources.fingerprint(cell)?.unwrap_or_default());
        let (outcome, data) = match &cell.work {
            Work::Pretrain { .. } => (Outcome::pretrained(&place)?, there_is()?),
            Work::Evaluate { .. } => (Outcome::evaluated(&run, printed)?, there_is()?),
            Work::Finetune { .. } => (Outcome::tuned(&place)?, read_examples(&place)?),
        };
        let record = Record {
            cell: cell.name.clone(),
            settings: cell.settings(),
            data,
            machine: Machine::of_run(&run, jobs),
            outcome,
        };
        self.cells.finish(&cell.name, &record)?;
        Ok(self.records.entry(cell.name.clone()).or_insert(record))
    }

    fn settings(&self, cell: &Cell) -> PathBuf {
        self.cells.beside(&cell.name, "toml")
    }

    /// The record of a cell, which must be one of the same settings and data.
    fn known(&self, cell: &Cell, fingerprints: &mut Fingerprints) -> Result<Option<Record>, Error> {
        let Some(record) = self.cells.report::<Record>(&cell.name)? else { return Ok(None) };
        let path = self.cells.beside(&cell.name, "json");
        let mut differences = cell.differences(&record.settings, &path)?;
        let has_data = !record.data.is_empty() || matches!(cell.work, Work::Pretrain { .. });
        if has_data
            && let Some(data) = fingerprints.of(&self.sources, cell)?
            && data != record.data
        {
            differences.push("the data is another".into());
        }
        refuse(differences, &path, "finished")?;
        Ok(Some(record))
    }

    /// Checks that a cell that was started but not finished can go on.
    fn check_started(&self, cell: &Cell) -> Result<(), Error> {
        let path = self.settings(cell);
        if !path.exists() || !self.place(&cell.name).exists() {
            return Ok(());
        }
        let differences = cell.differences(&files::read_text(&path, SMALL)?, &path)?;
        refuse(differences, &path, "started")
    }
}

/// Refuses a cell whose settings have changed under it.
fn refuse(differences: Vec<String>, path: &Path, what: &str) -> Result<(), Error> {
    if differences.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "the cell was {what} with other settings: {}; undo that, give the arm another name, or choose another \
         folder of cells",
        differences.join("; ")
    );
    Err(Error::incompatible(path, problem))
}
