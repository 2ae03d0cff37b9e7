//! Masks: which weights to keep.

use super::{PatternError, SparsePattern};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Number of weights that sparsity `s` keeps of `count`: `count · (1 − s)`, rounded to nearest.
/// # Panics
/// If `s` lies outside [0, 1].
#[track_caller]
pub fn kept(count: usize, sparsity: f64) -> usize {
    assert!((0.0..=1.0).contains(&sparsity), "sparsity {sparsity} lies outside [0, 1]");
    (count as f64 * (1.0 - sparsity)).round() as usize
}

/// A uniformly random mask with exactly [`kept`]`(rows · columns, sparsity)` non-zeros: static
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
    let count = rows.saturating_mul(columns);
    if rows.max(columns) >= u32::MAX as usize || count > 1 << 52 {
        return Err(PatternError::TooLarge { what: "rows × columns", count });
    }
    let mut to_keep = kept(count, sparsity) as u64;
    let mut left = count as u64;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_seeds_matter() {
        for (rows, columns) in [(1, 1), (7, 13), (64, 100), (0, 5)] {
            for sparsity in [0.0, 0.3, 0.5, 0.75, 0.99, 1.0] {
                let mask = uniform_random(rows, columns, sparsity, 1).unwrap();
                assert_eq!(mask.nnz(), kept(rows * columns, sparsity));
            }
        }
        let mask = |seed| uniform_random(20, 20, 0.5, seed).unwrap();
        assert_eq!(mask(1), mask(1));
        assert_ne!(mask(1), mask(2));
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut hits = [0u32; 12];
        for seed in 0..6000 {
            let mask = uniform_random(3, 4, 0.75, seed).unwrap();
            for row in 0..3 {
                for &column in mask.row(row) {
                    hits[row * 4 + column as usize] += 1;
                }
            }
        }
        // 1500 expected, standard deviation ≈ 34.
        assert!(hits.iter().all(|&h| (1330..1670).contains(&h)), "{hits:?}");
    }
}
