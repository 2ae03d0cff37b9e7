//! Dense products of numbers, those of 16 bits widened.

use super::sampled::{add_product, begin, scatter};
use crate::isa::{IsaKind, dispatch};
use crate::ops::gemm::{Left, Out, Packed, gemm_on, transpose_tiles};
use crate::ops::strategy::{Initial, Planned, Product};
use crate::parallel::for_each_chunk;
use crate::rounding::{Nearest, Rounding, widened};
use crate::{AlignedBuffer, LANES, Lines, Precision, Scratch, SparsePattern};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// Products of a sparse weight, of which `products` are asked for.
pub(super) fn of_sparse(
    isa: IsaKind,
    precision: Precision,
    pattern: &Arc<SparsePattern>,
    products: &[Product],
) -> Box<dyn Planned> {
    let (rows, columns) = (pattern.rows(), pattern.columns());
    let copy = Some(AlignedBuffer::zeros(if products.iter().any(Product::reads_weight) {
        rows * columns
    } else {
        0
    }));
    let (pattern, transposed) = (Some(pattern.clone()), OnceLock::new());
    Box::new(PlannedDense { isa, precision, rows, columns, pattern, copy, transposed })
}

/// Products with a dense weight `[rows, columns]`.
pub(super) fn planned(
    isa: IsaKind,
    precision: Precision,
    rows: usize,
    columns: usize,
    products: &[Product],
) -> Box<dyn Planned> {
    let rounded = precision != Precision::F32 && products.iter().any(Product::reads_weight);
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
        if let Some(copy) = self.copy.as_mut().filter(|copy| !copy.is_empty()) {
            if let Some(pattern) = &self.pattern {
                scatter(pattern, values, copy);
            }
            for_each_chunk(copy, self.columns, |row, numbers| {
                if self.pattern.is_none() {
                    numbers.copy_from_slice(&values[row * self.columns..][..numbers.len()]);
                }
                dispatch(Rounding { to: Nearest::Number(self.precision), numbers });
            });
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
        gemm_on(self.isa, w, &in_f32(x, self.columns, tiles), y, Out::Tiles, accumulate);
    }

    fn input_gradient(&self, values: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        if dx.is_empty() {
            return;
        }
        let tiles = dx.len() / (self.columns * LANES);
        let accumulate = begin(dx, initial);
        let wt = self.transposed.get_or_init(|| self.wt(values).pack());
        wt.multiply_on(self.isa, &in_f32(dy, self.rows, tiles), dx, Out::Tiles, accumulate);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        if dw.is_empty() {
            return;
        }
        let tiles = dy.len() / (self.rows * LANES);
        let (dy, x) = (in_f32(dy, self.rows, tiles), in_f32(x, self.columns, tiles));
        let (left, xt) = (Left::tiles(&dy, self.rows), transpose_tiles(&x, self.columns));
        add_product(self.pattern.as_deref(), self.columns, dw, |to, accumulate| {
            gemm_on(self.isa, left, &xt, to, Out::Rows, accumulate);
        });
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

fn in_f32(x: Lines<'_>, features: usize, tiles: usize) -> Tiles<'_> {
    match x {
        Lines::F32(x) => Tiles::Held(x),
        _ => Tiles::Widened(widened(x, features, tiles)),
    }
}
