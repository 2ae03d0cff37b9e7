//! `.mtx`: coordinate, real, integer or pattern, general, symmetric or skew-symmetric, 1-based, in any
//! order.

use super::error::Problem;
use super::text::{LONGEST, fields, next_line, number};
use crate::{PatternError, SparsePattern};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

pub(super) fn read(file: File) -> Result<SparsePattern, Problem> {
    let mut lines = BufReader::new(file.take(LONGEST)).lines().enumerate();
    let (_, banner) = next_line(&mut lines, "its first line, '%%MatrixMarket …'")?;
    let banner = banner.to_lowercase();
    let words: Vec<&str> = banner.split_whitespace().collect();
    let symmetric = match words[..] {
        [
            "%%matrixmarket",
            "matrix",
            "coordinate",
            "real" | "integer" | "pattern",
            symmetry @ ("general" | "symmetric" | "skew-symmetric"),
        ] => symmetry != "general",
        _ => {
            return Err(Problem::new(
                "line 1: not '%%MatrixMarket matrix coordinate', then real, integer or pattern, \
                 then general, symmetric or skew-symmetric",
            ));
        }
    };
    let values = usize::from(words[3] != "pattern");
    let mut lines = lines.filter(|(_, line)| !line.as_ref().is_ok_and(|l| l.starts_with('%')));
    let (at, line) = next_line(&mut lines, "its size line")?;
    let size: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, entries] = size[..] else {
        return Err(Problem::new(format!(
            "line {at}: {} numbers where 'rows columns entries' belong",
            size.len()
        )));
    };
    if symmetric && rows != columns {
        return Err(Problem::new(format!("line {at}: {rows} × {columns} cannot be symmetric")));
    }
    SparsePattern::check(rows as usize, columns as usize, 0)?;
    let mut places = Vec::new();
    for _ in 0..entries {
        let (at, line) = next_line(&mut lines, &format!("all of its {entries} entries"))?;
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
        if values == 1 && found[2].parse::<f64>().is_err() {
            return Err(Problem::new(format!("line {at}: value '{}' is no number", found[2])));
        }
        places.push((row - 1, column - 1));
        if symmetric && row != column {
            places.push((column - 1, row - 1));
        }
    }
    if let Ok((at, _)) = next_line(&mut lines, "nothing") {
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
    Ok(SparsePattern::new(rows as usize, columns as usize, offsets, indices)?)
}
