//! Sparse linear layer, y = W x + b with CSR weights.
//!
//! Forward: Y = W·X + b, an SpMM over the non-zeros of W.
//! Backward: dX = Wᵀ·dY, an SpMM with the transposed twin; dW = (dY·Xᵀ) sampled at the pattern, an
//! SDDMM; db = Σ dY over tokens.
//! Cost per token: 2·nnz + out forward, 4·nnz + out backward.

use super::OpCase;
use super::linear_dense::{affine, bias_gradient, start};
use crate::gradcheck::numbers;
use crate::{Backward, Cost, Op, ParamId, Parameters, Shape, Tiles, TokenLayout};
use mediswift_kernels::ops::spmm::Start;
use mediswift_kernels::sparse::mask;
use mediswift_kernels::{SparseLayer, SparsePattern};
use std::sync::Arc;

/// The operator; its layer holds the packed weights and must have been refreshed since they changed.
pub struct SparseLinear<'a> {
    /// Plans and packed values of the weight.
    pub layer: &'a SparseLayer,
    /// The weight's non-zeros: where the gradient goes.
    pub weight: ParamId,
    /// Bias `[out]`.
    pub bias: ParamId,
}

impl Op for SparseLinear<'_> {
    fn name(&self) -> &'static str {
        "sparse linear"
    }

    fn out_features(&self) -> usize {
        self.layer.pattern().rows()
    }

    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, _saved: &mut Tiles) {
        self.layer.forward(x[0].data(), y.data_mut(), Start::Bias(&parameters[self.bias]));
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, dy) = (pass.x[0], pass.dy);
        let start = start(pass.accumulate[0]);
        self.layer.input_gradient(dy.data(), pass.dx[0].data_mut(), start);
        self.layer.weight_gradient(dy.data(), x.data(), &mut pass.gradients[self.weight]);
        bias_gradient(dy, &mut pass.gradients[self.bias]);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let pattern = self.layer.pattern();
        let (nnz, tokens) = (pattern.nnz() as u64, layout.tokens() as u64);
        let (outputs, inputs) = (pattern.rows() as u64, pattern.columns() as u64);
        Cost {
            forward_flops: tokens * (2 * nnz + outputs),
            backward_flops: tokens * (4 * nnz + outputs),
            bytes: 4 * (2 * tokens * (inputs + outputs) + 3 * nnz + 2 * outputs),
        }
    }
}

const INPUTS: usize = 21;
const OUTPUTS: usize = 13;

/// The pattern of the test case.
fn pattern() -> SparsePattern {
    mask::uniform_random(OUTPUTS, INPUTS, 0.6, 1).expect("a small matrix")
}

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "sparse linear",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[INPUTS],
    parameters: || {
        let pattern = Arc::new(pattern());
        let values = numbers(pattern.nnz(), 1);
        Parameters::from_tensors([
            ("weight", Shape::Sparse(pattern), values),
            ("bias", Shape::Vector(OUTPUTS), numbers(OUTPUTS, 2)),
        ])
    },
    with_op: |parameters, check| {
        let find = |name| parameters.find(name).expect("a parameter of this case");
        let mut layer = SparseLayer::new(Arc::new(pattern()));
        layer.refresh(&parameters[find("weight")]);
        check(&SparseLinear { layer: &layer, weight: find("weight"), bias: find("bias") });
    },
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
};
