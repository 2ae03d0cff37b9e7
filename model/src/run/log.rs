//! [`Log`]: one JSON object a line, appended to while a run goes on.

use crate::error::Error;
use crate::sparsity::MaskUpdate;
use mediswift_files as files;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::marker::PhantomData;
use std::path::Path;

/// One line of `metrics.jsonl`: an optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimiser steps done, this one included.
    pub step: usize,
    /// Mean training loss of the step's batch, in nats per token; NaN, `null` in the file, if the
    /// step was skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients before clipping; NaN, `null` in the file, if the step was skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Seconds spent in training steps so far; evaluating and saving are not counted.
    pub seconds: f64,
    /// Steps skipped so far because a loss or a gradient was not finite.
    #[serde(default)]
    pub skipped: u64,
    /// What became of the masks, if they moved after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskUpdate>,
}

fn null_is_nan<'de, D: Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}

/// One line of `validation.jsonl`: an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Optimiser steps before it.
    pub step: usize,
    /// Mean validation loss, in nats per token.
    pub val_loss: f64,
}

/// A line of a log.
pub trait Line: Serialize + DeserializeOwned {
    /// The log's file name.
    const FILE: &str;
    /// Optimiser steps done when the line was written.
    fn step(&self) -> usize;
}

impl Line for StepMetrics {
    const FILE: &str = "metrics.jsonl";
    fn step(&self) -> usize {
        self.step
    }
}

impl Line for Validation {
    const FILE: &str = "validation.jsonl";
    fn step(&self) -> usize {
        self.step
    }
}

/// A log open for appending.
#[derive(Debug)]
pub(crate) struct Log<T> {
    file: files::Log,
    line: PhantomData<fn(&T)>,
}

/// A log that was opened, and what is in it.
pub(crate) struct Opened<T> {
    /// The log.
    pub log: Log<T>,
    /// Its lines, in the order of steps.
    pub lines: Vec<T>,
    /// The first problem with a line that was left out.
    pub damage: Option<Error>,
}

impl<T: Line> Log<T> {
    /// Opens the log of the run in `folder` for appending after step `step`. What comes later is cut. A
    /// line that cannot be read is left out for good: the log is an account of a run, which goes on
    /// without it.
    /// # Errors
    /// If the log cannot be read or written.
    pub fn open(folder: &Path, step: usize) -> Result<Opened<T>, Error> {
        let path = folder.join(T::FILE);
        let mut file = files::Log::open(&path)?;
        let bytes = file.read()?;
        let (mut lines, mut kept) = (Vec::<T>::new(), Vec::new());
        let (mut damage, mut damage_after) = (None, None);
        for (index, bytes) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            match parse_line::<T>(&path, index, bytes) {
                Ok(line) if line.step() > step => {}
                Ok(line) if lines.last().is_none_or(|last| last.step() < line.step()) => {
                    // Lines before a checkpoint were waited for; after a power cut, later ones may be
                    // anything.
                    damage = damage.or(damage_after.take());
                    lines.push(line);
                    kept.extend(bytes);
                }
                Ok(line) => {
                    let problem = format!("line {}: step {} once more", index + 1, line.step());
                    damage = damage.or_else(|| Some(Error::damaged(&path, problem)));
                }
                Err(error) => damage_after = damage_after.or(Some(error)),
            }
        }
        if bytes.starts_with(&kept) {
            file.cut(kept.len() as u64)?;
        } else {
            files::write(&path, &kept)?;
            file = files::Log::open(&path)?;
        }
        Ok(Opened { log: Self { file, line: PhantomData }, lines, damage })
    }

    /// Appends a line and hands it to the system.
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &T) -> Result<(), Error> {
        Ok(self.file.append(to_line(line).as_bytes())?)
    }

    /// Waits until all lines are on the disk: before a checkpoint that relies on them.
    /// # Errors
    /// If they cannot be written.
    pub fn sync(&mut self) -> Result<(), Error> {
        Ok(self.file.sync()?)
    }
}

/// A log of the run in `path`, without a torn last line.
/// # Errors
/// If it cannot be read, or a line is malformed.
pub fn read_log<T: Line>(path: &Path) -> Result<Vec<T>, Error> {
    let file = path.join(T::FILE);
    let bytes = files::read(&file, u64::MAX)?;
    let lines = files::whole_lines(&bytes);
    lines.enumerate().map(|(index, line)| parse_line(&file, index, line)).collect()
}

/// Reads one line of a log, its end included: without it, the line is torn.
fn parse_line<T: Line>(file: &Path, index: usize, line: &[u8]) -> Result<T, Error> {
    let wrong = |error: &str| Error::damaged(file, format!("line {}: {error}", index + 1));
    let line = line.strip_suffix(b"\n").ok_or_else(|| wrong("it is torn"))?;
    serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))
}

fn to_line(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("plain data") + "\n"
}
