//! [`Tiles`]: activations as the kernels hold them.

use mediswift::Precision;
use mediswift::kernels::rows::RowTiles;
use pyo3::prelude::*;

use crate::arrays::{RowArray, RowArrayMut, wrong};
use crate::threads::compute;

/// Activations of some tokens in the layout of the kernels: tiles of sixteen tokens, `[tile][feature][16]`, the
/// last one filled up with zeros.
///
/// Layers that follow each other may hand them on instead of rows, which saves two transpositions each. They
/// belong to the engine, which takes their memory back when nobody holds them any more.
#[pyclass(frozen, module = "mediswift")]
pub struct Tiles {
    pub tiles: RowTiles,
    pub tokens: usize,
    pub features: usize,
}

impl Tiles {
    /// Checks the number of features.
    pub fn check(&self, name: &str, features: usize) -> PyResult<()> {
        if self.features == features {
            return Ok(());
        }
        let found = self.features;
        Err(wrong(name, format!("has {found} features, but must have {features}")))
    }
}

#[pymethods]
impl Tiles {
    /// Tiles of rows `[tokens, features]`.
    #[staticmethod]
    fn of_rows(py: Python<'_>, rows: &Bound<'_, PyAny>, features: usize) -> PyResult<Self> {
        let array = RowArray::of("rows", rows, features)?;
        let (tokens, rows) = (array.tokens(), array.rows()?);
        let work = |pool: &rayon::ThreadPool| pool.install(|| rows.tiles(Precision::F32, features));
        Ok(Self { tiles: compute(py, work)?, tokens, features })
    }

    /// Writes the rows into an array `[tokens, features]`.
    fn write_rows(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut array = RowArrayMut::of("rows", rows, [self.tokens, self.features])?;
        let rows = array.rows()?;
        let RowTiles::F32(tiles) = &self.tiles else {
            return Err(wrong("tiles", "are rounded: those of a layer's input do not come back"));
        };
        compute(py, |pool| pool.install(|| rows.take(tiles, self.features)))
    }

    /// (tokens, features).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.tokens, self.features)
    }

    fn __repr__(&self) -> String {
        format!("Tiles({} tokens × {} features)", self.tokens, self.features)
    }
}
