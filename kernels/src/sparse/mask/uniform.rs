//! Masks without structure.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::drawing::{Selection, kept_of};
use crate::sparse::{PatternError, SparsePattern};

/// A uniformly random mask with exactly [`kept`](super::kept)`(rows · columns, sparsity)` non-zeros: static
/// random pruning at initialisation (MediSwift §2.1), the same for the same seed everywhere.
///
/// One pass of selection sampling: every mask of that size is equally likely, and non-zeros come out in
/// row-major order.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn uniform_random(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    let count = kept_of(rows, columns, sparsity)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut selection = Selection::new(&mut rng, rows as u64 * columns as u64, count);
    let mut column_indices = Vec::with_capacity(count);
    let mut row_offsets = Vec::with_capacity(rows + 1);
    row_offsets.push(0);
    for _ in 0..rows {
        column_indices.extend((0..columns as u32).filter(|_| selection.takes_next()));
        row_offsets.push(column_indices.len() as u32);
    }
    SparsePattern::new(rows, columns, row_offsets, column_indices)
}
