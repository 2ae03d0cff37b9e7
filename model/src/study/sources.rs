//! [`Sources`]: where the data of a study is, and what it is known by.

use super::cell::{Cell, Work};
use crate::error::Error;
use crate::finetune::examples_hash;
use mediswift_data::Dataset;
use mediswift_files as files;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the data of cells is, as far as that is known.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The dataset to train on.
    pub trained_on: Option<PathBuf>,
    /// Other data, by the name that the study gives it.
    pub named: BTreeMap<String, PathBuf>,
}

impl Sources {
    /// Where the data of a cell is.
    pub fn of(&self, cell: &Cell) -> Option<&Path> {
        match &cell.work {
            Work::Pretrain { .. } => self.trained_on.as_deref(),
            Work::Evaluate { data, .. } | Work::Finetune { data, .. } => {
                self.named.get(data).map(PathBuf::as_path)
            }
        }
    }

    /// What the data of a cell is known by, if it is known where that is: of datasets their fingerprint, of a file the
    /// BLAKE3 of what it holds, of a task that of its examples.
    /// # Errors
    /// If the data cannot be read.
    pub fn fingerprint(&self, cell: &Cell) -> Result<Option<String>, Error> {
        let Some(path) = self.of(cell) else { return Ok(None) };
        Ok(Some(match &cell.work {
            Work::Finetune { task, settings, .. } => {
                examples_hash(*task, settings, &[path.to_path_buf()])?
            }
            Work::Evaluate { .. } if path.is_file() => file_hash(path)?,
            Work::Evaluate { .. } | Work::Pretrain { .. } => Dataset::open(path)?.fingerprint(),
        }))
    }
}

fn file_hash(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(files::open(path)?).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Fingerprints that are asked for again and again: those of many cells are the same.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    known: BTreeMap<String, Option<String>>,
}

impl Fingerprints {
    /// [`Sources::fingerprint`].
    /// # Errors
    /// If the data cannot be read.
    pub fn of(&mut self, sources: &Sources, cell: &Cell) -> Result<Option<String>, Error> {
        // Settings decide which examples of a task there are.
        let key = match &cell.work {
            Work::Pretrain { .. } => String::new(),
            Work::Evaluate { data, .. } => format!("evaluated {data}"),
            Work::Finetune { task, settings, data, .. } => {
                format!("{} {data} {}", task.name(), settings.to_toml())
            }
        };
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let found = sources.fingerprint(cell)?;
        self.known.insert(key, found.clone());
        Ok(found)
    }
}
