//! Choosing among the checkpoints of a run: the one that is wanted, and those that may go.

use super::manifest::MANIFEST;
use super::reading::Checkpoint;
use crate::config::CheckpointConfig;
use crate::error::{Error, ErrorKind};
use mediswift_files::{remove, sync_folder};
use std::fs;
use std::path::{Path, PathBuf};

/// What the folders of checkpoints under way are called.
pub(super) const TEMPORARY: &str = ".tmp-";

/// Which checkpoint of a run is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The newest that is whole: damaged ones are passed over.
    #[default]
    NewestWhole,
    /// The newest; none if that is damaged.
    Newest,
    /// The one after so many optimiser steps.
    Step(u64),
}

/// A checkpoint that was chosen.
pub(crate) struct Chosen<T> {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// What was read of it.
    pub content: T,
    /// One warning for each newer one that was passed over because it cannot be used.
    pub skipped: Vec<String>,
}

/// Chooses a checkpoint in the folder `run` and takes from it what `read` does. One whose content is
/// not what was written is no choice either, which only shows when it is read. Nothing, if there is
/// not a single one.
/// # Errors
/// If none can be used, or the one that is wanted cannot; an error of `read` that speaks of no damage.
pub(crate) fn choose<T>(
    run: &Path,
    choice: Choice,
    mut read: impl FnMut(&Checkpoint) -> Result<T, Error>,
) -> Result<Option<Chosen<T>>, Error> {
    let mut candidates = steps(run)?;
    if let Choice::Step(wanted) = choice {
        let there: Vec<String> = candidates.iter().map(|(step, _)| step.to_string()).collect();
        candidates.retain(|&(step, _)| step == wanted);
        if candidates.is_empty() {
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            let problem = format!("holds no checkpoint after step {wanted} (steps: {there})");
            return Err(Error::not_found(run, problem));
        }
    }
    let mut skipped = Vec::new();
    for (step, path) in candidates.into_iter().rev() {
        let outcome = match open(step, &path) {
            Err(error) => Err((true, error)),
            Ok(checkpoint) => match read(&checkpoint) {
                Ok(content) => Ok((checkpoint, content)),
                Err(error) => Err((is_damage(&error), error)),
            },
        };
        match outcome {
            Ok((checkpoint, content)) => {
                return Ok(Some(Chosen { checkpoint, content, skipped }));
            }
            Err((true, error)) if choice == Choice::NewestWhole => skipped.push(error.to_string()),
            Err((_, error)) => return Err(error),
        }
    }
    if skipped.is_empty() {
        return Ok(None);
    }
    Err(Error::damaged(run, format!("no checkpoint can be used: {}", skipped.join("; "))))
}

/// Whether a file is not what was written, or cannot be read at all.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Io)
}

/// Opens the checkpoint in a folder that is named after `step`.
fn open(step: u64, path: &Path) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open(path)?;
    let found = checkpoint.manifest.step;
    if found != step {
        let problem = format!(
            "holds the checkpoint after step {found}, which its name does not say: name it step-{found:08}"
        );
        return Err(Error::damaged(path, problem));
    }
    Ok(checkpoint)
}

/// The newest complete checkpoint of a run, and why newer folders were passed over.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The checkpoint, if there is any.
    pub checkpoint: Option<Checkpoint>,
    /// One warning for each newer folder that cannot be used.
    pub skipped: Vec<String>,
}

/// Looks for the newest complete checkpoint in the folder `run`, without reading its content; a folder
/// that does not exist has none.
/// # Errors
/// If the folder cannot be listed.
pub fn latest(run: &Path) -> Result<Latest, Error> {
    let mut skipped = Vec::new();
    for (step, path) in steps(run)?.into_iter().rev() {
        match open(step, &path) {
            Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), skipped }),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    Ok(Latest { checkpoint: None, skipped })
}

/// Removes all complete checkpoints of the folder `run` up to step `now` but the newest `keep` and those
/// kept for good, and what interrupted saves and removals left. Damaged checkpoints stay, and so do
/// later ones: they were passed over.
/// # Errors
/// If the system refuses.
pub(crate) fn prune(run: &Path, config: &CheckpointConfig, now: u64) -> Result<(), Error> {
    let mut complete = 0;
    let for_good = |step: u64| match config.keep_every as u64 {
        0 => false,
        every => step.is_multiple_of(every),
    };
    for (step, path) in steps(run)?.into_iter().rev() {
        if !path.join(MANIFEST).exists() {
            discard(&path)?;
        } else if step <= now && open(step, &path).is_ok() {
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
