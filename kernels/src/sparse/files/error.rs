//! What is wrong with a sparse file.

use crate::PatternError;
use mediswift_files::brief;
use std::path::PathBuf;

/// A sparse file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    pub(super) path: PathBuf,
    pub(super) problem: Problem,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileErrorKind {
    /// The system cannot read it.
    Io,
    /// It breaks a rule of its format, or has none that is known.
    Content,
    /// Its arrays do not describe a sparse matrix.
    Pattern,
}

impl FileError {
    /// What is wrong.
    pub fn kind(&self) -> FileErrorKind {
        match self.problem {
            Problem::Io(_) => FileErrorKind::Io,
            Problem::Content(_) => FileErrorKind::Content,
            Problem::Pattern(_) => FileErrorKind::Pattern,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{}", brief(.0))]
    Content(String),
    #[error("{0}")]
    Pattern(#[from] PatternError),
}

impl Problem {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self::Content(text.into())
    }
}
