//! How a verb ends: [`Outcome`], or an error, of which some are an [`Exit`].

use std::fmt;

use mediswift_model::error::ErrorKind;
use serde_json::Value;

/// What a verb has to say.
pub struct Outcome {
    /// For programs: one object, printed with `--json`; null from a verb that has printed its
    /// object already.
    pub json: Value,
    /// For people: printed as it is otherwise, so it brings its own final newline.
    pub text: String,
    /// The exit code: 0, unless a signal ended the work after saving.
    pub exit: u8,
}

impl Outcome {
    /// The outcome of work that was completed.
    pub fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), exit: 0 }
    }
}

/// An error that has an exit code of its own; any other error exits with 1.
#[derive(Debug)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// All ranks of the job have it.
    pub is_agreed: bool,
    message: String,
}

impl Exit {
    /// The arguments are well-formed, but ask for something impossible.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, is_agreed: false, message: message.into() }
    }

    /// What is wrong with settings: a usage error, unless a file has them so.
    pub fn settings(error: mediswift_model::Error) -> anyhow::Error {
        match error.kind() {
            ErrorKind::Setting => Self::usage(error.to_string()).into(),
            _ => error.into(),
        }
    }

    /// A signal ended the work before it was done.
    pub fn interrupted(signal: u8, message: impl Into<String>) -> Self {
        Self { code: 128 + signal, is_agreed: false, message: message.into() }
    }

    /// An error that all ranks of the job return.
    pub fn agreed(code: u8, message: impl Into<String>) -> Self {
        Self { code, is_agreed: true, message: message.into() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}
