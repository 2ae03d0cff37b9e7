//! The list of kernels: what the oracle test and the benchmarks walk. A new kernel is one file
//! beside this one and one line in [`KERNELS`].

use super::gemm::{Left, OutLayout, gemm_on, transpose_tiles};
use super::plan::{Blocking, PanelPlan};
use super::sddmm::{self, StripBlocking, StripPlan};
use super::spmm::{self, Start};
use super::spmv;
use crate::isa::IsaKind;
use crate::{AlignedBuffer, CsrMatrix, LANES};

/// A product of a linear layer with weight W `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Y = W · X: out × tokens, from X.
    Forward,
    /// dX = Wᵀ · dY: in × tokens, from dY.
    InputGradient,
    /// dW = (dY · Xᵀ) at the non-zeros of W, in CSR order.
    WeightGradient,
    /// y = W · x for the first token of X.
    OneToken,
}

impl Product {
    /// Every product.
    pub const ALL: [Product; 4] =
        [Product::Forward, Product::InputGradient, Product::WeightGradient, Product::OneToken];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Product::Forward => "forward",
            Product::InputGradient => "dx",
            Product::WeightGradient => "dw",
            Product::OneToken => "one-token",
        }
    }

    /// Elements of the result for `tiles` tiles of tokens.
    pub fn output_len(self, w: &CsrMatrix, tiles: usize) -> usize {
        match self {
            Product::Forward => w.pattern().rows() * tiles * LANES,
            Product::InputGradient => w.pattern().columns() * tiles * LANES,
            Product::WeightGradient => w.pattern().nnz(),
            Product::OneToken => w.pattern().rows(),
        }
    }

    /// The result by the definition, in f64 and in the layout of the kernels: X and dY as tiles.
    pub fn reference(self, w: &CsrMatrix, x: &[f32], dy: &[f32], tiles: usize) -> Vec<f64> {
        let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
        let tokens = tiles * LANES;
        match self {
            Product::Forward => {
                to_tiles(&spmm::naive(w, &to_matrix(x, columns), tokens), rows, tokens)
            }
            Product::InputGradient => {
                let twin = transposed(w);
                to_tiles(&spmm::naive(&twin, &to_matrix(dy, rows), tokens), columns, tokens)
            }
            Product::WeightGradient => {
                sddmm::naive(w.pattern(), &to_matrix(dy, rows), &to_matrix(x, columns), tokens)
            }
            Product::OneToken => {
                let x: Vec<f64> = x[..columns].iter().map(|&x| f64::from(x)).collect();
                spmv::naive(w, &x)
            }
        }
    }
}

/// A product bound to one matrix and instruction set: (X, dY, result); the result is overwritten.
pub type Prepared = Box<dyn Fn(&[f32], &[f32], &mut [f32]) + Send + Sync>;

/// A way to compute a product.
pub struct KernelSpec {
    /// Unique name.
    pub name: &'static str,
    /// What it computes.
    pub product: Product,
    /// Does the work that is done once per pattern or per optimiser step.
    pub prepare: fn(IsaKind, &CsrMatrix) -> Prepared,
}

/// Every kernel.
pub const KERNELS: &[KernelSpec] = &[
    KernelSpec { name: "panel1", product: Product::Forward, prepare: |i, w| panels(i, w, 1) },
    KernelSpec { name: "panel2", product: Product::Forward, prepare: |i, w| panels(i, w, 2) },
    KernelSpec { name: "panel4", product: Product::Forward, prepare: |i, w| panels(i, w, 4) },
    KernelSpec { name: "gemm", product: Product::Forward, prepare: dense_forward },
    KernelSpec { name: "panel1", product: Product::InputGradient, prepare: |i, w| twin(i, w, 1) },
    KernelSpec { name: "panel2", product: Product::InputGradient, prepare: |i, w| twin(i, w, 2) },
    KernelSpec { name: "panel4", product: Product::InputGradient, prepare: |i, w| twin(i, w, 4) },
    KernelSpec { name: "gemm", product: Product::InputGradient, prepare: dense_input_gradient },
    KernelSpec {
        name: "strip2",
        product: Product::WeightGradient,
        prepare: |i, w| strips(i, w, 2),
    },
    KernelSpec {
        name: "strip4",
        product: Product::WeightGradient,
        prepare: |i, w| strips(i, w, 4),
    },
    KernelSpec {
        name: "strip8",
        product: Product::WeightGradient,
        prepare: |i, w| strips(i, w, 8),
    },
    KernelSpec { name: "gemm", product: Product::WeightGradient, prepare: dense_weight_gradient },
    KernelSpec { name: "spmv", product: Product::OneToken, prepare: one_token },
    KernelSpec { name: "gemv", product: Product::OneToken, prepare: dense_one_token },
];

