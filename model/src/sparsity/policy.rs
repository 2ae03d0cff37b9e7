//! [`MaskPolicy`]: a way to choose the weights that a layer keeps.

use mediswift_kernels::{PatternError, SparsePattern};
use serde::{Serialize, Serializer};
use std::fmt;

/// A way to choose the weights that a layer keeps. Settings and messages know it by its name.
///
/// A program's own policy works wherever settings are handed over as a value, and a saved model keeps its
/// masks; settings in files know the policies of this crate alone.
pub trait MaskPolicy: Sync {
    /// Its name in `sparsity.init_method`.
    fn name(&self) -> &'static str;

    /// A `[rows, columns]` mask with exactly `kept(rows · columns, sparsity)` non-zeros, the same
    /// for the same seed and the same dense values, which `values` returns row by row.
    /// # Errors
    /// If the extents exceed 32-bit indices.
    fn mask<'v>(
        &self,
        rows: usize,
        columns: usize,
        sparsity: f64,
        seed: u64,
        values: &dyn Fn() -> &'v [f32],
    ) -> Result<SparsePattern, PatternError>;
}

impl fmt::Debug for dyn MaskPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn MaskPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Serialize for dyn MaskPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
