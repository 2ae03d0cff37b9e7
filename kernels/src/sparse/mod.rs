//! Sparse matrices: the pattern apart from the values.

#[cfg(feature = "convert")]
mod convert;
mod csr;
pub mod files;
pub mod mask;
mod pattern;

pub use csr::CsrMatrix;
pub use pattern::{PatternError, SparsePattern};
