//! Masks without structure.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::drawing::kept_of;
use crate::sparse::{PatternError, SparsePattern};

/// A uniformly random mask with exactly [`kept`](super::kept)`(rows · columns, sparsity)` non-zeros: static
/// random pruning at initialisation (MediSwift §2.1), the same for the same seed everywhere.
///
/// One pass of selection sampling (Knuth, TAOCP 2, algorithm S): every mask of that size is
/// equally likely, and non-zeros come out in row-major order.
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
    let (mut to_keep, mut left) = (count as u64, rows as u64 * columns as u64);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut column_indices = Vec::with_capacity(to_keep as usize);
    let mut row_offsets = Vec::with_capacity(rows + 1);
    row_offsets.push(0);
    for _ in 0..rows {
        for column in 0..columns as u32 {
            // Keep with probability to_keep / left; the 64 × 64-bit product makes it exact to 2⁻⁶⁴.
            let draw = (u128::from(rng.next_u64()) * u128::from(left)) >> 64;
            if (draw as u64) < to_keep {
                column_indices.push(column);
                to_keep -= 1;
            }
            left -= 1;
        }
        row_offsets.push(column_indices.len() as u32);
    }
    SparsePattern::new(rows, columns, row_offsets, column_indices)
}
