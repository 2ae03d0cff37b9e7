//! Dense code: for dense weights, and for sparse ones below the break-even sparsity.
//!
//! A dense weight `[out, in]` is read where it is by the forward product. Products with a sparse W take
//! a dense copy of it; of its weight gradient the elements at the non-zeros are kept. Wᵀ is packed for
//! the first input gradient and brought up to date from then on, so that what never runs backward
//! never holds it.

mod pairs;

pub(super) use self::pairs::FAMILY as PAIRS;

use super::{Family, Initial, Method, Planned, Product, Strategy};
use crate::isa::IsaKind;
use crate::ops::gemm::{Left, Out, Packed, gemm_on, transpose_tiles};
use crate::parallel::for_each_chunk;
use crate::{AlignedBuffer, LANES, Lines, Precision, Scratch, SparsePattern};
use rayon::prelude::*;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

pub(super) const FAMILY: Family = Family {
    grammar: "dense",
    parse: |name| (name == "dense").then(|| Strategy::new(Dense)),
    candidates: |_| vec![Strategy::new(Dense)],
};

/// The strategy of a precision, where pairs of bf16 are multiplied at once or not; there is one, without
/// tile sizes.
pub(in crate::ops) fn strategy(precision: Precision, pairs: bool) -> Strategy {
    match precision {
        Precision::Bf16 if pairs => Strategy::new(pairs::DensePairs),
        _ => Strategy::new(Dense),
    }
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
        precision: Precision,
    ) -> Box<dyn Planned> {
        let with_w = products.iter().any(|&product| product != Product::WeightGradient);
        let len = if with_w { pattern.rows() * pattern.columns() } else { 0 };
        let copy = Some(AlignedBuffer::zeros(len));
        let (rows, columns) = (pattern.rows(), pattern.columns());
        let (pattern, transposed) = (Some(pattern.clone()), OnceLock::new());
        Box::new(PlannedDense { isa, precision, rows, columns, pattern, copy, transposed })
    }
}

/// All products of a dense weight `[rows, columns]`.
pub(in crate::ops) fn planned(
    isa: IsaKind,
    precision: Precision,
    rows: usize,
    columns: usize,
) -> Box<dyn Planned> {
    if precision == Precision::Bf16 && isa.multiplies_pairs() {
        return pairs::planned(isa, rows, columns);
    }
    let rounded = precision != Precision::F32;
    let copy = rounded.then(|| AlignedBuffer::zeros(rows * columns));
    let (pattern, transposed) = (None, OnceLock::new());
    Box::new(PlannedDense { isa, precision, rows, columns, pattern, copy, transposed })
}

struct PlannedDense {
    isa: IsaKind,
    precision: Precision,
    rows: usize,
    columns: usize,
    /// Of a sparse W.
    pattern: Option<Arc<SparsePattern>>,
    /// W rounded, with its zeros: where it is sparse or has 16 bits, if a product reads it.
    copy: Option<AlignedBuffer>,
    /// Wᵀ, from the first input gradient on.
    transposed: OnceLock<Packed>,
}

impl PlannedDense {
    /// W row by row, its zeros included.
    fn w<'a>(&'a self, values: &'a [f32]) -> &'a [f32] {
        self.copy.as_deref().unwrap_or(values)
    }

    fn wt<'a>(&'a self, values: &'a [f32]) -> Left<'a> {
        Left::transposed(self.w(values), self.columns, self.rows)
    }
}

impl Planned for PlannedDense {
    fn refresh(&mut self, values: &[f32]) {
        let precision = self.precision;
        if let Some(copy) = self.copy.as_mut().filter(|copy| !copy.is_empty()) {
            match &self.pattern {
                Some(pattern) => scatter(pattern, values, copy, |x| precision.round(x)),
                None => for_each_chunk(copy, self.columns, |row, copy| {
                    let values = &values[row * self.columns..];
                    copy.iter_mut().zip(values).for_each(|(to, &x)| *to = precision.round(x));
                }),
            }
        }
        if let Some(mut packed) = self.transposed.take() {
            self.wt(values).pack_into(&mut packed);
            self.transposed = OnceLock::from(packed);
        }
    }

    fn forward(&self, values: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        if y.is_empty() {
            return;
        }
        let tiles = y.len() / (self.rows * LANES);
        let w = Left::row_major(self.w(values), self.rows, self.columns);
        let accumulate = begin(y, initial);
        gemm_on(self.isa, w, &widened(x, self.columns, tiles), y, Out::Tiles, accumulate);
    }

    fn input_gradient(&self, values: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        if dx.is_empty() {
            return;
        }
        let tiles = dx.len() / (self.columns * LANES);
        let accumulate = begin(dx, initial);
        let wt = self.transposed.get_or_init(|| self.wt(values).pack());
        wt.multiply_on(self.isa, &widened(dy, self.rows, tiles), dx, Out::Tiles, accumulate);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        if dw.is_empty() {
            return;
        }
        let tiles = dy.len() / (self.rows * LANES);
        let (dy, x) = (widened(dy, self.rows, tiles), widened(x, self.columns, tiles));
        let (left, xt) = (Left::tiles(&dy, self.rows), transpose_tiles(&x, self.columns));
        add_product(self.pattern.as_deref(), self.columns, dw, |to, accumulate| {
            gemm_on(self.isa, left, &xt, to, Out::Rows, accumulate);
        });
    }
}

/// Adds a product to dw, which is the elements at the non-zeros of a pattern, or all. `product` writes
/// rows of whole lines, or adds to them.
fn add_product(
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

/// `f32` tiles, for as long as a product needs them.
enum Tiles<'a> {
    Held(&'a [f32]),
    Widened(Scratch),
}

impl Deref for Tiles<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Tiles::Held(tiles) => tiles,
            Tiles::Widened(tiles) => tiles,
        }
    }
}

fn widened(x: Lines<'_>, features: usize, tiles: usize) -> Tiles<'_> {
    match x {
        Lines::F32(x) => Tiles::Held(x),
        _ => Tiles::Widened(x.widened(features, tiles)),
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
fn scatter(
    pattern: &SparsePattern,
    values: &[f32],
    dense: &mut [f32],
    rounded: impl Fn(f32) -> f32 + Sync + Send,
) {
    for_each_chunk(dense, pattern.columns(), |row, dense| {
        for at in pattern.row_range(row) {
            dense[pattern.column_indices()[at] as usize] = rounded(values[at]);
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
