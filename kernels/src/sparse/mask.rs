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

/// Every mask that a study can ask for by name.
pub const MASKS: &[(&str, Draw)] = &[
    ("random", uniform_random),
    ("row-skewed", row_skewed),
    ("column-skewed", column_skewed),
    ("block", block_biased),
];

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
                for (name, draw) in MASKS {
                    let mask = draw(rows, columns, sparsity, 1).unwrap();
                    assert_eq!(mask.nnz(), kept(rows * columns, sparsity), "{name}");
                    assert_eq!((mask.rows(), mask.columns()), (rows, columns), "{name}");
                }
            }
        }
        for (name, draw) in MASKS {
            let mask = |seed| draw(20, 20, 0.5, seed).unwrap();
            assert_eq!(mask(1), mask(1), "{name}");
            assert_ne!(mask(1), mask(2), "{name}");
        }
    }

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
