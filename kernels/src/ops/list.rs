//! The list of kernels: what the oracle test and the benchmarks walk. It follows from the
//! [strategies](super::strategy), whose products it runs, each for itself, and the products of one token.

use super::layer::LinearLayer;
use super::plan::LayerPlan;
use super::product::{Initial, Product};
use super::strategy::Strategy;
use crate::isa::IsaKind;
use crate::{CsrMatrix, LANES, Lines, Precision, SparsePattern};

impl Product {
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
                to_tiles(&naive_spmm(w, &to_matrix(x, columns), tokens), rows, tokens)
            }
            Product::InputGradient => {
                let twin = transposed(w);
                to_tiles(&naive_spmm(&twin, &to_matrix(dy, rows), tokens), columns, tokens)
            }
            Product::WeightGradient => {
                naive_sddmm(w.pattern(), &to_matrix(dy, rows), &to_matrix(x, columns), tokens)
            }
            Product::OneToken => {
                let x: Vec<f64> = x[..columns].iter().map(|&x| f64::from(x)).collect();
                naive_spmm(w, &x, 1)
            }
        }
    }
}

/// A product bound to one matrix and instruction set: (X, dY, result), both in the kernel's precision; the
/// result is overwritten.
pub type Prepared = Box<dyn Fn(Lines<'_>, Lines<'_>, &mut [f32]) + Send + Sync>;

/// A way to compute a product.
pub struct KernelSpec {
    /// Unique among the kernels of the product and precision; a strategy's name, but for one token.
    pub name: String,
    /// What it computes.
    pub product: Product,
    /// What its operands are rounded to.
    pub precision: Precision,
    strategy: Option<Strategy>,
}

/// Every kernel that is of use on a machine with so many [registers](crate::isa::Isa::REGISTERS); all of
/// them run on every machine.
pub fn kernels(registers: usize) -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for precision in Precision::ALL {
        for strategy in Strategy::candidates(precision, registers) {
            let able = Product::TRAINING.into_iter().filter(|&product| strategy.can(product));
            all.extend(able.map(|product| KernelSpec {
                name: strategy.to_string(),
                product,
                precision,
                strategy: Some(strategy.clone()),
            }));
        }
    }
    all.extend(["spmv", "gemv"].map(|name| KernelSpec {
        name: name.into(),
        product: Product::OneToken,
        precision: Precision::F32,
        strategy: None,
    }));
    all
}

impl KernelSpec {
    /// Does the work that is done once per pattern or per optimiser step.
    pub fn prepare(&self, isa: IsaKind, w: &CsrMatrix) -> Prepared {
        let (pattern, columns) = (w.pattern(), w.pattern().columns());
        if let Some(strategy) = &self.strategy {
            return prepare(isa, self.precision, w, strategy, self.product);
        }
        let (layer, values) = if self.name == "gemv" {
            (LinearLayer::dense(isa, Precision::F32, pattern.rows(), columns), w.to_dense())
        } else {
            let plan = LayerPlan::of(Precision::F32, pattern.density(), isa);
            (LinearLayer::sparse(isa, pattern.clone(), plan), w.values().to_vec())
        };
        Box::new(move |x, _, y| layer.one_token(&values, &x.f32()[..columns], y))
    }
}

/// One product by a strategy that can compute it, ready to run.
pub(super) fn prepare(
    isa: IsaKind,
    precision: Precision,
    w: &CsrMatrix,
    strategy: &Strategy,
    product: Product,
) -> Prepared {
    let mut planned = strategy.plan(isa, w.pattern(), &[product], precision);
    let values = w.values().to_vec();
    planned.refresh(&values);
    Box::new(move |x, dy, out| match product {
        Product::InputGradient => planned.input_gradient(&values, dy, out, Initial::Zero),
        Product::WeightGradient => {
            out.fill(0.0);
            planned.weight_gradient(dy, x, out);
        }
        _ => planned.forward(&values, x, out, Initial::Zero),
    })
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

/// Y = W · X by the definition, on `[feature][token]` matrices in f64.
fn naive_spmm(w: &CsrMatrix, x: &[f64], tokens: usize) -> Vec<f64> {
    let mut y = vec![0.0; w.pattern().rows() * tokens];
    for (row, y) in y.chunks_exact_mut(tokens.max(1)).enumerate() {
        for at in w.pattern().row_range(row) {
            let column = w.pattern().column_indices()[at] as usize;
            for (y, x) in y.iter_mut().zip(&x[column * tokens..]) {
                *y += f64::from(w.values()[at]) * x;
            }
        }
    }
    y
}

/// dW by the definition, on `[feature][token]` matrices in f64.
fn naive_sddmm(pattern: &SparsePattern, dy: &[f64], x: &[f64], tokens: usize) -> Vec<f64> {
    let mut dw = Vec::with_capacity(pattern.nnz());
    for row in 0..pattern.rows() {
        for &column in pattern.row(row) {
            let dy = &dy[row * tokens..(row + 1) * tokens];
            let x = &x[column as usize * tokens..];
            dw.push(dy.iter().zip(x).map(|(a, b)| a * b).sum());
        }
    }
    dw
}
