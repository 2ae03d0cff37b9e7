//! `.mtx`: coordinate, with values of any kind or none, general, symmetric, skew-symmetric or Hermitian,
//! 1-based, in any order. What only one half of a symmetric matrix says holds for both.

use super::error::Problem;
use super::matrix::{FileMatrix, check_extents};
use super::text::{Lines, fields, number};
use crate::{PatternError, SparsePattern};
use std::fs::File;

/// Longest line: of numbers none comes near, and comments are of people.
const LINE: u64 = 1 << 20;

pub(super) fn read(file: File) -> Result<FileMatrix, Problem> {
    let mut lines = Lines::new(file);
    let (_, banner) = lines.next("its first line, '%%MatrixMarket …'", LINE)?;
    let banner = banner.to_lowercase();
    let words: Vec<&str> = banner.split_whitespace().collect();
    let (values, symmetric) = match words[..] {
        [
            "%%matrixmarket",
            "matrix",
            "coordinate",
            kind @ ("real" | "double" | "float" | "integer" | "unsigned-integer" | "unsigned"
            | "complex" | "pattern"),
            symmetry @ ("general" | "symmetric" | "skew-symmetric" | "hermitian"),
        ] => {
            let values = match kind {
                "pattern" => 0,
                "complex" => 2,
                _ => 1,
            };
            (values, symmetry != "general")
        }
        _ => {
            return Err(Problem::new(
                "line 1: not '%%MatrixMarket matrix coordinate', then real, integer, complex or \
                 pattern, then general, symmetric, skew-symmetric or hermitian",
            ));
        }
    };
    let mut next_line = |what: &str| loop {
        let (at, line) = lines.next(what, LINE)?;
        if !line.trim_start().starts_with('%') {
            return Ok::<_, Problem>((at, line));
        }
    };
    let (at, line) = next_line("its size line")?;
    let size: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, entries] = size[..] else {
        return Err(Problem::new(format!(
            "line {at}: {} numbers where 'rows columns entries' belong",
            size.len()
        )));
    };
    check_extents(rows, columns)?;
    if symmetric && rows != columns {
        return Err(Problem::new(format!("line {at}: {rows} × {columns} cannot be symmetric")));
    }
    let mut places = Vec::new();
    let mut zeros = 0;
    for _ in 0..entries {
        let (at, line) = next_line(&format!("all of its {entries} entries"))?;
        let found: Vec<&str> = fields(&line).collect();
        if found.len() != 2 + values {
            return Err(Problem::new(format!(
                "line {at}: {} fields where {} belong",
                found.len(),
                2 + values
            )));
        }
        let (row, column) = (number(found[0], "row", at)?, number(found[1], "column", at)?);
        if !(1..=rows).contains(&row) || !(1..=columns).contains(&column) {
            return Err(Problem::new(format!(
                "line {at}: place {row}, {column} lies outside 1, 1 … {rows}, {columns}"
            )));
        }
        let mut is_zero = values > 0;
        for value in &found[2..] {
            is_zero &= is_zero_value(value)
                .ok_or_else(|| Problem::new(format!("line {at}: value '{value}' is no number")))?;
        }
        if is_zero {
            zeros += 1;
            continue;
        }
        places.push((row - 1, column - 1));
        if symmetric && row != column {
            places.push((column - 1, row - 1));
        }
    }
    if let Ok((at, _)) = next_line("nothing") {
        return Err(Problem::new(format!("line {at}: more than the {entries} entries announced")));
    }
    places.sort_unstable();
    if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]) {
        let (row, column) = (twice[0].0 + 1, twice[0].1 + 1);
        return Err(Problem::new(format!("the place {row}, {column} appears twice")));
    }
    if places.len() >= u32::MAX as usize {
        return Err(PatternError::TooLarge { what: "nnz", count: places.len() }.into());
    }
    let mut offsets = vec![0u32; rows as usize + 1];
    for &(row, _) in &places {
        offsets[row as usize + 1] += 1;
    }
    for row in 0..rows as usize {
        offsets[row + 1] += offsets[row];
    }
    let indices = places.into_iter().map(|(_, column)| column).collect();
    let pattern = SparsePattern::new(rows as usize, columns as usize, offsets, indices)?;
    Ok(FileMatrix { pattern, zeros })
}

/// Whether a number is zero; none if it is no number. Fortran writes `1.5D+03`.
fn is_zero_value(text: &str) -> Option<bool> {
    let value = text.parse::<f64>().or_else(|_| text.replace(['d', 'D'], "e").parse());
    value.ok().map(|value: f64| value == 0.0)
}
