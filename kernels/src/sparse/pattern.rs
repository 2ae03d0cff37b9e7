//! [`SparsePattern`]: which weights of a layer exist.

use std::ops::Range;

/// The structure of a CSR matrix, validated and immutable.
///
/// Invariants, checked by [`SparsePattern::new`]:
/// * `row_offsets` has `rows + 1` entries, starts at 0, never decreases, ends at the number of
///   column indices;
/// * the column indices of a row strictly increase and are below `columns`.
#[derive(Clone, PartialEq, Eq)]
pub struct SparsePattern {
    rows: usize,
    columns: usize,
    row_offsets: Vec<u32>,
    column_indices: Vec<u32>,
}

/// Why arrays do not describe a CSR structure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Indices are 32 bits wide.
    #[error("{what} {count} does not fit 32-bit indices")]
    TooLarge {
        /// Which extent.
        what: &'static str,
        /// Its value.
        count: usize,
    },
    /// Wrong number of row offsets.
    #[error("{found} row offsets, but {rows} rows need {}", rows + 1)]
    OffsetCount {
        /// Rows of the matrix.
        rows: usize,
        /// Offsets given.
        found: usize,
    },
    /// The first offset is not zero.
    #[error("row offsets start at {0}, not at 0")]
    FirstOffset(u32),
    /// An offset is smaller than the one before it.
    #[error("row offset {after} of row {row} follows {before}: offsets must not decrease")]
    OffsetDecreases {
        /// Row whose end offset is too small.
        row: usize,
        /// Offset before.
        before: u32,
        /// Offset after.
        after: u32,
    },
    /// The last offset is not the number of column indices.
    #[error("the last row offset is {found}, but there are {nnz} column indices")]
    LastOffset {
        /// Last offset.
        found: u32,
        /// Column indices given.
        nnz: usize,
    },
    /// A column index is not below the number of columns.
    #[error("row {row} has column index {column}, but the matrix has {columns} columns")]
    ColumnRange {
        /// Row.
        row: usize,
        /// Offending index.
        column: u32,
        /// Columns of the matrix.
        columns: usize,
    },
    /// Column indices of a row repeat or go back.
    #[error("row {row} has column index {after} after {before}: indices must increase")]
    ColumnOrder {
        /// Row.
        row: usize,
        /// Index before.
        before: u32,
        /// Index after.
        after: u32,
    },
    /// Number of values and of non-zeros differ.
    #[error("{values} values for {nnz} non-zeros")]
    ValueCount {
        /// Values given.
        values: usize,
        /// Non-zeros of the pattern.
        nnz: usize,
    },
    /// Matrices to be stacked differ in width.
    #[error("cannot stack matrices of {0} and {1} columns")]
    Width(usize, usize),
}

impl SparsePattern {
    /// Validates CSR arrays of a `[rows, columns]` matrix.
    /// # Errors
    /// The first invariant that fails, with its position.
    pub fn new(
        rows: usize,
        columns: usize,
        row_offsets: Vec<u32>,
        column_indices: Vec<u32>,
    ) -> Result<Self, PatternError> {
        use PatternError as E;
        Self::check(rows, columns, column_indices.len())?;
        if row_offsets.len() != rows + 1 {
            return Err(E::OffsetCount { rows, found: row_offsets.len() });
        }
        if row_offsets[0] != 0 {
            return Err(E::FirstOffset(row_offsets[0]));
        }
        for (row, pair) in row_offsets.windows(2).enumerate() {
            if pair[1] < pair[0] {
                return Err(E::OffsetDecreases { row, before: pair[0], after: pair[1] });
            }
        }
        if row_offsets[rows] as usize != column_indices.len() {
            return Err(E::LastOffset { found: row_offsets[rows], nnz: column_indices.len() });
        }
        for row in 0..rows {
            let indices = &column_indices[row_offsets[row] as usize..row_offsets[row + 1] as usize];
            if let Some(&column) = indices.iter().find(|&&c| c as usize >= columns) {
                return Err(E::ColumnRange { row, column, columns });
            }
            if let Some(pair) = indices.windows(2).find(|pair| pair[1] <= pair[0]) {
                return Err(E::ColumnOrder { row, before: pair[0], after: pair[1] });
            }
        }
        Ok(Self { rows, columns, row_offsets, column_indices })
    }

    /// Checks extents before anything is allocated for them.
    /// # Errors
    /// If 32-bit indices cannot name all rows, columns and non-zeros.
    pub(super) fn check(rows: usize, columns: usize, nnz: usize) -> Result<(), PatternError> {
        for (what, count) in [("rows", rows), ("columns", columns), ("nnz", nnz)] {
            if count >= u32::MAX as usize {
                return Err(PatternError::TooLarge { what, count });
            }
        }
        Ok(())
    }

    /// The pattern without a zero.
    /// # Errors
    /// If the extents exceed 32-bit indices.
    pub fn full(rows: usize, columns: usize) -> Result<Self, PatternError> {
        Self::check(rows, columns, rows.saturating_mul(columns))?;
        let row_offsets = (0..=rows).map(|row| (row * columns) as u32).collect();
        let column_indices = (0..rows).flat_map(|_| 0..columns as u32).collect();
        Self::new(rows, columns, row_offsets, column_indices)
    }

