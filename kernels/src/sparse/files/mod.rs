//! Sparse matrices from files: `.smtx`, `.mtx` and scipy's `.npz`. Of values only whether they are zero
//! is read: a study draws its own, and a mask has none.
//!
//! * `.smtx` of the Deep Learning Matrix Collection (`smtx`);
//! * `.mtx` of MatrixMarket (`mtx`);
//! * `.npz` of scipy's `save_npz` (`npz`).
//!
//! Indices within a row may come in any order; a matrix that names a place twice is refused, because
//! which of the two a product should use is anybody's guess. Extents are bounded before anything is made
//! for them: a file of three lines can announce any number of rows.

mod error;
mod matrix;
mod mtx;
mod npz;
mod smtx;
mod text;

pub use self::error::{FileError, FileErrorKind};
pub use self::matrix::FileMatrix;

use self::error::Problem;
use std::path::Path;

/// Reads the pattern of a matrix, by the ending of the file's name.
/// # Errors
/// When the file cannot be read, its format is unknown or it breaks a rule of its format; the message
/// names the path, the place and what was found.
pub fn read(path: &Path) -> Result<FileMatrix, FileError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let reader = match ending.as_deref() {
        Some("smtx") => smtx::read,
        Some("mtx") => mtx::read,
        Some("npz") => npz::read,
        _ => {
            let problem =
                Problem::new("no sparse matrix by its name: files end in .smtx, .mtx or .npz");
            return Err(FileError { path: path.into(), problem });
        }
    };
    let open = || reader(mediswift_files::open(path).map_err(|error| error.source)?);
    open().map_err(|problem| FileError { path: path.into(), problem })
}

#[cfg(test)]
mod tests;
