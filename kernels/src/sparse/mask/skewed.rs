//! Masks whose densities differ by a power law.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::drawing::{assemble, kept_of, sample};
use crate::sparse::{PatternError, SparsePattern};

/// Exponent of the skewed densities: the r-th densest row has a share of r^-½.
const SKEW: f64 = 0.5;

/// Edge of the blocks of [`block_biased`].
const BLOCK: usize = 16;

/// A mask whose rows differ in density by a power law, in random order; uniform within a row. What
/// magnitude pruning leaves of trained layers looks like this, only milder.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn row_skewed(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    let count = kept_of(rows, columns, sparsity)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights: Vec<f64> = (1..=rows).map(|r| (r as f64).powf(-SKEW)).collect();
    shuffle(&mut weights, &mut rng);
    let counts = share(count, &weights, &vec![columns; rows]);
    let rows: Vec<Vec<u32>> = counts.iter().map(|&n| sample(columns, n, &mut rng)).collect();
    assemble(columns, rows)
}

/// A mask whose columns differ in density as the rows of [`row_skewed`] do.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn column_skewed(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    Ok(row_skewed(columns, rows, sparsity, seed)?.transpose().0)
}

/// A mask of blocks of 16 × 16 weights whose densities differ by a power law, in random order;
/// uniform within a block.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn block_biased(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    let count = kept_of(rows, columns, sparsity)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (high, wide) = (rows.div_ceil(BLOCK), columns.div_ceil(BLOCK));
    let extent = |block: usize, all: usize| BLOCK.min(all - block * BLOCK);
    let sizes: Vec<usize> = (0..high * wide)
        .map(|block| extent(block / wide, rows) * extent(block % wide, columns))
        .collect();
    let mut weights: Vec<f64> = (1..=high * wide).map(|r| (r as f64).powf(-SKEW)).collect();
    shuffle(&mut weights, &mut rng);
    let counts = share(count, &weights, &sizes);
    let mut lists = vec![Vec::new(); rows];
    for (block, (&count, &size)) in counts.iter().zip(&sizes).enumerate() {
        let (row, column) = (block / wide * BLOCK, block % wide * BLOCK);
        let width = extent(block % wide, columns);
        // Blocks come from left to right and places within them in order, so lists stay sorted.
        for place in sample(size, count, &mut rng) {
            let place = place as usize;
            lists[row + place / width].push((column + place % width) as u32);
        }
    }
    assemble(columns, lists)
}

fn shuffle(xs: &mut [f64], rng: &mut ChaCha8Rng) {
    for i in (1..xs.len()).rev() {
        xs.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
}

/// Shares out `total` in proportion to the weights, none above its limit, exactly.
fn share(total: usize, weights: &[f64], limits: &[usize]) -> Vec<usize> {
    let mut counts = vec![0; weights.len()];
    let mut left = total;
    // What a full one cannot take goes to the others in the next round; a round that gives nothing
    // by proportion ends with single ones.
    while left > 0 {
        let open = |i: &usize| counts[*i] < limits[*i];
        let open: Vec<usize> = (0..weights.len()).filter(open).collect();
        let sum: f64 = open.iter().map(|&i| weights[i]).sum();
        let before = left;
        for &i in &open {
            let fair = (before as f64 * weights[i] / sum) as usize;
            let given = fair.min(limits[i] - counts[i]).min(left);
            counts[i] += given;
            left -= given;
        }
        if left == before {
            for &i in open.iter().cycle().take(left) {
                let given = 1.min(limits[i] - counts[i]);
                counts[i] += given;
                left -= given;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::mask::uniform_random;

    #[test]
    fn skewed_masks_are_skewed() {
        let counts = |mask: &SparsePattern| -> Vec<usize> {
            let mut counts: Vec<usize> = (0..mask.rows()).map(|r| mask.row(r).len()).collect();
            counts.sort_unstable();
            counts
        };
        let uniform = counts(&uniform_random(256, 256, 0.9, 1).unwrap());
        let rows = counts(&row_skewed(256, 256, 0.9, 1).unwrap());
        let columns = counts(&column_skewed(256, 256, 0.9, 1).unwrap().transpose().0);
        assert!(uniform[255] < 5 * uniform[0], "{} to {}", uniform[0], uniform[255]);
        assert!(rows[255] > 8 * rows[0], "{} to {}", rows[0], rows[255]);
        assert_eq!(rows, columns);
        let block = block_biased(256, 256, 0.9, 1).unwrap();
        let mut in_block = vec![0; 256];
        for row in 0..256 {
            for &column in block.row(row) {
                in_block[row / BLOCK * 16 + column as usize / BLOCK] += 1;
            }
        }
        in_block.sort_unstable();
        assert!(in_block[255] > 8 * in_block[0]);
    }
}
