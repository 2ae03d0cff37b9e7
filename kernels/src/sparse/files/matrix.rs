//! A matrix as a file has it.

use super::error::Problem;
use crate::{PatternError, SparsePattern};

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

/// Refuses extents that no layer has.
pub(super) fn check_extents(rows: u32, columns: u32) -> Result<(), Problem> {
    if rows.max(columns) > MOST {
        return Err(Problem::new(format!(
            "is {rows} × {columns}: at most {MOST} rows and columns are read"
        )));
    }
    Ok(())
}

/// A matrix from CSR arrays whose rows may be in any order; `zeros` says which values are zero, or
/// nothing if all are to be kept.
pub(super) fn assemble(
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
