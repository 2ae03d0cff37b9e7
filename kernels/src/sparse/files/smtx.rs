//! `.smtx`: three lines, `rows, columns, nnz`, the row offsets and the column indices, 0-based, apart by
//! commas or blanks.

use super::error::Problem;
use super::text::{LONGEST, fields, next_line, number};
use crate::SparsePattern;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

pub(super) fn read(file: File) -> Result<SparsePattern, Problem> {
    let mut lines = BufReader::new(file.take(LONGEST)).lines().enumerate();
    let (at, line) = next_line(&mut lines, "its first line, 'rows, columns, nnz'")?;
    let header: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, nnz] = header[..] else {
        let found = header.len();
        return Err(Problem::new(format!(
            "line {at}: {found} numbers where 'rows, columns, nnz' belong"
        )));
    };
    let (at, line) = next_line(&mut lines, "its row offsets")?;
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
    let (at, line) = match next_line(&mut lines, "its column indices") {
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
    if let Ok((at, _)) = next_line(&mut lines, "nothing") {
        return Err(Problem::new(format!("line {at}: more after the column indices")));
    }
    Ok(SparsePattern::new(rows as usize, columns as usize, offsets, indices)?)
}
