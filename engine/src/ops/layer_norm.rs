//! [`LayerNorm`]: normalises the features of every token.
//!
//! With d features, μ = Σx / d, σ² = Σ(x − μ)² / d + ε, r = 1/σ and x̂ = (x − μ) · r:
//!
//! ```text
//! forward   y  = gain · x̂ + bias
//! backward  dbias += Σ dy                  (over tokens)
//!           dgain += Σ dy · x̂
//!           g  = dy · gain
//!           dx = r · (g − Σg / d − x̂ · Σ(g · x̂) / d)      (sums over features)
//! ```
//!
//! μ and r of every token are saved. The variance takes a second pass over the tile, which is in
//! the cache, and so does not cancel where μ is large.
//!
//! FLOPs, one for each +, −, ·, ÷, √ — forward: per element 8 (mean 1, variance 3, output 4), per
//! token 5 (two divisions, ε, root, reciprocal). Backward: per element 13 (x̂ 2, dbias 1, dgain 2,
//! g 1, its sums 3, dx 4), per token 2.

use super::OpCase;
use super::lines::{Line, lines, lines_mut, load, put, store};
use crate::gradcheck::numbers;
use crate::{Backward, Cost, OneToken, Op, ParamId, Parameters, Shape, Tiles, TokenLayout};
use mediswift_kernels::isa::{Isa, Kernel, dispatch};
use mediswift_kernels::{AlignedBuffer, LANES, Precision, Scratch};
use rayon::prelude::*;

/// ε of every LayerNorm, as in GPT-2 and GPT-3.
pub const EPSILON: f32 = 1e-5;

/// The backward pass cuts the tiles into at most this many blocks, each with partial sums of the
/// gain's and bias's gradient.
const BLOCKS: usize = 64;

/// y = gain · (x − μ) / σ + bias.
pub struct LayerNorm {
    /// Gain `[features]`.
    pub gain: ParamId,
    /// Bias `[features]`.
    pub bias: ParamId,
    /// Features of the input and of the output.
    pub features: usize,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    /// μ and 1/σ.
    fn saved_features(&self) -> usize {
        2
    }

    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, saved: &mut Tiles) {
        let (gain, bias) = (&parameters[self.gain], &parameters[self.bias]);
        let tile_len = y.tile_len();
        let results =
            y.data_mut().par_chunks_mut(tile_len).zip(saved.data_mut().par_chunks_mut(2 * LANES));
        let tiles = x[0].data().par_chunks(tile_len).zip(results);
        tiles.for_each(|(x, (y, saved))| {
            dispatch(Normalise {
                x: lines(x),
                gain,
                bias,
                y: lines_mut(y),
                saved: lines_mut(saved),
            });
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let tiles = pass.dy.layout().tiles();
        assert_eq!(pass.dx[0].data().len(), tiles * self.features * LANES, "shapes disagree");
        let block_tiles = tiles.div_ceil(BLOCKS).max(1);
        let blocks = tiles.div_ceil(block_tiles);
        let columns = self.features.next_multiple_of(LANES);
        let mut partial = AlignedBuffer::zeros(blocks * 2 * columns);
        let tile_len = self.features * LANES;
        let dx = pass.dx[0].data_mut().par_chunks_mut(block_tiles * tile_len);
        let tasks = partial.par_chunks_mut(2 * columns).zip(dx).enumerate().with_max_len(1);
        let x = pass.x[0].exact();
        tasks.for_each(|(block, (partial, dx))| {
            let first = block * block_tiles;
            let mut sums = Scratch::take(2 * columns * LANES);
            sums.fill(0.0);
            let (gain_sums, bias_sums) = lines_mut(&mut sums).split_at_mut(columns);
            for (tile, dx) in (first..).zip(dx.chunks_exact_mut(tile_len)) {
                dispatch(Gradient {
                    x: lines(x.tile(tile)),
                    dy: lines(pass.dy.tile(tile)),
                    saved: lines(pass.saved.tile(tile)),
                    gain: &pass.parameters[self.gain],
                    dx: lines_mut(dx),
                    accumulate: pass.accumulate[0],
                    gain_sums,
                    bias_sums,
                });
            }
            dispatch(SumLanes { sums: lines(&sums), to: lines_mut(partial) });
        });
        for block in partial.chunks_exact(2 * columns) {
            for (id, sums) in [self.gain, self.bias].into_iter().zip(block.chunks_exact(columns)) {
                pass.gradients[id].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
            }
        }
    }

    fn one_token(&self, token: OneToken<'_>) {
        let x = token.x[0];
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let r = 1.0 / (variance + EPSILON).sqrt();
        let affine = token.parameters[self.gain].iter().zip(&token.parameters[self.bias]);
        for ((y, x), (gain, bias)) in token.y.iter_mut().zip(x).zip(affine) {
            *y = (x - mean) * r * gain + bias;
        }
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let (tokens, features) = (layout.tokens() as u64, self.features as u64);
        Cost {
            forward_flops: tokens * (8 * features + 5),
            backward_flops: tokens * (13 * features + 2),
            // Forward: x, y, μ and r. Backward: x, dy, dx, μ and r. Gain and bias: read twice (the
            // bias once), and their gradients read and written.
            bytes: 4 * (tokens * (5 * features + 4) + 7 * features),
        }
    }
}

/// Σ f(feature) over the features, by four interleaved sums.
#[inline(always)]
fn sum<I: Isa>(isa: I, x: &[Line], f: impl Fn(I::V) -> I::V) -> I::V {
    let mut sums = [isa.splat(0.0); 4];
    for x in x.chunks(4) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = isa.add(*sum, f(load(isa, x)));
        }
    }
    isa.add(isa.add(sums[0], sums[1]), isa.add(sums[2], sums[3]))
}

