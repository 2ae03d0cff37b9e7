//! The folder in which a dataset is made, and its destination.

use std::fs;
use std::path::{Path, PathBuf};

use mediswift_files::{self as files, LARGE, Lock};
use serde::Serialize;

use super::preparation::Preparation;
use super::unit::Unit;
use crate::error::DatasetProblem;
use crate::{DataError, Tokenizer, manifest};

/// Changed whenever the files in a building folder mean something else.
const BUILDING_VERSION: u32 = 2;

/// Refuses a destination that would lose something nobody asked to lose.
pub(crate) fn check_destination(out: &Path, force: bool) -> Result<(), DataError> {
    if out.file_name().is_none() {
        return Err(DataError::dataset(out, DatasetProblem::NoName));
    }
    let Ok(kind) = fs::symlink_metadata(out) else { return Ok(()) };
    if kind.is_dir() {
        let mut entries = fs::read_dir(out).map_err(|e| DataError::io("list", out, e))?;
        if entries.next().is_none() {
            return Ok(());
        }
    }
    if !kind.is_dir() || !out.join(manifest::FILE_NAME).is_file() {
        return Err(DataError::dataset(out, DatasetProblem::NotADataset));
    }
    if !force {
        return Err(DataError::dataset(out, DatasetProblem::Exists));
    }
    Ok(())
}

/// All that decides what a building folder comes to hold.
#[derive(Serialize)]
pub(crate) struct Plan {
    version: u32,
    /// Path, size and time of change of every file.
    files: Vec<(PathBuf, u64, Option<std::time::SystemTime>)>,
    options: String,
}

impl Plan {
    pub fn of(
        options: &Preparation,
        units: &[Unit],
        given: Option<&Tokenizer>,
    ) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for path in units.iter().flat_map(|unit| &unit.files) {
            let about = fs::metadata(path).map_err(|e| DataError::io("open", path, e))?;
            files.push((path.clone(), about.len(), about.modified().ok()));
        }
        let Preparation { inputs, cleaning, strict, validation_fraction, shard_tokens, .. } =
            options;
        let tokenizer = match given {
            Some(tokenizer) => tokenizer.hash(),
            None => format!("{:?}", options.tokenizer),
        };
        let options = format!(
            "{inputs:?} {cleaning:?} {strict} {validation_fraction} {shard_tokens} {tokenizer}"
        );
        Ok(Self { version: BUILDING_VERSION, files, options })
    }
}

/// File name of the plan within a building folder.
const PLAN: &str = "plan.json";

/// The folder in which a dataset is made, held by one run.
pub(crate) struct Building {
    folder: PathBuf,
    /// Segments and reports.
    pub work: PathBuf,
    /// What becomes the dataset.
    pub dataset: PathBuf,
    _lock: Lock,
}

impl Building {
    fn folder(out: &Path) -> PathBuf {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        out.with_file_name(format!(".{name}.building"))
    }

    /// Removes the folder if its dataset has been moved to `out` already.
    pub fn remove_finished(out: &Path) {
        let folder = Self::folder(out);
        if folder.is_dir()
            && let Ok(Some(_lock)) = Lock::take(&folder.join("lock"))
            && !folder.join("dataset").exists()
        {
            // What cannot be removed now is removed later.
            let _ = files::remove(&folder);
        }
    }

    /// Makes the folder, or goes on in one that was left by a run of the same plan.
    pub fn open(out: &Path, plan: &Plan) -> Result<Self, DataError> {
        let folder = Self::folder(out);
        files::create_folders(&folder)?;
        let Some(lock) = Lock::take(&folder.join("lock"))? else {
            return Err(DataError::dataset(out, DatasetProblem::InUse));
        };
        let (work, dataset) = (folder.join("work"), folder.join("dataset"));
        let plan_path = folder.join(PLAN);
        let bytes =
            serde_json::to_vec(plan).map_err(|e| DataError::io("write", &plan_path, e.into()))?;
        if files::read(&plan_path, LARGE).ok().as_ref() != Some(&bytes) {
            for stale in [&work, &dataset] {
                files::remove(stale)?;
            }
            files::write(&plan_path, &bytes)?;
        }
        for needed in [&work, &dataset] {
            files::create_folders(needed)?;
            files::clear(needed)?;
        }
        Ok(Self { folder, work, dataset, _lock: lock })
    }

    /// Gives the dataset its name; the rest goes.
    pub fn move_to(&self, out: &Path) -> Result<(), DataError> {
        files::put_folder(&self.dataset, out)?;
        self.remove()
    }

    /// Removes it, the plan first: without one, nothing in it counts.
    pub fn remove(&self) -> Result<(), DataError> {
        files::remove(&self.folder.join(PLAN))?;
        files::sync_folder(&self.folder)?;
        Ok(files::remove(&self.folder)?)
    }
}