    /// Rows of the matrix (output features of a layer).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix (input features of a layer).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of stored weights.
    pub fn nnz(&self) -> usize {
        self.column_indices.len()
    }

    /// Stored weights as a fraction of all; 0 for an empty matrix.
    pub fn density(&self) -> f64 {
        let all = self.rows * self.columns;
        if all == 0 { 0.0 } else { self.nnz() as f64 / all as f64 }
    }

    /// `rows + 1` offsets into [`SparsePattern::column_indices`].
    pub fn row_offsets(&self) -> &[u32] {
        &self.row_offsets
    }

    /// Column of every non-zero, row by row.
    pub fn column_indices(&self) -> &[u32] {
        &self.column_indices
    }

    /// Positions of row `row` in the arrays of non-zeros.
    pub fn row_range(&self, row: usize) -> Range<usize> {
        self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize
    }

    /// Column indices of row `row`.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.column_indices[self.row_range(row)]
    }

    /// The transposed pattern, and for each of its non-zeros the position of the same weight here.
    pub fn transpose(&self) -> (SparsePattern, Vec<u32>) {
        let mut row_offsets = vec![0u32; self.columns + 1];
        for &column in &self.column_indices {
            row_offsets[column as usize + 1] += 1;
        }
        for column in 0..self.columns {
            row_offsets[column + 1] += row_offsets[column];
        }
        let mut next = row_offsets.clone();
        let mut column_indices = vec![0; self.nnz()];
        let mut source = vec![0; self.nnz()];
        for row in 0..self.rows {
            for at in self.row_range(row) {
                let slot = &mut next[self.column_indices[at] as usize];
                column_indices[*slot as usize] = row as u32;
                source[*slot as usize] = at as u32;
                *slot += 1;
            }
        }
        let (rows, columns) = (self.columns, self.rows);
        (Self { rows, columns, row_offsets, column_indices }, source)
    }

    /// Puts patterns of equal width on top of each other.
    /// # Errors
    /// If the widths differ or the result exceeds 32-bit indices.
    pub fn stack(parts: &[SparsePattern]) -> Result<SparsePattern, PatternError> {
        let columns = parts.first().map_or(0, |part| part.columns);
        let (mut row_offsets, mut column_indices) = (vec![0u32], Vec::new());
        for part in parts {
            if part.columns != columns {
                return Err(PatternError::Width(columns, part.columns));
            }
            Self::check(row_offsets.len(), columns, column_indices.len() + part.nnz())?;
            let base = column_indices.len() as u32;
            row_offsets.extend(part.row_offsets[1..].iter().map(|offset| base + offset));
            column_indices.extend_from_slice(&part.column_indices);
        }
        Self::new(row_offsets.len() - 1, columns, row_offsets, column_indices)
    }
}

impl std::fmt::Debug for SparsePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SparsePattern({} × {}, {} non-zeros)", self.rows, self.columns, self.nnz())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PatternError as E;

    #[test]
    fn every_broken_invariant_is_named() {
        let new = |offsets: &[u32], columns: &[u32]| {
            SparsePattern::new(2, 3, offsets.to_vec(), columns.to_vec()).unwrap_err()
        };
        assert_eq!(new(&[0, 1], &[0]), E::OffsetCount { rows: 2, found: 2 });
        assert_eq!(new(&[1, 1, 1], &[0]), E::FirstOffset(1));
        assert_eq!(new(&[0, 2, 1], &[0]), E::OffsetDecreases { row: 1, before: 2, after: 1 });
        assert_eq!(new(&[0, 1, 3], &[0, 1]), E::LastOffset { found: 3, nnz: 2 });
        assert_eq!(new(&[0, 1, 2], &[0, 3]), E::ColumnRange { row: 1, column: 3, columns: 3 });
        assert_eq!(new(&[0, 2, 2], &[1, 1]), E::ColumnOrder { row: 0, before: 1, after: 1 });
        assert_eq!(new(&[0, 2, 2], &[2, 1]), E::ColumnOrder { row: 0, before: 2, after: 1 });
    }

    #[test]
    fn transposing_twice_gives_the_pattern_back() {
        let pattern = SparsePattern::new(3, 4, vec![0, 2, 2, 5], vec![1, 3, 0, 1, 2]).unwrap();
        let (twin, source) = pattern.transpose();
        assert_eq!(twin.row_offsets(), [0, 1, 3, 4, 5]);
        assert_eq!(source, [2, 0, 3, 4, 1]);
        assert_eq!(twin.transpose().0, pattern);
    }

    #[test]
    fn stacking_keeps_rows_in_order() {
        let a = SparsePattern::full(1, 2).unwrap();
        let b = SparsePattern::new(2, 2, vec![0, 0, 1], vec![1]).unwrap();
        let stacked = SparsePattern::stack(&[a.clone(), b]).unwrap();
        assert_eq!(stacked.row_offsets(), [0, 2, 2, 3]);
        assert_eq!(stacked.column_indices(), [0, 1, 1]);
        let wide = SparsePattern::full(1, 3).unwrap();
        assert_eq!(SparsePattern::stack(&[a, wide]), Err(E::Width(2, 3)));
    }
}
