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

/// `count` of the numbers below `of`, rising, every choice equally likely.
pub(super) fn sample(of: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
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
