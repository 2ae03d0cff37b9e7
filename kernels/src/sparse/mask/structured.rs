//! Masks with structure, for comparison with those that have none: what would a rule buy, in speed, and what
//! does it cost, in learning?

use std::iter;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::drawing::{assemble, kept_of, sample};
use crate::sparse::{PatternError, SparsePattern};

/// The longest group of [`n_of_m`].
const LONGEST_GROUP: usize = 128;

/// A mask with constant fan-in: rows have equal numbers of non-zeros, or one more where they do not come out
/// even; uniform within a row.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn constant_fan_in(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    in_groups(rows, columns, sparsity, seed, columns)
}

/// An N:M mask: of every M neighbours in a row, N stay, any of them. M is the smallest number from 4 to 128
/// of which `1 − sparsity` is a whole N, so 2:4 at 50 %, 1:4 at 75 %, 1:10 at 90 %; where there is none, 128,
/// of which N or N + 1 stay. A row's last group may be shorter.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn n_of_m(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    let is_whole = |m: &usize| {
        let n = *m as f64 * (1.0 - sparsity);
        (n - n.round()).abs() < 1e-9
    };
    let m = (4..=LONGEST_GROUP).find(is_whole).unwrap_or(LONGEST_GROUP);
    in_groups(rows, columns, sparsity, seed, m)
}

/// A mask of blocks of `R` rows × `C` columns, each of which stays or goes as a whole, every one equally
/// likely. Blocks at the lower and right edge may be smaller. So that the count is exact, one more block may
/// stay in part.
/// # Errors
/// If the extents exceed 32-bit indices.
/// # Panics
/// If `sparsity` lies outside [0, 1].
#[track_caller]
pub fn whole_blocks<const R: usize, const C: usize>(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
) -> Result<SparsePattern, PatternError> {
    let mut left = kept_of(rows, columns, sparsity)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let wide = columns.div_ceil(C);
    let all = rows.div_ceil(R) * wide;
    let numbers =
        u32::try_from(all).map_err(|_| PatternError::TooLarge { what: "blocks", count: all });
    let mut blocks: Vec<u32> = (0..numbers?).collect();
    let mut lists = vec![Vec::new(); rows];
    // Blocks in random order until the count is reached, each swapped out of those that are left.
    let mut end = blocks.len();
    while left > 0 {
        let chosen = ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize;
        end -= 1;
        blocks.swap(chosen, end);
        let (row, column) = (blocks[end] as usize / wide * R, blocks[end] as usize % wide * C);
        let places = (row..rows.min(row + R))
            .flat_map(|row| (column..columns.min(column + C)).map(move |column| (row, column)));
        for (row, column) in places.take(left) {
            lists[row].push(column as u32);
            left -= 1;
        }
    }
    lists.iter_mut().for_each(|list| list.sort_unstable());
    assemble(columns, lists)
}

/// A mask whose rows are cut in groups of `size` places, all of the same density as far as that goes: counts
/// of groups of one size differ by one at most. Uniform within a group.
fn in_groups(
    rows: usize,
    columns: usize,
    sparsity: f64,
    seed: u64,
    size: usize,
) -> Result<SparsePattern, PatternError> {
    let count = kept_of(rows, columns, sparsity)? as u128;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let all = (rows * columns).max(1) as u128;
    let mut before = 0;
    let mut row = || {
        let starts = iter::successors(Some(0), |start| Some(start + size.max(1)));
        let mut list = Vec::new();
        for start in starts.take_while(|&start| start < columns) {
            let places = size.min(columns - start);
            // The count of all places up to here, less that of those before.
            let kept = |places: usize| (count * places as u128 / all) as usize;
            let here = kept(before + places) - kept(before);
            before += places;
            let chosen = sample(places, here, &mut rng);
            list.extend(chosen.into_iter().map(|place| start as u32 + place));
        }
        list
    };
    assemble(columns, (0..rows).map(|_| row()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_constant_fan_in_are_equal_or_differ_by_one() {
        let mask = constant_fan_in(40, 64, 0.75, 1).unwrap();
        assert!((0..40).all(|row| mask.row(row).len() == 16));
        let mask = constant_fan_in(7, 13, 0.7, 1).unwrap();
        assert!((0..7).all(|row| [3, 4].contains(&mask.row(row).len())));
    }

    #[test]
    fn of_every_m_neighbours_n_stay() {
        for (sparsity, n, m) in
            [(0.5, 2, 4), (0.75, 1, 4), (0.25, 3, 4), (0.9, 1, 10), (0.3, 7, 10)]
        {
            let mask = n_of_m(9, 120, sparsity, 3).unwrap();
            for row in 0..9 {
                for group in 0..120 / m {
                    let is_here = |column: &&u32| **column as usize / m == group;
                    assert_eq!(mask.row(row).iter().filter(is_here).count(), n, "{sparsity}");
                }
            }
        }
    }

    #[test]
    fn blocks_are_whole_but_one() {
        fn check<const R: usize, const C: usize>(rows: usize, columns: usize, partial: usize) {
            let mask = whole_blocks::<R, C>(rows, columns, 0.75, 5).unwrap();
            let mut counts = vec![0; rows.div_ceil(R) * columns.div_ceil(C)];
            for row in 0..rows {
                for &column in mask.row(row) {
                    counts[row / R * columns.div_ceil(C) + column as usize / C] += 1;
                }
            }
            let full = |block: usize| {
                let (row, column) =
                    (block / columns.div_ceil(C) * R, block % columns.div_ceil(C) * C);
                R.min(rows - row) * C.min(columns - column)
            };
            let is_partial =
                |&(block, &count): &(usize, &usize)| count != 0 && count != full(block);
            assert!(counts.iter().enumerate().filter(is_partial).count() <= partial, "{R}×{C}");
        }
        check::<4, 4>(64, 32, 0);
        check::<4, 1>(64, 32, 0);
        check::<1, 4>(64, 32, 0);
        check::<2, 2>(64, 32, 0);
        check::<4, 4>(37, 51, 1);
        check::<2, 2>(37, 51, 1);
    }
}
