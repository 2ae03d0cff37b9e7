//! The list of kernels: what the oracle test and the benchmarks walk. A new kernel is one file
//! beside this one and one line in [`KERNELS`].

use super::layer::SparseLayer;
use super::plan::Blocking;
use super::sddmm;
use super::spmm::{self, Start};
use super::spmv;
use super::strategy::{LayerPlan, Strategy};
use crate::isa::IsaKind;
use crate::{CsrMatrix, LANES};

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
    KernelSpec { name: "csr", product: Product::Forward, prepare: |i, w| csr(i, w, forward) },
    KernelSpec { name: "panel1", product: Product::Forward, prepare: |i, w| panels(i, w, 1) },
    KernelSpec { name: "panel2", product: Product::Forward, prepare: |i, w| panels(i, w, 2) },
    KernelSpec { name: "panel4", product: Product::Forward, prepare: |i, w| panels(i, w, 4) },
    KernelSpec { name: "gemm", product: Product::Forward, prepare: |i, w| dense(i, w, forward) },
    KernelSpec { name: "csr", product: Product::InputGradient, prepare: |i, w| csr(i, w, dx) },
    KernelSpec { name: "panel1", product: Product::InputGradient, prepare: |i, w| twin(i, w, 1) },
    KernelSpec { name: "panel2", product: Product::InputGradient, prepare: |i, w| twin(i, w, 2) },
    KernelSpec { name: "panel4", product: Product::InputGradient, prepare: |i, w| twin(i, w, 4) },
    KernelSpec { name: "gemm", product: Product::InputGradient, prepare: |i, w| dense(i, w, dx) },
    KernelSpec { name: "csr", product: Product::WeightGradient, prepare: |i, w| csr(i, w, dw) },
    KernelSpec { name: "panel1", product: Product::WeightGradient, prepare: |i, w| dw_of(i, w, 1) },
    KernelSpec { name: "panel2", product: Product::WeightGradient, prepare: |i, w| dw_of(i, w, 2) },
    KernelSpec { name: "panel4", product: Product::WeightGradient, prepare: |i, w| dw_of(i, w, 4) },
    KernelSpec { name: "gemm", product: Product::WeightGradient, prepare: |i, w| dense(i, w, dw) },
    KernelSpec { name: "spmv", product: Product::OneToken, prepare: one_token },
    KernelSpec { name: "gemv", product: Product::OneToken, prepare: dense_one_token },
];

/// Runs one product of a layer: (layer, X, dY, result).
type Run = fn(&SparseLayer, &[f32], &[f32], &mut [f32]);

fn forward(layer: &SparseLayer, x: &[f32], _: &[f32], y: &mut [f32]) {
    layer.forward(x, y, Start::Zero);
}

fn dx(layer: &SparseLayer, _: &[f32], dy: &[f32], dx: &mut [f32]) {
    layer.input_gradient(dy, dx, Start::Zero);
}

fn dw(layer: &SparseLayer, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    dw.fill(0.0);
    layer.weight_gradient(dy, x, dw);
}

fn prepared(isa: IsaKind, w: &CsrMatrix, plan: LayerPlan, run: Run) -> Prepared {
    let mut layer = SparseLayer::with_plan(isa, w.pattern().clone(), plan);
    layer.refresh(w.values());
    Box::new(move |x, dy, out| run(&layer, x, dy, out))
}

fn csr(isa: IsaKind, w: &CsrMatrix, run: Run) -> Prepared {
    prepared(isa, w, LayerPlan::CSR, run)
}

fn dense(isa: IsaKind, w: &CsrMatrix, run: Run) -> Prepared {
    let plan = LayerPlan {
        forward: Strategy::Dense,
        input_gradient: Strategy::Dense,
        weight_gradient: Strategy::Dense,
    };
    prepared(isa, w, plan, run)
}

/// Panels of some rows, with the tiles and K blocks that suit them.
fn panel_plan(isa: IsaKind, panel_rows: usize) -> LayerPlan {
    let vectors = if isa.registers() >= 32 { 4 } else { (4 / panel_rows).max(1) };
    let k_block = 512 / vectors;
    let unroll = if panel_rows * vectors <= 4 { 2 } else { 1 };
    let blocking = Blocking { panel_rows, vectors, unroll, k_block, row_block: 1024, k_pass: 4 };
    let panels = Strategy::Panels(blocking);
    LayerPlan { forward: panels, input_gradient: panels, weight_gradient: panels }
}

fn panels(isa: IsaKind, w: &CsrMatrix, panel_rows: usize) -> Prepared {
    prepared(isa, w, panel_plan(isa, panel_rows), forward)
}

fn twin(isa: IsaKind, w: &CsrMatrix, panel_rows: usize) -> Prepared {
    prepared(isa, w, panel_plan(isa, panel_rows), dx)
}

fn dw_of(isa: IsaKind, w: &CsrMatrix, panel_rows: usize) -> Prepared {
    prepared(isa, w, panel_plan(isa, panel_rows), dw)
}

fn one_token(isa: IsaKind, w: &CsrMatrix) -> Prepared {
    let w = w.clone();
    Box::new(move |x, _, y| {
        spmv::spmv_on(isa, w.pattern(), w.values(), &x[..w.pattern().columns()], y)
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