fn panels(isa: IsaKind, w: &CsrMatrix, panel_rows: usize) -> Prepared {
    let default = Blocking::for_density(w.pattern().density(), isa.registers());
    let plan = PanelPlan::new(w.pattern(), Blocking { panel_rows, ..default });
    let values: AlignedBuffer = plan.source().iter().map(|&at| w.values()[at as usize]).collect();
    Box::new(move |x, _, y| spmm::spmm(isa, &plan, &values, x, y, Start::Zero))
}

fn twin(isa: IsaKind, w: &CsrMatrix, panel_rows: usize) -> Prepared {
    let forward = panels(isa, &transposed(w), panel_rows);
    Box::new(move |x, dy, dx| forward(dy, x, dx))
}

fn strips(isa: IsaKind, w: &CsrMatrix, vectors: usize) -> Prepared {
    let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
    let default = StripBlocking::for_shape(rows, columns, isa.registers());
    let blocking = StripBlocking { vectors, column_block: 512 / vectors, ..default };
    let plan = StripPlan::new(w.pattern(), blocking);
    Box::new(move |x, dy, dw| {
        dw.fill(0.0);
        sddmm::sddmm(isa, &plan, dy, x, dw);
    })
}

fn one_token(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let w = w.clone();
    Box::new(move |x, _, y| {
        spmv::spmv_on(isa, w.pattern(), w.values(), &x[..w.pattern().columns()], y)
    })
}

fn dense_forward(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let (rows, columns, dense) = (w.pattern().rows(), w.pattern().columns(), w.to_dense());
    Box::new(move |x, _, y| {
        gemm_on(isa, Left::row_major(&dense, rows, columns), x, y, OutLayout::tiles(rows), false)
    })
}

fn dense_input_gradient(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let (rows, columns, dense) = (w.pattern().rows(), w.pattern().columns(), w.to_dense());
    Box::new(move |_, dy, dx| {
        let wt = Left::transposed(&dense, columns, rows);
        gemm_on(isa, wt, dy, dx, OutLayout::tiles(columns), false)
    })
}

/// The whole gradient, then its elements at the non-zeros.
fn dense_weight_gradient(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let pattern = w.pattern().clone();
    Box::new(move |x, dy, dw| {
        if pattern.nnz() == 0 {
            return;
        }
        let (rows, columns) = (pattern.rows(), pattern.columns());
        let padded = columns.next_multiple_of(LANES);
        let mut full = AlignedBuffer::zeros(rows * padded);
        let xt = transpose_tiles(x, columns);
        let layout = OutLayout::row_major(padded);
        gemm_on(isa, Left::tiles(dy, rows), &xt, &mut full, layout, false);
        for row in 0..rows {
            for at in pattern.row_range(row) {
                dw[at] = full[row * padded + pattern.column_indices()[at] as usize];
            }
        }
    })
}

fn dense_one_token(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let (columns, dense) = (w.pattern().columns(), w.to_dense());
    Box::new(move |x, _, y| spmv::gemv_on(isa, &dense, &x[..columns], y))
}

/// The transposed matrix.
fn transposed(w: &CsrMatrix) -> CsrMatrix {
    let (pattern, source) = w.pattern().transpose();
    let values = source.iter().map(|&at| w.values()[at as usize]).collect();
    CsrMatrix::new(pattern.into(), values).expect("transposing keeps the number of non-zeros")
}

/// Tiles `[tile][feature][LANES]` as a `[feature][token]` matrix in f64.
fn to_matrix(tiles: &[f32], features: usize) -> Vec<f64> {
    let count = tiles.len().checked_div(features * LANES).unwrap_or(0);
    let line = |feature, tile: usize| &tiles[(tile * features + feature) * LANES..][..LANES];
    (0..features)
        .flat_map(|f| (0..count).flat_map(move |t| line(f, t)))
        .map(|&x| f64::from(x))
        .collect()
}

/// A `[feature][token]` matrix as tiles.
fn to_tiles(matrix: &[f64], features: usize, tokens: usize) -> Vec<f64> {
    let line = |feature: usize, tile: usize| &matrix[feature * tokens + tile * LANES..][..LANES];
    (0..tokens / LANES).flat_map(|t| (0..features).flat_map(move |f| line(f, t))).copied().collect()
}
