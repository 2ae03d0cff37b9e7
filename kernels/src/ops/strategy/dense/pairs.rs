//! Dense products of bf16 where an instruction multiplies pairs.
//!
//! W and Wᵀ are packed with two neighbours of a row in a word, which meet two features of X and dY; the weight
//! gradient meets two tokens, which is how lines of 16-bit numbers lie.

use super::sampled::{add_product, begin, scatter};
use crate::isa::IsaKind;
use crate::ops::gemm::{Left, Out, PackedPairs, gemm_words_on, transpose_tiles};
use crate::ops::strategy::{Initial, Planned, Product};
use crate::{Lines, Scratch, SparsePattern};
use std::sync::{Arc, OnceLock};

/// Products of a sparse weight, of which `products` are asked for.
pub(super) fn of_sparse(
    isa: IsaKind,
    pattern: &Arc<SparsePattern>,
    products: &[Product],
) -> Box<dyn Planned> {
    let (rows, columns) = (pattern.rows(), pattern.columns());
    let mut planned = PlannedPairs::new(isa, rows, columns, products);
    planned.pattern = Some(pattern.clone());
    if products.contains(&Product::InputGradient) {
        let zeros = Scratch::zeros(rows * columns);
        planned.transposed = OnceLock::from(Left::transposed(&zeros, columns, rows).pack_pairs());
    }
    Box::new(planned)
}

/// Products with a dense weight `[rows, columns]`.
pub(super) fn planned(
    isa: IsaKind,
    rows: usize,
    columns: usize,
    products: &[Product],
) -> Box<dyn Planned> {
    Box::new(PlannedPairs::new(isa, rows, columns, products))
}

struct PlannedPairs {
    isa: IsaKind,
    rows: usize,
    columns: usize,
    /// Of a sparse W.
    pattern: Option<Arc<SparsePattern>>,
    /// W, if the forward product is planned.
    forward: Option<PackedPairs>,
    /// Wᵀ: of a sparse W if the input gradient is planned, of a dense one from the first on.
    transposed: OnceLock<PackedPairs>,
}

impl PlannedPairs {
    fn new(isa: IsaKind, rows: usize, columns: usize, products: &[Product]) -> Self {
        let forward = products.contains(&Product::Forward).then(|| {
            let zeros = Scratch::zeros(rows * columns);
            Left::row_major(&zeros, rows, columns).pack_pairs()
        });
        Self { isa, rows, columns, pattern: None, forward, transposed: OnceLock::new() }
    }
}

impl Planned for PlannedPairs {
    fn refresh(&mut self, values: &[f32]) {
        let (rows, columns) = (self.rows, self.columns);
        let dense = self.pattern.as_ref().map(|pattern| {
            let mut dense = Scratch::zeros(rows * columns);
            scatter(pattern, values, &mut dense);
            dense
        });
        let w = dense.as_deref().unwrap_or(values);
        if let Some(packed) = &mut self.forward {
            Left::row_major(w, rows, columns).pack_pairs_into(packed);
        }
        if let Some(packed) = self.transposed.get_mut() {
            Left::transposed(w, columns, rows).pack_pairs_into(packed);
        }
    }

    fn forward(&self, _: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        if y.is_empty() {
            return;
        }
        let w = self.forward.as_ref().expect("a product that was planned");
        let accumulate = begin(y, initial);
        w.multiply_on(self.isa, x.words(), y, Out::Tiles, accumulate);
    }

    fn input_gradient(&self, values: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        if dx.is_empty() {
            return;
        }
        let accumulate = begin(dx, initial);
        let wt = || Left::transposed(values, self.columns, self.rows).pack_pairs();
        let wt = self.transposed.get_or_init(wt);
        wt.multiply_on(self.isa, dy.words(), dx, Out::Tiles, accumulate);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        if dw.is_empty() {
            return;
        }
        let left = Left::tiles(dy.words(), self.rows);
        let xt = transpose_tiles(x.words(), self.columns);
        add_product(self.pattern.as_deref(), self.columns, dw, |to, accumulate| {
            gemm_words_on(self.isa, left, &xt, to, Out::Rows, accumulate);
        });
    }
}
