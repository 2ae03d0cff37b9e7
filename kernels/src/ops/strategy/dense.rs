//! Dense code: for dense weights, and for sparse ones below the break-even sparsity.
//!
//! A dense weight `[out, in]` is read where it is by the forward product. Products with a sparse W take
//! a dense copy of it; of its weight gradient the elements at the non-zeros are kept. Wᵀ is packed for
//! the first input gradient and brought up to date from then on, so that what never runs backward
//! never holds it.

use super::{Family, Initial, Method, Planned, Product, Strategy};
use crate::isa::IsaKind;
use crate::ops::gemm::{Left, Out, Packed, gemm_on, transpose_tiles};
use crate::parallel::for_each_chunk;
use crate::{AlignedBuffer, LANES, Scratch, SparsePattern};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

pub(super) const FAMILY: Family = Family {
    grammar: "dense",
    parse: |name| (name == "dense").then(strategy),
    candidates: |_| vec![strategy()],
};

/// The strategy: there is one, without tile sizes.
pub(in crate::ops) fn strategy() -> Strategy {
    Strategy::new(Dense)
}

struct Dense;

impl Method for Dense {
    fn name(&self) -> String {
        "dense".into()
    }

    fn is_dense(&self) -> bool {
        true
    }

    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
    ) -> Box<dyn Planned> {
        let with_w = products.iter().any(|&product| product != Product::WeightGradient);
        let len = if with_w { pattern.rows() * pattern.columns() } else { 0 };
        let copy = Some((pattern.clone(), AlignedBuffer::zeros(len)));
        let (rows, columns) = (pattern.rows(), pattern.columns());
        Box::new(PlannedDense { isa, rows, columns, copy, transposed: OnceLock::new() })
    }
}

/// All products of a dense weight `[rows, columns]`.
pub(in crate::ops) fn planned(isa: IsaKind, rows: usize, columns: usize) -> Box<dyn Planned> {
    Box::new(PlannedDense { isa, rows, columns, copy: None, transposed: OnceLock::new() })
}

struct PlannedDense {
    isa: IsaKind,
    rows: usize,
    columns: usize,
    /// Of a sparse W: the pattern, and W with its zeros if a product reads it.
    copy: Option<(Arc<SparsePattern>, AlignedBuffer)>,
    /// Wᵀ, from the first input gradient on.
    transposed: OnceLock<Packed>,
}

impl PlannedDense {
    /// W row by row, its zeros included.
    fn w<'a>(&'a self, values: &'a [f32]) -> &'a [f32] {
        self.copy.as_ref().map_or(values, |(_, copy)| copy)
    }

    fn wt<'a>(&'a self, values: &'a [f32]) -> Left<'a> {
        Left::transposed(self.w(values), self.columns, self.rows)
    }
}

impl Planned for PlannedDense {
    fn refresh(&mut self, values: &[f32]) {
        if let Some((pattern, copy)) = self.copy.as_mut().filter(|(_, copy)| !copy.is_empty()) {
            scatter(pattern, values, copy);
        }
        if let Some(mut packed) = self.transposed.take() {
            self.wt(values).pack_into(&mut packed);
            self.transposed = OnceLock::from(packed);
        }
    }

    fn forward(&self, values: &[f32], x: &[f32], y: &mut [f32], initial: Initial<'_>) {
        let w = Left::row_major(self.w(values), self.rows, self.columns);
        let accumulate = begin(y, initial);
        gemm_on(self.isa, w, x, y, Out::Tiles, accumulate);
    }

    fn input_gradient(&self, values: &[f32], dy: &[f32], dx: &mut [f32], initial: Initial<'_>) {
        let accumulate = begin(dx, initial);
        let wt = self.transposed.get_or_init(|| self.wt(values).pack());
        wt.multiply_on(self.isa, dy, dx, Out::Tiles, accumulate);
    }

    fn weight_gradient(&self, dy: &[f32], x: &[f32], dw: &mut [f32]) {
        if dw.is_empty() {
            return;
        }
        let left = Left::tiles(dy, self.rows);
        let xt = transpose_tiles(x, self.columns);
        let padded = self.columns.next_multiple_of(LANES);
        if self.copy.is_none() && padded == self.columns {
            return gemm_on(self.isa, left, &xt, dw, Out::Rows, true);
        }
        // The product writes whole lines, so rows are padded to lines.
        let mut full = Scratch::take(self.rows * padded);
        gemm_on(self.isa, left, &xt, &mut full, Out::Rows, false);
        match &self.copy {
            Some((pattern, _)) => add_sampled(pattern, &full, padded, dw),
            None => {
                for (dw, row) in dw.chunks_exact_mut(self.columns).zip(full.chunks_exact(padded)) {
                    dw.iter_mut().zip(row).for_each(|(dw, full)| *dw += full);
                }
            }
        }
    }
}

/// Writes a bias to the tiles of the result; returns whether the product is added to what is there.
fn begin(y: &mut [f32], initial: Initial<'_>) -> bool {
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
fn scatter(pattern: &SparsePattern, values: &[f32], dense: &mut [f32]) {
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
