//! `.smtx`: three lines, `rows, columns, nnz`, the row offsets and the column indices, 0-based, apart by
//! commas or blanks.

use super::error::Problem;
use super::matrix::{FileMatrix, assemble, check_extents};
use super::text::{Lines, fields, length_of, number};
use std::fs::File;

pub(super) fn read(file: File) -> Result<FileMatrix, Problem> {
    let mut lines = Lines::new(file);
    let (at, line) = lines.next("its first line, 'rows, columns, nnz'", length_of(3))?;
    let header: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, nnz] = header[..] else {
        let found = header.len();
        return Err(Problem::new(format!(
            "line {at}: {found} numbers where 'rows, columns, nnz' belong"
        )));
    };
    check_extents(rows, columns)?;
    let (at, line) = lines.next("its row offsets", length_of(u64::from(rows) + 1))?;
    let offsets: Vec<u32> =
        fields(&line).map(|field| number(field, "row offset", at)).collect::<Result<_, _>>()?;
    if offsets.len() != rows as usize + 1 {
        return Err(Problem::new(format!(
            "line {at}: {} row offsets for {rows} rows, {} are needed",
            offsets.len(),
            u64::from(rows) + 1
        )));
    }
    // A matrix without non-zeros may leave the third line out.
    let (at, line) = match lines.next("its column indices", length_of(u64::from(nnz))) {
        Err(Problem::Content(_)) if nnz == 0 => (3, String::new()),
        found => found?,
    };
    let indices: Vec<u32> =
        fields(&line).map(|field| number(field, "column index", at)).collect::<Result<_, _>>()?;
    if indices.len() != nnz as usize {
        return Err(Problem::new(format!(
            "line {at}: {} column indices, but the first line says {nnz} non-zeros",
            indices.len()
        )));
    }
    if let Some((at, _)) = lines.next_if_any(length_of(0))? {
        return Err(Problem::new(format!("line {at}: more after the column indices")));
    }
    Ok(assemble((rows as usize, columns as usize), offsets, indices, Vec::new())?)
}
