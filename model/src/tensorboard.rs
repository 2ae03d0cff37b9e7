//! TensorBoard event files, written by hand: the curves of a run while it trains.
//!
//! A file is a list of records, and a record is
//!
//! ```text
//! u64 length | u32 masked CRC-32C of the length | bytes | u32 masked CRC-32C of the bytes
//! ```
//!
//! all little-endian, with `mask(c) = (c rotated right by 15) + 0xa282ead8`. The bytes are an `Event`
//! in the encoding of Protocol Buffers, of which these fields are used:
//!
//! ```text
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//! Summary { repeated Value value = 1; }
//! Value   { string tag = 1; float simple_value = 2; }
//! ```
//!
//! **The events are a function of the run's logs.** The wall time of a step is the run's start plus
//! the seconds of training so far, so pauses do not show, and the events of a run that is resumed
//! are cut, like its logs, at the step it goes on from: no step appears twice or never.

use crate::error::Error;
use crate::run::{StepMetrics, Validation};
use mediswift_files::{self as files, LARGE, Log};
use std::path::Path;
use std::time::SystemTime;

/// Name of the file in a run folder; TensorBoard looks for `tfevents`.
pub const FILE: &str = "events.out.tfevents.mediswift";

/// An event file, open for appending.
#[derive(Debug)]
pub(crate) struct Events {
    file: Log,
    curves: Curves,
}

/// What the wall times and speeds of events depend on.
#[derive(Debug)]
struct Curves {
    /// Seconds since 1970 when the run was started.
    started: f64,
    /// Tokens and seconds of training so far.
    last: (u64, f64),
}

impl Events {
    /// Opens the events of the run in the folder `run`, and makes them those of the given steps and
    /// evaluations.
    /// # Errors
    /// If the file cannot be written.
    pub fn open(
        run: &Path,
        started: SystemTime,
        steps: &[StepMetrics],
        evaluations: &[Validation],
    ) -> Result<Self, Error> {
        let path = run.join(FILE);
        let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut curves = Curves { started: since.as_secs_f64(), last: (0, 0.0) };
        let mut bytes = curves.version();
        let mut evaluations = evaluations.iter().peekable();
        for step in steps {
            bytes.extend(curves.step(step));
            while let Some(evaluation) = evaluations.next_if(|e| e.step <= step.step) {
                bytes.extend(curves.evaluation(evaluation));
            }
        }
        // A TensorBoard that is watching goes on reading the file it has open, if that can be kept.
        if !files::read(&path, LARGE).is_ok_and(|old| old.starts_with(&bytes)) {
            files::write(&path, &bytes)?;
        }
        let mut file = Log::open(&path)?;
        file.cut(bytes.len() as u64)?;
        Ok(Self { file, curves })
    }

    /// Appends the events of an optimiser step.
    /// # Errors
    /// If they cannot be written.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        let record = self.curves.step(metrics);
        Ok(self.file.append(&record)?)
    }

    /// Appends the event of an evaluation.
    /// # Errors
    /// If it cannot be written.
    pub fn evaluation(&mut self, validation: &Validation) -> Result<(), Error> {
        let record = self.curves.evaluation(validation);
        Ok(self.file.append(&record)?)
    }
}

impl Curves {
    /// The record that an event file starts with.
    fn version(&self) -> Vec<u8> {
        record(&event(self.started, 0, &field(3, b"brain.Event:2")))
    }

    fn step(&mut self, metrics: &StepMetrics) -> Vec<u8> {
        let (tokens, seconds) = self.last;
        self.last = (metrics.tokens, metrics.seconds);
        let speed = (metrics.tokens - tokens) as f64 / (metrics.seconds - seconds);
        self.scalars(
            metrics.step,
            &[
                ("train/loss", metrics.loss),
                ("train/learning_rate", metrics.lr),
                ("train/gradient_norm", metrics.grad_norm),
                ("train/tokens_per_second", speed),
            ],
        )
    }

    fn evaluation(&self, validation: &Validation) -> Vec<u8> {
        self.scalars(validation.step, &[("validation/loss", validation.val_loss)])
    }

    fn scalars(&self, step: usize, scalars: &[(&str, f64)]) -> Vec<u8> {
        let value = |&(tag, scalar): &(&str, f64)| {
            let simple_value = (scalar as f32).to_le_bytes();
            field(1, &[field(1, tag.as_bytes()), fixed(2, &simple_value)].concat())
        };
        let summary: Vec<u8> = scalars.iter().flat_map(value).collect();
        record(&event(self.started + self.last.1, step, &field(5, &summary)))
    }
}

fn event(wall_time: f64, step: usize, content: &[u8]) -> Vec<u8> {
    let mut event = fixed(1, &wall_time.to_le_bytes());
    // Field 2 as a varint.
    event.push(2 << 3);
    event.extend(varint(step as u64));
    event.extend(content);
    event
}

/// A number of 4 or 8 bytes.
fn fixed(number: u8, value: &[u8]) -> Vec<u8> {
    let wire_type = if value.len() == 8 { 1 } else { 5 };
    [&[number << 3 | wire_type], value].concat()
}

/// A string or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], &varint(content.len() as u64)[..], content].concat()
}

/// Seven bits per byte, lowest first; the eighth says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let sums = [masked_crc(&length), masked_crc(bytes)].map(u32::to_le_bytes);
    [&length[..], &sums[0], bytes, &sums[1]].concat()
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests;
