//! The one error type of the crate.
//!
//! Each variant says where the trouble is, and what it is as a value that a program can match; the
//! message says what to do too, because who reads it has the file and not the source code.

mod dataset;
mod input;
mod request;
mod shard;
mod tokenizer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use dataset::DatasetProblem;
pub use input::InputProblem;
pub use request::RequestProblem;
pub use shard::ShardProblem;
pub use tokenizer::TokenizerProblem;

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

    /// An input is damaged or malformed, or no input at all.
    #[error("{}{}: {problem}", path.display(), place.map(|place| place.to_string()).unwrap_or_default())]
    Input {
        /// The input file; for a member of an archive, its path within follows.
        path: PathBuf,
        /// Where in the file; none if it is the file as a whole.
        place: Option<InputPlace>,
        /// What was found.
        problem: InputProblem,
    },

    /// A file or folder is no dataset or part of one, or must not become one.
    #[error("{}: {problem}", path.display())]
    Dataset {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        problem: DatasetProblem,
    },

    /// A file is no tokenizer, vocabulary or list of merges.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: TokenizerProblem,
    },

    /// A token shard is damaged or foreign.
    #[error("{}, byte {offset}: {problem}; make the dataset again with `mediswift data prepare`", path.display())]
    Shard {
        /// The shard file.
        path: PathBuf,
        /// Where in the file, in bytes from its beginning.
        offset: u64,
        /// What was found.
        problem: ShardProblem,
    },

    /// What was asked for is impossible, whatever the files hold.
    #[error(transparent)]
    Request(#[from] RequestProblem),

    /// The progress callback asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// A place in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputPlace {
    /// 1-based line number in the decompressed text, where lines matter.
    pub line: Option<u64>,
    /// Bytes of decompressed text before the place.
    pub offset: u64,
}

impl fmt::Display for InputPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ", byte {}", self.offset)
    }
}

impl DataError {
    /// An operating-system error on `path` while doing `action`.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// A problem of an input.
    pub(crate) fn input(path: &Path, place: Option<InputPlace>, problem: InputProblem) -> Self {
        Self::Input { path: path.to_owned(), place, problem }
    }

    /// A problem of a dataset folder or a file of one.
    pub(crate) fn dataset(path: &Path, problem: DatasetProblem) -> Self {
        Self::Dataset { path: path.to_owned(), problem }
    }

    /// A problem of a tokenizer's file.
    pub(crate) fn tokenizer(path: &Path, problem: TokenizerProblem) -> Self {
        Self::Tokenizer { path: path.to_owned(), problem }
    }
}

impl From<mediswift_files::Error> for DataError {
    fn from(mediswift_files::Error { action, path, source }: mediswift_files::Error) -> Self {
        Self::Io { action, path, source }
    }
}
