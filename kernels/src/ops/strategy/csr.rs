//! The textbook kernels: one row of CSR after the other, no blocking, no reordering.
//!
//! They are what most sparse layers run, and the baseline that the other strategies are measured
//! against. Every non-zero reads its line of X from wherever that lies; at the sizes of a language
//! model's layers that is L2 or beyond, and one line serves one multiplication.

use super::{Family, Initial, Method, Planned, Product, Strategy};
use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::extent::{check_tiles, tiles};
use crate::ops::gather::gather_values;
use crate::parallel::{SharedMut, for_each_block, for_each_chunk};
use crate::{AlignedBuffer, LANES, Lines, Precision, SparsePattern};
use std::sync::Arc;

pub(super) const FAMILY: Family = Family {
    grammar: "csr",
    parse: |name| (name == "csr").then(|| Strategy::new(Csr)),
    candidates: |_| vec![Strategy::new(Csr)],
};

struct Csr;

impl Method for Csr {
    fn name(&self) -> String {
        "csr".into()
    }

    fn precisions(&self) -> &[Precision] {
        &[Precision::F32]
    }

    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
        _: Precision,
    ) -> Box<dyn Planned> {
        let twin = products.contains(&Product::InputGradient).then(|| {
            let (pattern, source) = pattern.transpose();
            Twin { values: AlignedBuffer::zeros(pattern.nnz()), pattern, source }
        });
        Box::new(PlannedCsr { isa, pattern: pattern.clone(), twin })
    }
}

/// The forward product and the weight gradient read W's values where they are.
struct PlannedCsr {
    isa: IsaKind,
    pattern: Arc<SparsePattern>,
    twin: Option<Twin>,
}

/// Wᵀ.
struct Twin {
    pattern: SparsePattern,
    /// Where each of its values is in W.
    source: Vec<u32>,
    values: AlignedBuffer,
}

impl Planned for PlannedCsr {
    fn refresh(&mut self, values: &[f32]) {
        if let Some(twin) = &mut self.twin {
            for_each_chunk(&mut twin.values, GATHERED, |chunk, to| {
                let source = &twin.source[chunk * GATHERED..][..to.len()];
                gather_values(values, source, to);
            });
        }
    }

    fn forward(&self, values: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        spmm(self.isa, &self.pattern, values, x.f32(), y, initial);
    }

    fn input_gradient(&self, _: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        let twin = self.twin.as_ref().expect("a product that was planned");
        spmm(self.isa, &twin.pattern, &twin.values, dy.f32(), dx, initial);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        sddmm(self.isa, &self.pattern, dy.f32(), x.f32(), dw);
    }
}

/// Values that a parallel task brings into another order.
const GATHERED: usize = 1 << 15;

/// Rows per parallel task.
const ROW_BLOCK: usize = 32;

/// Y = initial + W · X with CSR W: X `[tiles][columns][LANES]`, Y `[tiles][rows][LANES]`.
///
/// Loop nest: rows (parallel) · tiles · non-zeros of the row.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
fn spmm(
    isa: IsaKind,
    pattern: &SparsePattern,
    values: &[f32],
    x: &[f32],
    y: &mut [f32],
    initial: Initial<'_>,
) {
    let (rows, columns) = (pattern.rows(), pattern.columns());
    assert_eq!(values.len(), pattern.nnz(), "values and pattern disagree");
    if rows == 0 {
        return;
    }
    let tiles = tiles("the result", y, rows);
    check_tiles("the operand", x, tiles, columns);
    if let Initial::Bias(bias) = initial {
        assert_eq!(bias.len(), rows, "bias and rows disagree");
    }
    let y = SharedMut::new(y);
    for_each_block(rows.div_ceil(ROW_BLOCK), |block| {
        isa.run(Spmm { pattern, values, x, y, initial, tiles, first: block * ROW_BLOCK });
    });
}

struct Spmm<'a> {
    pattern: &'a SparsePattern,
    values: &'a [f32],
    x: &'a [f32],
    y: SharedMut<'a>,
    initial: Initial<'a>,
    tiles: usize,
    first: usize,
}

impl Kernel for Spmm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        for row in self.first..(self.first + ROW_BLOCK).min(rows) {
            let range = self.pattern.row_range(row);
            let indices = &self.pattern.column_indices()[range.clone()];
            let values = &self.values[range];
            for tile in 0..self.tiles {
                // SAFETY: a pattern's columns are below `columns()` and its rows below `rows()`;
                // X and Y have `tiles` tiles, and this task alone has these rows of Y.
                unsafe {
                    let x = self.x.as_ptr().add(tile * columns * LANES);
                    let y = self.y.get((tile * rows + row) * LANES);
                    let mut sum = match self.initial {
                        Initial::Zero => isa.splat(0.0),
                        Initial::Bias(bias) => isa.splat(bias[row]),
                        Initial::Held => isa.load(y),
                    };
                    for (&column, &w) in indices.iter().zip(values) {
                        sum = isa.fma(isa.splat(w), isa.load(x.add(column as usize * LANES)), sum);
                    }
                    isa.store(y, sum);
                }
            }
        }
    }
}

/// dw += (dY · Xᵀ) at the pattern's non-zeros, in CSR order: dY `[tiles][rows][LANES]`,
/// X `[tiles][columns][LANES]`.
///
/// Loop nest: rows (parallel) · non-zeros of the row · tiles.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
fn sddmm(isa: IsaKind, pattern: &SparsePattern, dy: &[f32], x: &[f32], dw: &mut [f32]) {
    let (rows, columns) = (pattern.rows(), pattern.columns());
    assert_eq!(dw.len(), pattern.nnz(), "gradient and pattern disagree");
    if pattern.nnz() == 0 {
        return;
    }
    let tiles = tiles("dY", dy, rows);
    check_tiles("X", x, tiles, columns);
    let dw = SharedMut::new(dw);
    for_each_block(rows.div_ceil(ROW_BLOCK), |block| {
        isa.run(Sddmm { pattern, dy, x, dw, tiles, first: block * ROW_BLOCK });
    });
}

struct Sddmm<'a> {
    pattern: &'a SparsePattern,
    dy: &'a [f32],
    x: &'a [f32],
    dw: SharedMut<'a>,
    tiles: usize,
    first: usize,
}

impl Kernel for Sddmm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        for row in self.first..(self.first + ROW_BLOCK).min(rows) {
            for at in self.pattern.row_range(row) {
                let column = self.pattern.column_indices()[at] as usize;
                let mut sum = isa.splat(0.0);
                for tile in 0..self.tiles {
                    // SAFETY: a pattern's columns are below `columns()` and its rows below
                    // `rows()`; X and dY have `tiles` tiles.
                    unsafe {
                        let dy = self.dy.as_ptr().add((tile * rows + row) * LANES);
                        let x = self.x.as_ptr().add((tile * columns + column) * LANES);
                        sum = isa.fma(isa.load(dy), isa.load(x), sum);
                    }
                }
                // SAFETY: this task alone has the non-zeros of this row.
                unsafe { *self.dw.get(at) += isa.sum(sum) };
            }
        }
    }
}
