//! Sparse matrices from files: `.smtx`, `.mtx` and scipy's `.npz`. Values are not read: a study draws
//! its own, and a mask has none.
//!
//! * `.smtx` of the Deep Learning Matrix Collection (`smtx`);
//! * `.mtx` of MatrixMarket (`mtx`);
//! * `.npz` of scipy's `save_npz` (`npz`).
//!
//! Indices within a row must rise; a matrix that names a place twice is refused, because which of the
//! two a product should use is anybody's guess.

mod error;
mod mtx;
mod npz;
mod smtx;
mod text;

pub use self::error::{FileError, FileErrorKind};

use self::error::Problem;
use super::SparsePattern;
use std::fs::File;
use std::path::Path;

/// Reads the pattern of a matrix, by the ending of the file's name.
/// # Errors
/// When the file cannot be read, its format is unknown or it breaks a rule of its format; the message
/// names the path, the place and what was found.
pub fn read(path: &Path) -> Result<SparsePattern, FileError> {
    let reader = match path.extension().and_then(|ending| ending.to_str()) {
        Some("smtx") => smtx::read,
        Some("mtx") => mtx::read,
        Some("npz") => npz::read,
        _ => {
            let problem =
                Problem::new("no sparse matrix by its name: files end in .smtx, .mtx or .npz");
            return Err(FileError { path: path.into(), problem });
        }
    };
    let open = || -> Result<SparsePattern, Problem> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(Problem::new("is a folder"));
        }
        reader(file)
    };
    open().map_err(|problem| FileError { path: path.into(), problem })
}

#[cfg(test)]
mod tests;
