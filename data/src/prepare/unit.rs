//! Inputs in pieces of work, and the account of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mediswift_files::{self as files, SMALL};
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::error::DatasetProblem;

/// Small files are read together up to this many bytes, as stored.
const UNIT_BYTES: u64 = 8 << 20;

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
pub(crate) struct Account {
    pub segments: usize,
    pub records: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Damaged places, as messages.
    pub damaged: Vec<String>,
    /// What else should be known, as messages.
    pub notes: Vec<String>,
    /// Withdrawn PMIDs, each with the number of the unit's documents that came before.
    pub deleted: Vec<(u64, u64)>,
}

/// Groups files, which are in order, into units.
pub(crate) fn group(files: Vec<(usize, PathBuf)>) -> Result<Vec<Unit>, DataError> {
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

impl Account {
    /// Where the account of a unit is kept.
    pub fn path(folder: &Path, unit: usize) -> PathBuf {
        folder.join(format!("{unit:06}.json"))
    }

    /// Reads the account of a unit.
    pub fn load(folder: &Path, unit: usize) -> Result<Self, DataError> {
        let path = Self::path(folder, unit);
        let bytes = files::read(&path, SMALL)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            DataError::dataset(&path, DatasetProblem::ReportDamaged { why: e.to_string() })
        })
    }

    /// Keeps the account of a unit: all else of the unit must be on disk.
    pub fn save(&self, folder: &Path, unit: usize) -> Result<(), DataError> {
        let path = Self::path(folder, unit);
        let bytes =
            serde_json::to_vec(self).map_err(|e| DataError::io("write", &path, e.into()))?;
        Ok(files::write(&path, &bytes)?)
    }
}
