//! [`Cells`]: a folder of trainings that are known once they are done, whoever asked for them.
//!
//! ```text
//! CELLS/NAME/        what a cell is working on, and what is left of it
//!       NAME.json    its report, written after all else: what has one is not trained again
//! ```
//!
//! The grid of a fine-tuning run is one such folder, a study another.

use crate::error::Error;
use crate::run::json;
use mediswift_files as files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A folder of cells.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    path: PathBuf,
}

impl Cells {
    /// Those in the folder `path`, which need not exist yet.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the work of a cell is.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a file beside it is.
    pub fn beside(&self, name: &str, ending: &str) -> PathBuf {
        self.path.join(format!("{name}.{ending}"))
    }

    /// The report of a cell, if it is finished.
    /// # Errors
    /// If it cannot be read.
    pub fn report<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.beside(name, "json");
        if path.exists() { json::read(&path).map(Some) } else { Ok(None) }
    }

    /// Finishes a cell, whose work is on the disk.
    /// # Errors
    /// If the report cannot be written.
    pub fn finish(&self, name: &str, report: &impl Serialize) -> Result<(), Error> {
        json::write_line(&self.beside(name, "json"), report)
    }

    /// Removes the work of a cell; its report stays.
    /// # Errors
    /// If the system refuses.
    pub fn forget(&self, name: &str) -> Result<(), Error> {
        Ok(files::remove(&self.place(name))?)
    }
}
