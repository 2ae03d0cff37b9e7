//! [`Error`]: the system refused.

use std::io;
use std::path::{Path, PathBuf};

/// The system refused to do something with a file or a folder.
#[derive(Debug)]
pub struct Error {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl Error {
    /// What an I/O error becomes.
    pub fn of(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { action, path: path.to_path_buf(), source }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: cannot {}", self.path.display(), self.action)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
