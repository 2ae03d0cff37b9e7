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
mod mtx;
mod npz;
mod smtx;
mod text;

pub use self::error::{FileError, FileErrorKind};

use self::error::Problem;
use super::SparsePattern;
use crate::PatternError;
use std::path::Path;

/// Most rows and most columns that are read, 2²⁴: no layer has as many.
const MOST: u32 = 1 << 24;

/// A matrix as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMatrix {
    /// Where its values are that are not zero.
    pub pattern: SparsePattern,
    /// Values that the file stores though they are zero; they are not in the pattern.
    pub zeros: usize,
}

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

/// Refuses extents that no layer has.
fn check_extents(rows: u32, columns: u32) -> Result<(), Problem> {
    if rows.max(columns) > MOST {
        return Err(Problem::new(format!(
            "is {rows} × {columns}: at most {MOST} rows and columns are read"
        )));
    }
    Ok(())
}

/// A matrix from CSR arrays whose rows may be in any order; `zeros` says which values are zero, or
/// nothing if all are to be kept.
fn assemble(
    (rows, columns): (usize, usize),
    offsets: Vec<u32>,
    mut indices: Vec<u32>,
    zeros: Vec<bool>,
) -> Result<FileMatrix, PatternError> {
    let is_sound = offsets.len() == rows + 1
        && offsets.first() == Some(&0)
        && offsets.is_sorted()
        && offsets.last().is_some_and(|&last| last as usize == indices.len());
    if !is_sound {
        // Says what is wrong.
        let pattern = SparsePattern::new(rows, columns, offsets, indices)?;
        return Ok(FileMatrix { pattern, zeros: 0 });
    }
    let mut kept = vec![0; rows + 1];
    let mut to = 0;
    for row in 0..rows {
        let start = to;
        for at in offsets[row] as usize..offsets[row + 1] as usize {
            if !zeros.get(at).copied().unwrap_or(false) {
                indices[to] = indices[at];
                to += 1;
            }
        }
        indices[start..to].sort_unstable();
        kept[row + 1] = to as u32;
    }
    let zeros = indices.len() - to;
    indices.truncate(to);
    Ok(FileMatrix { pattern: SparsePattern::new(rows, columns, kept, indices)?, zeros })
}

#[cfg(test)]
mod tests;
