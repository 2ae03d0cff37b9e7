//! Uniform random masks: static random pruning at initialisation (MediSwift §2.1).

use super::policy::MaskPolicy;
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{PatternError, SparsePattern};

/// Every mask with the right number of non-zeros is equally likely.
pub(crate) struct UniformRandom;

impl MaskPolicy for UniformRandom {
    fn name(&self) -> &'static str {
        "random"
    }

    fn mask<'v>(
        &self,
        rows: usize,
        columns: usize,
        sparsity: f64,
        seed: u64,
        _: &dyn Fn() -> &'v [f32],
    ) -> Result<SparsePattern, PatternError> {
        uniform_random(rows, columns, sparsity, seed)
    }
}
