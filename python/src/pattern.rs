//! [`Pattern`]: which weights of a layer exist.

use std::sync::Arc;

use mediswift::SparsePattern;
use mediswift::kernels::sparse::mask::MASKS;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays::{matrix, narrowed, wrong};
use crate::error::IntoException;
use crate::threads::compute;

/// Rows or columns that a mask may be drawn for.
const MOST: usize = 1 << 20;

const TOO_MANY: &str = "keeps more weights than 32-bit indices can name";

/// The names of the masks that can be drawn.
#[pyfunction]
pub fn mask_names() -> Vec<&'static str> {
    MASKS.iter().map(|family| family.name).collect()
}

/// Which weights of a layer exist: the structure of a CSR matrix of `rows` outputs and `columns` inputs.
///
/// Row `r` has the columns `column_indices[row_offsets[r]:row_offsets[r + 1]]`, which increase.
/// A pattern never changes.
#[pyclass(frozen, module = "mediswift", eq)]
#[derive(PartialEq)]
pub struct Pattern(pub Arc<SparsePattern>);

#[pymethods]
impl Pattern {
    /// A pattern from the arrays of a CSR matrix, integers of 64 bits.
    #[new]
    fn new(
        py: Python<'_>,
        rows: usize,
        columns: usize,
        row_offsets: &Bound<'_, PyAny>,
        column_indices: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let offsets = narrowed("row_offsets", row_offsets)?;
        let indices = narrowed("column_indices", column_indices)?;
        let pattern = compute(py, |_| SparsePattern::new(rows, columns, offsets, indices))?;
        Ok(Self(Arc::new(pattern.map_err(IntoException::into_exception)?)))
    }

    /// The pattern of the elements of a matrix `[rows, columns]` of booleans that are true.
    #[staticmethod]
    fn of_mask(py: Python<'_>, mask: &Bound<'_, PyAny>) -> PyResult<Self> {
        matrix::<bool>("mask", mask)?;
        // As bytes: what NumPy calls a boolean may be any of them.
        let mask = mask.call_method1("view", ("uint8",))?;
        let mask = matrix::<u8>("mask", &mask)?;
        let (mask, [rows, columns]) = (mask.as_slice()?, [mask.shape()[0], mask.shape()[1]]);
        let pattern = compute(py, |_| {
            let (mut offsets, mut indices) = (vec![0], Vec::new());
            for row in 0..rows {
                let row = &mask[row * columns..(row + 1) * columns];
                let kept = row.iter().enumerate().filter(|(_, kept)| **kept != 0);
                indices.extend(kept.map(|(column, _)| column as u32));
                offsets.push(u32::try_from(indices.len()).ok()?);
            }
            Some(SparsePattern::new(rows, columns, offsets, indices))
        })?;
        let pattern = pattern.ok_or_else(|| wrong("mask", TOO_MANY))?;
        Ok(Self(Arc::new(pattern.map_err(IntoException::into_exception)?)))
    }

    /// Draws a mask of the family `name`, one of `mask_names()`, that leaves out the fraction `sparsity` of
    /// the weights, in [0, 1).
    #[staticmethod]
    fn draw(
        py: Python<'_>,
        name: &str,
        rows: usize,
        columns: usize,
        sparsity: f64,
        seed: u64,
    ) -> PyResult<Self> {
        let Some(family) = MASKS.iter().find(|family| family.name == name) else {
            let known = mask_names().join(", ");
            return Err(wrong("mask", format!("is '{name}', but must be one of {known}")));
        };
        if !(0.0..1.0).contains(&sparsity) {
            return Err(wrong("sparsity", format!("is {sparsity}, but must lie in [0, 1)")));
        }
        for (what, extent) in [("rows", rows), ("columns", columns)] {
            if extent > MOST {
                return Err(wrong(what, format!("is {extent}, but must be at most {MOST}")));
            }
        }
        if (rows * columns) as f64 * (1.0 - sparsity) >= f64::from(u32::MAX) {
            return Err(wrong("mask", TOO_MANY));
        }
        let pattern = compute(py, |_| (family.draw)(rows, columns, sparsity, seed))?;
        Ok(Self(Arc::new(pattern.map_err(IntoException::into_exception)?)))
    }

    /// (rows, columns): outputs and inputs of the layer.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.0.rows(), self.0.columns())
    }

    /// Weights that are there.
    #[getter]
    fn nnz(&self) -> usize {
        self.0.nnz()
    }

    /// The fraction of weights that is not.
    #[getter]
    fn sparsity(&self) -> f64 {
        1.0 - self.0.density()
    }

    /// Where each row begins among the column indices, and their number: `rows + 1` integers.
    #[getter]
    fn row_offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        py.detach(|| widened(self.0.row_offsets())).into_pyarray(py)
    }

    /// The column of every weight, row by row: `nnz` integers.
    #[getter]
    fn column_indices<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        py.detach(|| widened(self.0.column_indices())).into_pyarray(py)
    }

    /// A matrix `[rows, columns]` of booleans: true where a weight is.
    fn to_mask<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<bool>>> {
        let (rows, columns) = self.shape();
        // NumPy's own zeros: what does not fit is an error there, and pages that stay false are never touched.
        let mask = py.import("numpy")?.call_method1("zeros", ((rows, columns), "bool"))?;
        let mask = mask.cast_into::<PyArray2<bool>>()?;
        let mut lent = mask.readwrite();
        let kept = lent.as_slice_mut()?;
        compute(py, |_| {
            for row in 0..rows {
                self.0.row(row).iter().for_each(|&at| kept[row * columns + at as usize] = true);
            }
        })?;
        drop(lent);
        Ok(mask)
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = self.shape();
        let percent = 100.0 * (1.0 - self.0.density());
        format!("Pattern({rows} × {columns}, {} weights, {percent:.1} % sparse)", self.nnz())
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        let (rows, columns) = this.shape();
        let parts = (rows, columns, this.row_offsets(py), this.column_indices(py));
        Ok((slf.get_type().into_any(), parts.into_pyobject(py)?))
    }

    #[classattr]
    #[pyo3(name = "__hash__")]
    fn hash(py: Python<'_>) -> Py<PyAny> {
        // Equal patterns are many arrays apart from being one: nobody should look them up.
        py.None()
    }
}

fn widened(numbers: &[u32]) -> Vec<i64> {
    numbers.iter().map(|&x| i64::from(x)).collect()
}
