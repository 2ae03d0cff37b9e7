//! Masks drawn by chance, whatever the weights: static random pruning at initialisation (MediSwift §2.1), and
//! the families that studies compare it with.

use super::policy::MaskPolicy;
use mediswift_kernels::sparse::mask::MaskFamily;
use mediswift_kernels::{PatternError, SparsePattern};

impl MaskPolicy for MaskFamily {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mask<'v>(
        &self,
        rows: usize,
        columns: usize,
        sparsity: f64,
        seed: u64,
        _: &dyn Fn() -> &'v [f32],
    ) -> Result<SparsePattern, PatternError> {
        (self.draw)(rows, columns, sparsity, seed)
    }
}
