//! Linear layer, y = W x + b with W `[out, in]`, dense (row by row) or sparse (its non-zeros).
//!
//! Forward: Y = W·X + b. Backward: dX = Wᵀ·dY; dW = dY·Xᵀ at the stored weights; db = Σ dY over tokens.
//! How W's products are computed is the layer's business ([`LinearLayer`]); where its plan is of 16 bits, X and
//! dY are rounded on their way in, and of X nothing but the rounded numbers is needed on the way back.
//! Cost per token, with nnz stored weights: 2·nnz + out forward, 4·nnz + out backward.

use super::lines::{lines, load};
use super::{OpCase, WithOp};
use crate::gradcheck::numbers;
use crate::{
    Backward, Cost, Need, OneToken, Op, Operand, ParamId, Parameters, Shape, Tiles, TokenLayout,
};
use mediswift_kernels::isa::{Isa, IsaKind, Kernel, dispatch};
use mediswift_kernels::ops::{Initial, LayerPlan, LinearLayer};
use mediswift_kernels::parallel::for_each_chunk;
use mediswift_kernels::sparse::mask;
use mediswift_kernels::{InPrecision, Lines, Precision, SparsePattern};
use std::sync::Arc;

/// Is shown what weight gradients are made of, on the way back.
pub trait Observer: Sync {
    /// dY `[tiles][out]` and X `[tiles][in]` of the layer of a weight, in the precision of its plan. The layer's
    /// weight gradient is dY · Xᵀ at the stored weights; here is all of it.
    fn sees(&self, weight: ParamId, dy: Lines<'_>, x: Lines<'_>);
}

/// The operator; its layer must have been refreshed since the weights changed.
pub struct Linear<'a> {
    /// W, planned.
    pub layer: &'a LinearLayer,
    /// The stored weights of W: where the gradient goes.
    pub weight: ParamId,
    /// Bias `[out]`.
    pub bias: ParamId,
    /// Who else wants to know of weight gradients.
    pub observer: Option<&'a dyn Observer>,
}

impl Op for Linear<'_> {
    fn name(&self) -> &'static str {
        self.layer.name()
    }

    fn out_features(&self) -> usize {
        self.layer.rows()
    }

    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, _saved: &mut Tiles) {
        let bias = Initial::Bias(&parameters[self.bias]);
        let x = self.in_precision(x[0]);
        self.layer.forward(&parameters[self.weight], x.lines(), y.data_mut(), bias);
    }

    fn needs_input(&self, _: usize) -> Need {
        Need::of_operand(self.layer.plan().precision())
    }

    fn backward(&self, pass: Backward<'_>) {
        let (dy, dx) = (pass.dy, pass.dx[0].data_mut());
        let initial = if pass.accumulate[0] { Initial::Held } else { Initial::Zero };
        let rounded = self.in_precision(dy);
        self.layer.input_gradient(&pass.parameters[self.weight], rounded.lines(), dx, initial);
        let dw = &mut pass.gradients[self.weight];
        let mut weight_gradient = |x: Lines<'_>| {
            self.layer.weight_gradient(rounded.lines(), x, dw);
            if let Some(observer) = self.observer {
                observer.sees(self.weight, rounded.lines(), x);
            }
        };
        match pass.x[0] {
            Operand::Rounded(x) => weight_gradient(x.lines()),
            x => weight_gradient(self.in_precision(x.exact()).lines()),
        }
        bias_gradient(dy, &mut pass.gradients[self.bias]);
    }

    fn one_token(&self, token: OneToken<'_>) {
        self.layer.one_token(&token.parameters[self.weight], token.x[0], token.y);
        token.y.iter_mut().zip(&token.parameters[self.bias]).for_each(|(y, b)| *y += b);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let (outputs, inputs) = (self.layer.rows(), self.layer.columns());
        LinearSize { outputs, inputs, nnz: self.layer.nnz() }.cost(layout)
    }
}

impl Linear<'_> {
    /// An operand as the layer's plan takes it.
    fn in_precision<'t>(&self, tiles: &'t Tiles) -> InPrecision<'t> {
        InPrecision::new(self.layer.plan().precision(), tiles.data(), tiles.features())
    }
}

/// How large a linear layer is: what its work depends on.
#[derive(Clone, Copy, Debug)]
pub struct LinearSize {
    /// Output features.
    pub outputs: usize,
    /// Input features.
    pub inputs: usize,
    /// Stored weights.
    pub nnz: usize,
}

impl LinearSize {
    /// Exact work on a batch of that layout, padding not counted.
    pub fn cost(&self, layout: TokenLayout) -> Cost {
        let (nnz, tokens) = (self.nnz as u64, layout.tokens() as u64);
        let (outputs, inputs) = (self.outputs as u64, self.inputs as u64);
        Cost {
            forward_flops: tokens * (2 * nnz + outputs),
            backward_flops: tokens * (4 * nnz + outputs),
            bytes: 4 * (2 * tokens * (inputs + outputs) + 3 * nnz + 2 * outputs),
        }
    }
}

/// Features per parallel task of a bias gradient.
const BIAS_BLOCK: usize = 64;

/// db += Σ dY over tokens; the sum of a feature runs over tiles in order, on one thread.
fn bias_gradient(dy: &Tiles, db: &mut [f32]) {
    assert_eq!(db.len(), dy.features(), "gradient and outputs disagree");
    for_each_chunk(db, BIAS_BLOCK, |block, db| {
        dispatch(SumTokens { dy, first: block * BIAS_BLOCK, db });
    });
}

