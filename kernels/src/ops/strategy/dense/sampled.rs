//! What dense products of all kinds of numbers begin and end with: the bias, and the places of a sparse W.

use super::super::Initial;
use crate::parallel::for_each_chunk;
use crate::{LANES, Scratch, SparsePattern};
use rayon::prelude::*;

/// Adds a product to dw, which is the elements at the non-zeros of a pattern, or all. `product` writes
/// rows of whole lines, or adds to them.
pub(super) fn add_product(
    pattern: Option<&SparsePattern>,
    columns: usize,
    dw: &mut [f32],
    product: impl Fn(&mut [f32], bool),
) {
    let padded = columns.next_multiple_of(LANES);
    let rows = pattern.map_or_else(|| dw.len() / columns, SparsePattern::rows);
    if pattern.is_none() && padded == columns {
        return product(dw, true);
    }
    let mut full = Scratch::take(rows * padded);
    product(&mut full, false);
    match pattern {
        Some(pattern) => add_sampled(pattern, &full, padded, dw),
        None => {
            for (dw, row) in dw.chunks_exact_mut(columns).zip(full.chunks_exact(padded)) {
                dw.iter_mut().zip(row).for_each(|(dw, full)| *dw += full);
            }
        }
    }
}

/// Writes a bias to the tiles of the result; returns whether the product is added to what is there.
pub(super) fn begin(y: &mut [f32], initial: Initial<'_>) -> bool {
    if let Initial::Bias(bias) = initial {
        for_each_chunk(y, bias.len() * LANES, |_, tile| {
            for (line, &b) in tile.chunks_exact_mut(LANES).zip(bias) {
                line.fill(b);
            }
        });
    }
    !matches!(initial, Initial::Zero)
}

/// Writes the values to their places in a dense matrix that is zero elsewhere.
pub(super) fn scatter(pattern: &SparsePattern, values: &[f32], dense: &mut [f32]) {
    for_each_chunk(dense, pattern.columns(), |row, dense| {
        for at in pattern.row_range(row) {
            dense[pattern.column_indices()[at] as usize] = values[at];
        }
    });
}

/// dw += the elements at the non-zeros of a matrix whose rows are `width` apart.
fn add_sampled(pattern: &SparsePattern, full: &[f32], width: usize, dw: &mut [f32]) {
    let mut rest = dw;
    let mut rows = Vec::with_capacity(pattern.rows());
    for row in 0..pattern.rows() {
        let (dw, after) = rest.split_at_mut(pattern.row(row).len());
        rows.push(dw);
        rest = after;
    }
    rows.into_par_iter().enumerate().for_each(|(row, dw)| {
        for (dw, &column) in dw.iter_mut().zip(pattern.row(row)) {
            *dw += full[row * width + column as usize];
        }
    });
}
