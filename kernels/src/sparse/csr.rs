//! [`CsrMatrix`]: a pattern with values.

use super::{PatternError, SparsePattern};
use std::sync::Arc;

/// A sparse matrix: a shared [`SparsePattern`] and one value per non-zero, row by row.
#[derive(Clone, Debug)]
pub struct CsrMatrix {
    pattern: Arc<SparsePattern>,
    values: Vec<f32>,
}

impl CsrMatrix {
    /// Joins a pattern and its values.
    /// # Errors
    /// If there is not exactly one value per non-zero.
    pub fn new(pattern: Arc<SparsePattern>, values: Vec<f32>) -> Result<Self, PatternError> {
        if values.len() != pattern.nnz() {
            return Err(PatternError::ValueCount { values: values.len(), nnz: pattern.nnz() });
        }
        Ok(Self { pattern, values })
    }

    /// The structure.
    pub fn pattern(&self) -> &Arc<SparsePattern> {
        &self.pattern
    }

    /// One value per non-zero, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, to change.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The matrix row by row, zeros included.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.pattern.rows() * self.pattern.columns()];
        for row in 0..self.pattern.rows() {
            for at in self.pattern.row_range(row) {
                let column = self.pattern.column_indices()[at] as usize;
                dense[row * self.pattern.columns() + column] = self.values[at];
            }
        }
        dense
    }

    /// The elements of the row-major matrix `dense` that the pattern keeps.
    /// # Errors
    /// If `dense` does not have `rows · columns` elements.
    pub fn from_dense(pattern: Arc<SparsePattern>, dense: &[f32]) -> Result<Self, PatternError> {
        let size = pattern.rows() * pattern.columns();
        if dense.len() != size {
            return Err(PatternError::ValueCount { values: dense.len(), nnz: size });
        }
        let values = (0..pattern.rows())
            .flat_map(|row| {
                let row_values = &dense[row * pattern.columns()..];
                pattern.row(row).iter().map(move |&column| row_values[column as usize])
            })
            .collect();
        Ok(Self { pattern, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_dense_keeps_what_the_pattern_keeps() {
        let pattern = Arc::new(SparsePattern::new(2, 2, vec![0, 1, 2], vec![1, 0]).unwrap());
        let csr = CsrMatrix::from_dense(pattern.clone(), &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(csr.to_dense(), [0.0, 2.0, 3.0, 0.0]);
        assert!(CsrMatrix::from_dense(pattern.clone(), &[1.0]).is_err());
        assert!(CsrMatrix::new(pattern, vec![1.0]).is_err());
    }
}
