//! The one error type of the crate.
//!
//! Each variant holds where the trouble is, what was found there and what to do about it, because
//! the person who reads the message has the file and not the source code.

mod shard;

use std::io;
use std::path::{Path, PathBuf};

pub use shard::ShardProblem;

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

    /// An input file is damaged or malformed at some place.
    #[error("{}{}, byte {offset}: {problem}; {advice}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Input {
        /// The input file; for a member of an archive, its path within follows.
        path: PathBuf,
        /// 1-based line number in the decompressed text, where lines matter.
        line: Option<u64>,
        /// Bytes of decompressed text before the place.
        offset: u64,
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
    #[error("{problem}; {advice}")]
    Request {
        /// What is impossible.
        problem: String,
        /// What to do.
        advice: String,
    },

    /// The progress callback asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl DataError {
    /// An operating-system error on `path` while doing `action`.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// A problem with a whole file or folder.
    pub(crate) fn file(path: &Path, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        let (problem, advice) = (one_line(problem.into()), advice.into());
        Self::File { path: path.to_owned(), problem, advice }
    }

    /// A problem at a place of an input.
    pub(crate) fn input(
        path: &Path,
        line: Option<u64>,
        offset: u64,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (problem, advice) = (one_line(problem.into()), advice.into());
        Self::Input { path: path.to_owned(), line, offset, problem, advice }
    }

    /// The error lies in what a file holds, and other files may be fine.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Input { .. } | Self::File { .. })
    }

    /// An impossible request.
    pub(crate) fn request(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Request { problem: problem.into(), advice: advice.into() }
    }
}

/// A short line for a message that quotes what was found, which may be megabytes, and anything.
pub(crate) fn one_line(problem: String) -> String {
    const LONGEST: usize = 300;
    if problem.len() <= LONGEST && !problem.contains(char::is_control) {
        return problem;
    }
    let mut line = String::with_capacity(LONGEST);
    for character in problem.chars() {
        if line.len() >= LONGEST {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line_whatever_it_quotes() {
        let quoted = "found \u{1b}[2J and\n".to_owned() + &"é".repeat(1 << 20);
        let error = DataError::input(Path::new("a.xml"), None, 7, quoted, "look at it");
        let message = error.to_string();
        assert!(message.starts_with(r"a.xml, byte 7: found \u{1b}[2J and\nééé"), "{message}");
        assert!(message.ends_with("é…; look at it") && message.len() < 400, "{message}");
    }
}
