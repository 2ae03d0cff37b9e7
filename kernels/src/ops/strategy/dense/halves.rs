//! Dense products of f16, where 32 of them are multiplied at once.

use super::sampled::{add_product, begin, scatter};
use crate::isa::{IsaKind, dispatch};
use crate::ops::gemm::{Left, Packed, gemm_halves_on, outer_halves_on};
use crate::ops::strategy::{Initial, Planned, Product};
use crate::parallel::for_each_chunk;
use crate::rounding::{Nearest, Rounding};
use crate::{AlignedBuffer, Lines, SparsePattern};
use std::sync::{Arc, OnceLock};

/// Products of a sparse weight, of which `products` are asked for.
pub(super) fn of_sparse(
    isa: IsaKind,
    pattern: &Arc<SparsePattern>,
    products: &[Product],
) -> Box<dyn Planned> {
    let planned = PlannedHalves::new(isa, pattern.rows(), pattern.columns(), products);
    Box::new(PlannedHalves { pattern: Some(pattern.clone()), ..planned })
}

/// Products with a dense weight `[rows, columns]`.
pub(super) fn planned(
    isa: IsaKind,
    rows: usize,
    columns: usize,
    products: &[Product],
) -> Box<dyn Planned> {
    Box::new(PlannedHalves::new(isa, rows, columns, products))
}

struct PlannedHalves {
    isa: IsaKind,
    rows: usize,
    columns: usize,
    /// Of a sparse W.
    pattern: Option<Arc<SparsePattern>>,
    /// W with its zeros, each number twice in a word, if a product reads it.
    w: AlignedBuffer,
    /// Wᵀ, from the first input gradient on.
    transposed: OnceLock<Packed>,
}

impl PlannedHalves {
    fn new(isa: IsaKind, rows: usize, columns: usize, products: &[Product]) -> Self {
        let is_read = products.iter().any(Product::reads_weight);
        let w = AlignedBuffer::zeros(if is_read { rows * columns } else { 0 });
        Self { isa, rows, columns, pattern: None, w, transposed: OnceLock::new() }
    }

    fn wt(&self) -> Left<'_> {
        Left::transposed(&self.w, self.columns, self.rows)
    }
}

impl Planned for PlannedHalves {
    fn refresh(&mut self, values: &[f32]) {
        if self.w.is_empty() {
            return;
        }
        match &self.pattern {
            Some(pattern) => scatter(pattern, values, &mut self.w),
            None => self.w.copy_from_slice(values),
        }
        for_each_chunk(&mut self.w, self.columns, |_, numbers| {
            dispatch(Rounding { to: Nearest::TwiceF16, numbers });
        });
        if let Some(mut packed) = self.transposed.take() {
            self.wt().pack_into(&mut packed);
            self.transposed = OnceLock::from(packed);
        }
    }

    fn forward(&self, _: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        if y.is_empty() {
            return;
        }
        let accumulate = begin(y, initial);
        let w = Left::row_major(&self.w, self.rows, self.columns);
        gemm_halves_on(self.isa, w, x.words(), y, accumulate);
    }

    fn input_gradient(&self, _: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        if dx.is_empty() {
            return;
        }
        let accumulate = begin(dx, initial);
        let wt = self.transposed.get_or_init(|| self.wt().pack());
        wt.multiply_halves_on(self.isa, dy.words(), dx, accumulate);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        if dw.is_empty() {
            return;
        }
        let (dy, x) = ((dy.words(), self.rows), (x.words(), self.columns));
        add_product(self.pattern.as_deref(), self.columns, dw, |to, accumulate| {
            outer_halves_on(self.isa, dy, x, to, accumulate);
        });
    }
}