struct SumTokens<'a> {
    dy: &'a Tiles,
    first: usize,
    db: &'a mut [f32],
}

impl Kernel for SumTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut sums = [isa.splat(0.0); BIAS_BLOCK];
        for tile in self.dy.data().chunks_exact(self.dy.tile_len()) {
            let lines = &lines(tile)[self.first..];
            for (sum, line) in sums[..self.db.len()].iter_mut().zip(lines) {
                *sum = isa.add(*sum, load(isa, line));
            }
        }
        for (db, sum) in self.db.iter_mut().zip(sums) {
            *db += isa.sum(sum);
        }
    }
}

const INPUTS: usize = 21;
const OUTPUTS: usize = 13;
const LAYOUT: TokenLayout = TokenLayout { sequences: 2, context: 19 };

fn parameters(weight: Shape) -> Parameters {
    let values = numbers(weight.len(), 1);
    Parameters::from_tensors([
        ("weight", weight, values),
        ("bias", Shape::Vector(OUTPUTS), numbers(OUTPUTS, 2)),
    ])
}

fn check(mut layer: LinearLayer, parameters: &Parameters, check: &mut dyn FnMut(&dyn Op)) {
    let find = |name| parameters.find(name).expect("a parameter of this case");
    let (weight, bias) = (find("weight"), find("bias"));
    layer.refresh(&parameters[weight]);
    check(&Linear { layer: &layer, weight, bias, observer: None });
}

fn isa() -> IsaKind {
    IsaKind::active().unwrap_or_else(|error| panic!("{error}"))
}

/// The test case of a dense weight.
const fn dense_case(name: &'static str, with_op: WithOp, precision: Precision) -> OpCase {
    OpCase {
        name,
        layout: LAYOUT,
        input_features: &[INPUTS],
        parameters: || parameters(Shape::Matrix(OUTPUTS, INPUTS)),
        with_op,
        reference: |_, x, parameters| affine(&parameters[0], &parameters[1], &x[0]),
        precision,
    }
}

fn dense(precision: Precision, parameters: &Parameters, then: &mut dyn FnMut(&dyn Op)) {
    check(LinearLayer::dense(isa(), precision, OUTPUTS, INPUTS), parameters, then);
}

/// A dense weight.
pub const DENSE_CASE: OpCase = dense_case(
    "dense linear",
    |parameters, then| dense(Precision::F32, parameters, then),
    Precision::F32,
);

/// A dense weight multiplied in bf16.
pub const DENSE_BF16_CASE: OpCase = dense_case(
    "dense linear of bf16",
    |parameters, then| dense(Precision::Bf16, parameters, then),
    Precision::Bf16,
);

/// A dense weight multiplied in f16.
pub const DENSE_F16_CASE: OpCase = dense_case(
    "dense linear of f16",
    |parameters, then| dense(Precision::F16, parameters, then),
    Precision::F16,
);

/// The pattern of the sparse test case.
fn pattern() -> Arc<SparsePattern> {
    Arc::new(mask::uniform_random(OUTPUTS, INPUTS, 0.6, 1).expect("a small matrix"))
}

/// The test case of a sparse weight.
const fn sparse_case(name: &'static str, with_op: WithOp, precision: Precision) -> OpCase {
    OpCase {
        parameters: || parameters(Shape::Sparse(pattern())),
        reference: |_, x, parameters| {
            let pattern = pattern();
            let mut w = vec![0.0; OUTPUTS * INPUTS];
            let mut values = parameters[0].iter();
            for (row, w) in w.chunks_exact_mut(INPUTS).enumerate() {
                for (&column, value) in pattern.row(row).iter().zip(values.by_ref()) {
                    w[column as usize] = *value;
                }
            }
            affine(&w, &parameters[1], &x[0])
        },
        ..dense_case(name, with_op, precision)
    }
}

fn sparse(precision: Precision, parameters: &Parameters, then: &mut dyn FnMut(&dyn Op)) {
    let plan = LayerPlan::of(precision, pattern().density(), isa());
    check(LinearLayer::sparse(isa(), pattern(), plan), parameters, then);
}

/// A sparse weight.
pub const SPARSE_CASE: OpCase = sparse_case(
    "sparse linear",
    |parameters, then| sparse(Precision::F32, parameters, then),
    Precision::F32,
);

/// A sparse weight multiplied in bf16.
pub const SPARSE_BF16_CASE: OpCase = sparse_case(
    "sparse linear of bf16",
    |parameters, then| sparse(Precision::Bf16, parameters, then),
    Precision::Bf16,
);

/// A sparse weight multiplied in f16.
pub const SPARSE_F16_CASE: OpCase = sparse_case(
    "sparse linear of f16",
    |parameters, then| sparse(Precision::F16, parameters, then),
    Precision::F16,
);

/// W x + b of every row of `x`, by the definition.
fn affine(w: &[f64], b: &[f64], x: &[f64]) -> Vec<f64> {
    let inputs = w.len() / b.len();
    let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    let row = |x| w.chunks_exact(inputs).zip(b).map(move |(w, b)| dot(w, x) + b);
    x.chunks_exact(inputs).flat_map(row).collect()
}
