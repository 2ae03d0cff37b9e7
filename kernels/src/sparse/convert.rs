//! Conversions at the edge: `ndarray` matrices and `sprs` CSR matrices.

use super::{CsrMatrix, PatternError, SparsePattern};
use ndarray::{Array2, ArrayView2};
use std::sync::Arc;

impl CsrMatrix {
    /// The non-zero elements of a dense matrix (a NaN counts as one).
    /// # Errors
    /// If the extents exceed 32-bit indices.
    pub fn from_ndarray(dense: ArrayView2<'_, f32>) -> Result<Self, PatternError> {
        let (mut offsets, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
        for row in dense.rows() {
            for (column, &value) in row.iter().enumerate() {
                if value != 0.0 {
                    columns.push(column as u32);
                    values.push(value);
                }
            }
            offsets.push(
                u32::try_from(columns.len())
                    .map_err(|_| PatternError::TooLarge { what: "nnz", count: columns.len() })?,
            );
        }
        let pattern = SparsePattern::new(dense.nrows(), dense.ncols(), offsets, columns)?;
        Self::new(Arc::new(pattern), values)
    }

    /// The matrix with its zeros.
    pub fn to_ndarray(&self) -> Array2<f32> {
        let shape = (self.pattern().rows(), self.pattern().columns());
        Array2::from_shape_vec(shape, self.to_dense()).expect("rows × columns elements")
    }

    /// From a `sprs` matrix, in CSR or CSC order.
    /// # Errors
    /// If the extents exceed 32-bit indices.
    pub fn from_sprs(matrix: &sprs::CsMat<f32>) -> Result<Self, PatternError> {
        let csr = matrix.to_csr();
        let narrow = |what, x: usize| {
            u32::try_from(x).map_err(|_| PatternError::TooLarge { what, count: x })
        };
        let offsets = csr
            .indptr()
            .raw_storage()
            .iter()
            .map(|&x| narrow("nnz", x))
            .collect::<Result<_, _>>()?;
        let columns =
            csr.indices().iter().map(|&x| narrow("columns", x)).collect::<Result<_, _>>()?;
        let pattern = SparsePattern::new(csr.rows(), csr.cols(), offsets, columns)?;
        Self::new(Arc::new(pattern), csr.data().to_vec())
    }

    /// To a `sprs` CSR matrix.
    pub fn to_sprs(&self) -> sprs::CsMat<f32> {
        let widen = |xs: &[u32]| xs.iter().map(|&x| x as usize).collect();
        sprs::CsMat::new(
            (self.pattern().rows(), self.pattern().columns()),
            widen(self.pattern().row_offsets()),
            widen(self.pattern().column_indices()),
            self.values().to_vec(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ndarray_and_sprs_round_trips() {
        let dense = array![[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0]];
        let csr = CsrMatrix::from_ndarray(dense.view()).unwrap();
        assert_eq!(csr.pattern().row_offsets(), [0, 1, 1, 3]);
        assert_eq!(csr.to_ndarray(), dense);
        let sprs = csr.to_sprs();
        assert_eq!(sprs.to_dense(), dense);
        let back = CsrMatrix::from_sprs(&sprs.to_csc()).unwrap();
        assert_eq!(back.pattern(), csr.pattern());
        assert_eq!(back.values(), csr.values());
    }
}
