//! Masks: which weights to keep. To add a family, write a function and one line in [`MASKS`].

mod skewed;
mod structured;

pub use self::skewed::{block_biased, column_skewed, row_skewed};
pub use self::structured::{constant_fan_in, n_of_m, whole_blocks};

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

/// A way to draw a mask: (rows, columns, sparsity, seed), with exactly [`kept`] non-zeros.
pub type Draw = fn(usize, usize, f64, u64) -> Result<SparsePattern, PatternError>;

/// Masks that are drawn alike.
#[derive(Debug)]
pub struct MaskFamily {
    /// What settings and the command line call it.
    pub name: &'static str,
    /// Draws one.
    pub draw: Draw,
}

const fn family(name: &'static str, draw: Draw) -> MaskFamily {
    MaskFamily { name, draw }
}

/// Uniformly random masks: what the paper prunes by.
pub const RANDOM: MaskFamily = family("random", uniform_random);

/// Every mask that a study can ask for by name: uniform, uneven, and with structure.
pub static MASKS: &[MaskFamily] = &[
    RANDOM,
    family("row-skewed", row_skewed),
    family("column-skewed", column_skewed),
    family("block", block_biased),
    family("fan-in", constant_fan_in),
    family("4x1", whole_blocks::<4, 1>),
    family("1x4", whole_blocks::<1, 4>),
    family("2x2", whole_blocks::<2, 2>),
    family("4x4", whole_blocks::<4, 4>),
    family("n:m", n_of_m),
];

/// How many weights a mask keeps, if 32-bit indices can name them.
#[track_caller]
fn kept_of(rows: usize, columns: usize, sparsity: f64) -> Result<usize, PatternError> {
    SparsePattern::check(rows, columns, 0)?;
    let places = rows * columns;
    if places > 1 << 52 {
        return Err(PatternError::TooLarge { what: "rows × columns", count: places });
    }
    let count = kept(places, sparsity);
    SparsePattern::check(rows, columns, count)?;
    Ok(count)
}

/// `count` of the numbers below `of`, rising, every choice equally likely.
fn sample(of: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut to_keep = count as u64;
    let mut chosen = Vec::with_capacity(count);
    for at in 0..of {
        let draw = (u128::from(rng.next_u64()) * (of - at) as u128) >> 64;
        if (draw as u64) < to_keep {
            chosen.push(at as u32);
            to_keep -= 1;
        }
    }
    chosen
}

fn assemble(columns: usize, rows: Vec<Vec<u32>>) -> Result<SparsePattern, PatternError> {
    let mut offsets = vec![0];
    let mut indices = Vec::new();
    for row in &rows {
        indices.extend_from_slice(row);
        offsets.push(indices.len() as u32);
    }
    SparsePattern::new(rows.len(), columns, offsets, indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_seeds_matter() {
        for (rows, columns) in [(1, 1), (7, 13), (64, 100), (0, 5)] {
            for sparsity in [0.0, 0.3, 0.5, 0.75, 0.99, 1.0] {
                for MaskFamily { name, draw } in MASKS {
                    let mask = draw(rows, columns, sparsity, 1).unwrap();
                    assert_eq!(mask.nnz(), kept(rows * columns, sparsity), "{name}");
                    assert_eq!((mask.rows(), mask.columns()), (rows, columns), "{name}");
                }
            }
        }
        for MaskFamily { name, draw } in MASKS {
            let mask = |seed| draw(20, 20, 0.5, seed).unwrap();
            assert_eq!(mask(1), mask(1), "{name}");
            assert_ne!(mask(1), mask(2), "{name}");
        }
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
