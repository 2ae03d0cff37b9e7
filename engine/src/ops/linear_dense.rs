//! Dense linear layer, y = W x + b with W `[out, in]`, row-major.
//!
//! Forward: Y = W·X + b. Backward: dX = Wᵀ·dY; dW = dY·Xᵀ; db = Σ dY over tokens.
//! Cost per token: 2·out·in + out forward, 4·out·in + out backward.

use super::OpCase;
use super::lines::{lines, load};
use crate::gradcheck::numbers;
use crate::{Backward, Cost, Op, ParamId, Parameters, Shape, Tiles, TokenLayout};
use mediswift_kernels::isa::{Isa, Kernel, dispatch};
use mediswift_kernels::ops::gemm::{Left, OutLayout, gemm, transpose_tiles};
use mediswift_kernels::ops::spmm::Start;
use mediswift_kernels::parallel::{SharedMut, for_each_block};
use mediswift_kernels::{AlignedBuffer, LANES};

/// The operator.
pub struct DenseLinear {
    /// Weight `[out, in]`.
    pub weight: ParamId,
    /// Bias `[out]`.
    pub bias: ParamId,
    /// Input features.
    pub inputs: usize,
    /// Output features.
    pub outputs: usize,
}

impl Op for DenseLinear {
    fn name(&self) -> &'static str {
        "dense linear"
    }

    fn out_features(&self) -> usize {
        self.outputs
    }

    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, _saved: &mut Tiles) {
        fill_bias(&parameters[self.bias], y);
        let w = Left::row_major(&parameters[self.weight], self.outputs, self.inputs);
        gemm(w, x[0].data(), y.data_mut(), OutLayout::tiles(self.outputs), true);
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, dy) = (pass.x[0], pass.dy);
        let wt = Left::transposed(&pass.parameters[self.weight], self.inputs, self.outputs);
        let layout = OutLayout::tiles(self.inputs);
        gemm(wt, dy.data(), pass.dx[0].data_mut(), layout, pass.accumulate[0]);
        weight_gradient(dy, x, &mut pass.gradients[self.weight]);
        bias_gradient(dy, &mut pass.gradients[self.bias]);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let tokens = layout.tokens() as u64;
        let (outputs, inputs) = (self.outputs as u64, self.inputs as u64);
        Cost {
            forward_flops: tokens * (2 * outputs * inputs + outputs),
            backward_flops: tokens * (4 * outputs * inputs + outputs),
            bytes: 4 * (2 * tokens * (inputs + outputs) + 3 * inputs * outputs + 2 * outputs),
        }
    }
}

/// dw += dY · Xᵀ.
fn weight_gradient(dy: &Tiles, x: &Tiles, dw: &mut [f32]) {
    let (outputs, inputs) = (dy.features(), x.features());
    let left = Left::tiles(dy.data(), outputs);
    let xt = transpose_tiles(x.data(), inputs);
    let columns = inputs.next_multiple_of(LANES);
    if columns == inputs {
        return gemm(left, &xt, dw, OutLayout::row_major(inputs), true);
    }
    // The product writes whole lines: give it padded rows of its own.
    let mut padded = AlignedBuffer::zeros(outputs * columns);
    gemm(left, &xt, &mut padded, OutLayout::row_major(columns), false);
    for (dw, padded) in dw.chunks_exact_mut(inputs).zip(padded.chunks_exact(columns)) {
        dw.iter_mut().zip(padded).for_each(|(dw, p)| *dw += p);
    }
}

/// How a product treats the gradient it writes.
pub(super) fn start(accumulate: bool) -> Start<'static> {
    if accumulate { Start::Accumulate } else { Start::Zero }
}

fn fill_bias(bias: &[f32], y: &mut Tiles) {
    let tile_len = y.tile_len();
    let tiles = y.layout().tiles();
    let shared = SharedMut::new(y.data_mut());
    for_each_block(tiles, |tile| {
        // SAFETY: tiles are disjoint ranges of y.
        let lines = unsafe { shared.slice(tile * tile_len, tile_len) };
        for (line, &b) in lines.chunks_exact_mut(LANES).zip(bias) {
            line.fill(b);
        }
    });
}

/// Features per parallel task of a bias gradient.
const BIAS_BLOCK: usize = 64;

/// db += Σ dY over tokens; the sum of a feature runs over tiles in order, on one thread.
pub(super) fn bias_gradient(dy: &Tiles, db: &mut [f32]) {
    let shared = SharedMut::new(db);
    for_each_block(dy.features().div_ceil(BIAS_BLOCK), |block| {
        let first = block * BIAS_BLOCK;
        let len = BIAS_BLOCK.min(dy.features() - first);
        // SAFETY: the blocks are disjoint ranges of db.
        let db = unsafe { shared.slice(first, len) };
        dispatch(SumTokens { dy, first, db });
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

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "dense linear",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[INPUTS],
    parameters: || {
        let values = numbers(OUTPUTS * INPUTS, 1);
        Parameters::from_tensors([
            ("weight", Shape::Matrix(OUTPUTS, INPUTS), values),
            ("bias", Shape::Vector(OUTPUTS), numbers(OUTPUTS, 2)),
        ])
    },
    with_op: |parameters, check| {
        let find = |name| parameters.find(name).expect("a parameter of this case");
        let (weight, bias) = (find("weight"), find("bias"));
        check(&DenseLinear { weight, bias, inputs: INPUTS, outputs: OUTPUTS });
    },
    reference: |_, x, parameters| affine(&parameters[0], &parameters[1], &x[0]),
};

/// W x + b of every row of `x`, by the definition.
pub(super) fn affine(w: &[f64], b: &[f64], x: &[f64]) -> Vec<f64> {
    let inputs = w.len() / b.len();
    let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    let row = |x| w.chunks_exact(inputs).zip(b).map(move |(w, b)| dot(w, x) + b);
    x.chunks_exact(inputs).flat_map(row).collect()
}
