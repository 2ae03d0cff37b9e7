//! [`Add`]: the residual connection.
//!
//! ```text
//! forward   y = a + b                 1 FLOP per element
//! backward  da = dy,  db = dy         no arithmetic
//! ```

use super::OpCase;
use super::lines::{BLOCK, lines, lines_mut, load, put, store};
use crate::{Backward, Cost, Need, OneToken, Op, Parameters, Tiles, TokenLayout};
use mediswift_kernels::Precision;
use mediswift_kernels::isa::{Isa, Kernel, dispatch};
use rayon::prelude::*;

/// y = a + b, elementwise.
pub struct Add {
    /// Features of both inputs and of the output.
    pub features: usize,
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    fn forward(&self, x: &[&Tiles], _: &Parameters, y: &mut Tiles, _: &mut Tiles) {
        let operands = x[0].data().par_chunks(BLOCK).zip(x[1].data().par_chunks(BLOCK));
        let blocks = y.data_mut().par_chunks_mut(BLOCK).zip(operands);
        blocks.for_each(|(y, (a, b))| dispatch(Sum { a, b, y }));
    }

    fn needs_input(&self, _: usize) -> Need {
        Need::Nothing
    }

    fn backward(&self, pass: Backward<'_>) {
        for (dx, &accumulate) in pass.dx.iter_mut().zip(pass.accumulate) {
            let blocks = dx.data_mut().par_chunks_mut(BLOCK).zip(pass.dy.data().par_chunks(BLOCK));
            blocks.for_each(|(dx, dy)| dispatch(Pass { dy, dx, accumulate }));
        }
    }

    fn one_token(&self, token: OneToken<'_>) {
        let operands = token.x[0].iter().zip(token.x[1]);
        token.y.iter_mut().zip(operands).for_each(|(y, (a, b))| *y = a + b);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let elements = (layout.tokens() * self.features) as u64;
        Cost { forward_flops: elements, backward_flops: 0, bytes: 4 * (3 + 3) * elements }
    }
}

struct Sum<'a> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for ((y, a), b) in lines_mut(self.y).iter_mut().zip(lines(self.a)).zip(lines(self.b)) {
            store(isa, y, isa.add(load(isa, a), load(isa, b)));
        }
    }
}

struct Pass<'a> {
    dy: &'a [f32],
    dx: &'a mut [f32],
    accumulate: bool,
}

impl Kernel for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (dx, dy) in lines_mut(self.dx).iter_mut().zip(lines(self.dy)) {
            put(isa, dx, load(isa, dy), self.accumulate);
        }
    }
}

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "add",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[7, 7],
    parameters: Parameters::default,
    with_op: |_, check| check(&Add { features: 7 }),
    reference: |_, x, _| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect(),
    precision: Precision::F32,
};
