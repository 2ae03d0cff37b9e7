//! [`Gelu`]: the activation of the MLP, in the tanh approximation of GPT-2 and GPT-3.
//!
//! With c = √(2/π), u = x · (c + 0.044715 c · x²) and t = tanh u:
//!
//! ```text
//! forward   y  = ½x · (1 + t)
//! backward  dx = dy · (½(1 + t) + ½x · (1 − t²) · (c + 3 · 0.044715 c · x²))
//! ```
//!
//! Every +, −, · and tanh counts as one FLOP: 8 per element forward (u 4, t 1, y 3) and 16 backward
//! (u and t again 5, the bracket 10, times dy 1). Recomputing t costs less than the memory traffic
//! of saving it.

use super::OpCase;
use super::lines::{BLOCK, lines, lines_mut, load, put, store};
use crate::{Backward, Cost, OneToken, Op, Parameters, Tiles, TokenLayout};
use mediswift_kernels::Precision;
use mediswift_kernels::isa::{Isa, Kernel, dispatch, math};
use rayon::prelude::*;

/// √(2/π).
const C: f32 = 0.797_884_6;
/// The coefficient of x³.
const CUBIC: f32 = 0.044_715;

/// y = GELU(x), elementwise.
pub struct Gelu {
    /// Features of the input and of the output.
    pub features: usize,
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    fn forward(&self, x: &[&Tiles], _: &Parameters, y: &mut Tiles, _: &mut Tiles) {
        let blocks = y.data_mut().par_chunks_mut(BLOCK).zip(x[0].data().par_chunks(BLOCK));
        blocks.for_each(|(y, x)| dispatch(Forward { x, y }));
    }

    fn backward(&self, pass: Backward<'_>) {
        let accumulate = pass.accumulate[0];
        let operands =
            pass.x[0].exact().data().par_chunks(BLOCK).zip(pass.dy.data().par_chunks(BLOCK));
        let blocks = pass.dx[0].data_mut().par_chunks_mut(BLOCK).zip(operands);
        blocks.for_each(|(dx, (x, dy))| dispatch(Gradient { x, dy, dx, accumulate }));
    }

    fn one_token(&self, token: OneToken<'_>) {
        for (y, &x) in token.y.iter_mut().zip(token.x[0]) {
            let u = (2.0 / std::f32::consts::PI).sqrt() * (x + CUBIC * x * x * x);
            *y = 0.5 * x * (1.0 + u.tanh());
        }
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let elements = (layout.tokens() * self.features) as u64;
        Cost {
            forward_flops: 8 * elements,
            backward_flops: 16 * elements,
            bytes: 4 * (2 + 3) * elements,
        }
    }
}

/// (tanh u, x²).
#[inline(always)]
fn tanh_and_square<I: Isa>(isa: I, x: I::V) -> (I::V, I::V) {
    let square = isa.mul(x, x);
    let u = isa.mul(x, isa.fma(isa.splat(CUBIC * C), square, isa.splat(C)));
    (math::tanh(isa, u), square)
}

struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (y, x) in lines_mut(self.y).iter_mut().zip(lines(self.x)) {
            let x = load(isa, x);
            let (t, _) = tanh_and_square(isa, x);
            let half = isa.mul(isa.splat(0.5), x);
            store(isa, y, isa.mul(half, isa.add(isa.splat(1.0), t)));
        }
    }
}

struct Gradient<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    accumulate: bool,
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (one, half) = (isa.splat(1.0), isa.splat(0.5));
        let operands = lines(self.x).iter().zip(lines(self.dy));
        for (dx, (x, dy)) in lines_mut(self.dx).iter_mut().zip(operands) {
            let x = load(isa, x);
            let (t, square) = tanh_and_square(isa, x);
            let du = isa.fma(isa.splat(3.0 * CUBIC * C), square, isa.splat(C));
            let dt = isa.sub(one, isa.mul(t, t));
            let slope = isa.mul(isa.mul(isa.mul(half, x), dt), du);
            let slope = isa.add(slope, isa.mul(half, isa.add(one, t)));
            put(isa, dx, isa.mul(load(isa, dy), slope), self.accumulate);
        }
    }
}

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "gelu",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[7],
    parameters: Parameters::default,
    with_op: |_, check| check(&Gelu { features: 7 }),
    reference: |_, x, _| {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        let gelu = |x: &f64| 0.5 * x * (1.0 + (c * (x + 0.044_715 * x.powi(3))).tanh());
        x[0].iter().map(gelu).collect()
    },
    precision: Precision::F32,
};
