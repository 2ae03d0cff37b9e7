//! The one error type of the crate.
//!
//! Each variant holds where the trouble is, what was found there and what to do about it, because
//! the person who reads the message has the file and not the source code.

use std::io;
use std::path::{Path, PathBuf};

/// Why data could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused an operation on a path.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb: `open`, `write`, ….
        action: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A record of an input file is malformed, or the file breaks off there.
    #[error("{}, line {line}: {problem}; {advice}", path.display())]
    Record {
        /// The input file.
        path: PathBuf,
        /// 1-based line number in the decompressed text.
        line: u64,
        /// What was found.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// A file or folder as a whole cannot be used.
    #[error("{}: {problem}; {advice}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// A token shard is damaged or foreign.
    #[error("{}, byte {offset}: {problem}; {advice}", path.display())]
    Shard {
        /// The shard file.
        path: PathBuf,
        /// Where in the file, in bytes from its beginning.
        offset: u64,
        /// What was found.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// What was asked for is impossible, whatever the files hold.
    #[error("{problem}; {advice}")]
    Request {
        /// What is impossible.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// The progress callback asked to stop. Nothing was left behind.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl DataError {
    /// An operating-system error on `path` while doing `action`.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// A problem with a whole file or folder.
    pub(crate) fn file(path: &Path, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), problem: problem.into(), advice: advice.into() }
    }

    /// An impossible request.
    pub(crate) fn request(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Request { problem: problem.into(), advice: advice.into() }
    }
}