/// One tile forward.
struct Normalise<'a> {
    x: &'a [Line],
    gain: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [Line],
    saved: &'a mut [Line],
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let features = isa.splat(self.x.len() as f32);
        let mean = isa.div(sum(isa, self.x, |x| x), features);
        let square = |x| {
            let x = isa.sub(x, mean);
            isa.mul(x, x)
        };
        let variance = isa.div(sum(isa, self.x, square), features);
        let sigma = isa.sqrt(isa.add(variance, isa.splat(EPSILON)));
        let r = isa.div(isa.splat(1.0), sigma);
        store(isa, &mut self.saved[0], mean);
        store(isa, &mut self.saved[1], r);
        let parameters = self.gain.iter().zip(self.bias);
        for ((y, x), (&gain, &bias)) in self.y.iter_mut().zip(self.x).zip(parameters) {
            let normal = isa.mul(isa.sub(load(isa, x), mean), r);
            store(isa, y, isa.fma(isa.splat(gain), normal, isa.splat(bias)));
        }
    }
}

/// One tile backward; adds dy · x̂ and dy to `gain_sums` and `bias_sums`, lane by lane.
struct Gradient<'a> {
    x: &'a [Line],
    dy: &'a [Line],
    saved: &'a [Line],
    gain: &'a [f32],
    dx: &'a mut [Line],
    accumulate: bool,
    gain_sums: &'a mut [Line],
    bias_sums: &'a mut [Line],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let features = isa.splat(self.x.len() as f32);
        let (mean, r) = (load(isa, &self.saved[0]), load(isa, &self.saved[1]));
        let normal = |x: &Line| isa.mul(isa.sub(load(isa, x), mean), r);
        let mut g_sum = isa.splat(0.0);
        let mut gx_sum = isa.splat(0.0);
        let sums = self.gain_sums.iter_mut().zip(self.bias_sums);
        for (((x, dy), &gain), (gain_sum, bias_sum)) in
            self.x.iter().zip(self.dy).zip(self.gain).zip(sums)
        {
            let (normal, dy) = (normal(x), load(isa, dy));
            store(isa, gain_sum, isa.fma(dy, normal, load(isa, gain_sum)));
            put(isa, bias_sum, dy, true);
            let g = isa.mul(dy, isa.splat(gain));
            g_sum = isa.add(g_sum, g);
            gx_sum = isa.fma(g, normal, gx_sum);
        }
        let g_mean = isa.div(g_sum, features);
        let gx_mean = isa.div(gx_sum, features);
        let operands = self.x.iter().zip(self.dy).zip(self.gain);
        for (dx, ((x, dy), &gain)) in self.dx.iter_mut().zip(operands) {
            let g = isa.mul(load(isa, dy), isa.splat(gain));
            let centred = isa.sub(g, g_mean);
            let centred = isa.sub(centred, isa.mul(normal(x), gx_mean));
            put(isa, dx, isa.mul(r, centred), self.accumulate);
        }
    }
}

/// Sums lines over their lanes, sixteen lines at a time.
struct SumLanes<'a> {
    sums: &'a [Line],
    to: &'a mut [Line],
}

impl Kernel for SumLanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (to, sums) in self.to.iter_mut().zip(self.sums.chunks_exact(LANES)) {
            let mut block = [isa.splat(0.0); LANES];
            for (v, line) in block.iter_mut().zip(sums) {
                *v = load(isa, line);
            }
            store(isa, to, isa.sum_each(block));
        }
    }
}

const FEATURES: usize = 21;

/// Test case.
pub const CASE: OpCase = OpCase {
    name: "layer norm",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[FEATURES],
    parameters: || {
        Parameters::from_tensors([
            ("gain", Shape::Vector(FEATURES), numbers(FEATURES, 1)),
            ("bias", Shape::Vector(FEATURES), numbers(FEATURES, 2)),
        ])
    },
    with_op: |parameters, check| {
        let find = |name| parameters.find(name).expect("a parameter of this case");
        check(&LayerNorm { gain: find("gain"), bias: find("bias"), features: FEATURES });
    },
    reference: |_, x, parameters| {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let mut y = Vec::with_capacity(x[0].len());
        for x in x[0].chunks_exact(FEATURES) {
            let centred: Vec<f64> = x.iter().map(|v| v - mean(x)).collect();
            let squares: Vec<f64> = centred.iter().map(|v| v * v).collect();
            let sigma = (mean(&squares) + f64::from(EPSILON)).sqrt();
            let affine = parameters[0].iter().zip(&parameters[1]);
            y.extend(centred.iter().zip(affine).map(|(v, (gain, bias))| gain * v / sigma + bias));
        }
        y
    },
    precision: Precision::F32,
};
