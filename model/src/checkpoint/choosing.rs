//! Choosing among the checkpoints of a run: the newest that is complete, and those that may go.

use super::manifest::MANIFEST;
use super::reading::Checkpoint;
use crate::config::CheckpointConfig;
use crate::error::Error;
use mediswift_files::{remove, sync_folder};
use std::fs;
use std::path::{Path, PathBuf};

/// What the folders of checkpoints under way are called.
pub(super) const TEMPORARY: &str = ".tmp-";

/// The newest complete checkpoint of a run, and why newer folders were passed over.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The checkpoint, if there is any.
    pub checkpoint: Option<Checkpoint>,
    /// One warning for each newer folder that cannot be used.
    pub skipped: Vec<String>,
}

/// Looks for the newest complete checkpoint in the folder `run`; a folder that does not exist has
/// none.
/// # Errors
/// If the folder cannot be listed.
pub fn latest(run: &Path) -> Result<Latest, Error> {
    let mut skipped = Vec::new();
    for (_, path) in steps(run)?.into_iter().rev() {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), skipped }),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    Ok(Latest { checkpoint: None, skipped })
}

/// Removes all complete checkpoints of the folder `run` but the newest `keep` and those kept for
/// good, and what interrupted saves and removals left. Damaged checkpoints stay.
/// # Errors
/// If the system refuses.
pub(crate) fn prune(run: &Path, config: &CheckpointConfig) -> Result<(), Error> {
    let mut complete = 0;
    let for_good = |step: u64| match config.keep_every as u64 {
        0 => false,
        every => step.is_multiple_of(every),
    };
    for (step, path) in steps(run)?.into_iter().rev() {
        if !path.join(MANIFEST).exists() {
            discard(&path)?;
        } else if Checkpoint::open(&path).is_ok() {
            complete += 1;
            if complete > config.keep && !for_good(step) {
                discard(&path)?;
            }
        }
    }
    for (name, path) in list(run)? {
        if name.starts_with(TEMPORARY) {
            remove(&path)?;
        }
    }
    Ok(sync_folder(run)?)
}

/// Folders `step-…` of a run with their steps, oldest first.
pub(super) fn steps(run: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut steps: Vec<(u64, PathBuf)> = list(run)?
        .into_iter()
        .filter_map(|(name, path)| Some((name.strip_prefix("step-")?.parse().ok()?, path)))
        .collect();
    steps.sort();
    Ok(steps)
}

/// Names and paths in a folder; none if it does not exist.
pub(super) fn list(run: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", run)(error)),
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(Error::io("list", run))?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

/// Removes a checkpoint; without its manifest it no longer counts as one.
fn discard(path: &Path) -> Result<(), Error> {
    let manifest = path.join(MANIFEST);
    if manifest.exists() {
        remove(&manifest)?;
        sync_folder(path)?;
    }
    Ok(remove(path)?)
}
