//! What all ways to draw a mask need: how many weights stay, and places drawn by chance.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::sparse::{PatternError, SparsePattern};

/// Number of weights that sparsity `s` keeps of `count`: `count · (1 − s)`, rounded to nearest.
/// # Panics
/// If `s` lies outside [0, 1].
#[track_caller]
pub fn kept(count: usize, sparsity: f64) -> usize {
    assert!((0.0..=1.0).contains(&sparsity), "sparsity {sparsity} lies outside [0, 1]");
    (count as f64 * (1.0 - sparsity)).round() as usize
}

/// How many weights a mask keeps, if 32-bit indices can name them.
#[track_caller]
pub(super) fn kept_of(rows: usize, columns: usize, sparsity: f64) -> Result<usize, PatternError> {
    SparsePattern::check(rows, columns, 0)?;
    let places = rows * columns;
    if places > 1 << 52 {
        return Err(PatternError::TooLarge { what: "rows × columns", count: places });
    }
    let count = kept(places, sparsity);
    SparsePattern::check(rows, columns, count)?;
    Ok(count)
}

/// Places that come one after the other, of which a number is to be chosen, every choice equally likely
/// (Knuth, TAOCP 2, algorithm S).
pub(super) struct Selection<'a> {
    rng: &'a mut ChaCha8Rng,
    to_keep: u64,
    left: u64,
}

impl<'a> Selection<'a> {
    /// Of `count` out of `of` places.
    pub(super) fn new(rng: &'a mut ChaCha8Rng, of: u64, count: usize) -> Self {
        Self { rng, to_keep: count as u64, left: of }
    }

    /// Whether the next place is chosen.
    pub(super) fn takes_next(&mut self) -> bool {
        // With probability to_keep / left; the 64 × 64-bit product makes it exact to 2⁻⁶⁴.
        let draw = (u128::from(self.rng.next_u64()) * u128::from(self.left)) >> 64;
        let is_taken = (draw as u64) < self.to_keep;
        self.to_keep -= u64::from(is_taken);
        self.left -= 1;
        is_taken
    }
}

/// `count` of the numbers below `of`, rising, every choice equally likely.
pub fn sample(of: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut selection = Selection::new(rng, of as u64, count);
    (0..of as u32).filter(|_| selection.takes_next()).collect()
}

/// The pattern of so many columns whose rows have these, rising.
pub(super) fn assemble(columns: usize, rows: Vec<Vec<u32>>) -> Result<SparsePattern, PatternError> {
    let mut offsets = vec![0];
    let mut indices = Vec::new();
    for row in &rows {
        indices.extend_from_slice(row);
        offsets.push(indices.len() as u32);
    }
    SparsePattern::new(rows.len(), columns, offsets, indices)
}
