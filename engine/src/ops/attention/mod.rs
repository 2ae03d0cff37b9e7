//! [`CausalAttention`]: multi-head self-attention in which a token sees itself and earlier tokens.
//!
//! Per sequence and head, with α = 1/√d_head, scores over keys k ≤ q:
//!
//! ```text
//! forward   s[k, q] = α · Σ_d K[d, k] · Q[d, q]
//!           lse[q]  = ln Σ_k exp s[k, q]
//!           P[k, q] = exp(s[k, q] − lse[q])
//!           O[d, q] = Σ_k V[d, k] · P[k, q]
//! backward  D[q]     = Σ_d dO[d, q] · O[d, q]
//!           dV[d, k] = Σ_q dO[d, q] · P[k, q]
//!           dS[k, q] = P[k, q] · (Σ_d V[d, k] · dO[d, q] − D[q])
//!           dK[d, k] = α · Σ_q Q[d, q] · dS[k, q]
//!           dQ[d, q] = α · Σ_k K[d, k] · dS[k, q]
//! ```
//!
//! No pass holds the matrix of scores. The forward pass keeps the scores of one block of queries
//! (lanes are queries) and saves only lse; the backward pass recomputes P from it, one block of
//! queries × keys at a time (after FlashAttention). There the lanes are keys, which makes dK and dV
//! sums over broadcast queries; dQ takes dS transposed in registers. Tiles above the diagonal are
//! never computed.
//!
//! A key in a padding lane comes after every real query, so the mask hides it; queries in padding
//! lanes are left out of the backward pass.
//!
//! FLOPs, of the scores that the mask keeps: with pairs = context · (context + 1) / 2 per sequence
//! and head, the forward pass counts 2 · 2 · pairs · d_head for the two products and 3 · pairs for
//! the softmax; the backward pass counts twice that.

mod backward;
mod forward;
mod head;
mod one_token;

use self::backward::Gradient;
use self::forward::Forward;
use self::head::{BLOCK, Head, SQUARE};
use super::lines::lines_mut;
use super::{F32, OpCase};
use crate::{Backward, Cost, Need, OneToken, Op, Parameters, Tiles, TokenLayout};
use mediswift_kernels::isa::dispatch;
use mediswift_kernels::parallel::{Part, for_each_part};
use mediswift_kernels::{LANES, Scratch};

/// y = softmax(mask(Qᵀ K / √d_head)) V for each head. The input has 3 · `features` rows: all of Q,
/// all of K, all of V; head h has features h · d_head to (h + 1) · d_head of each.
pub struct CausalAttention {
    /// Heads; divides `features`.
    pub heads: usize,
    /// Features of the output.
    pub features: usize,
}

impl CausalAttention {
    /// FLOPs of the softmax in the forward pass: part of [`Op::cost`].
    pub fn softmax_flops(&self, layout: TokenLayout) -> u64 {
        3 * pairs(layout) * self.heads as u64
    }

    #[track_caller]
    fn head_features(&self) -> usize {
        let (heads, features) = (self.heads, self.features);
        assert!(features.is_multiple_of(heads), "{heads} heads do not divide {features} features");
        features / heads
    }
}

/// Pairs of query and key that the mask leaves.
fn pairs(layout: TokenLayout) -> u64 {
    let (sequences, context) = (layout.sequences as u64, layout.context as u64);
    sequences * context * (context + 1) / 2
}

impl Op for CausalAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn out_features(&self) -> usize {
        self.features
    }

    /// Log-sum-exp of the scores, per head.
    fn saved_features(&self) -> usize {
        self.heads
    }

    fn forward(&self, x: &[&Tiles], _: &Parameters, y: &mut Tiles, saved: &mut Tiles) {
        let (layout, qkv) = (y.layout(), x[0]);
        let head_features = self.head_features();
        assert_eq!(qkv.features(), 3 * self.features, "q, k and v of the output's size are needed");
        assert_eq!((qkv.layout(), saved.layout()), (layout, layout), "layouts disagree");
        assert_eq!((y.features(), saved.features()), (self.features, self.heads));
        let tiles = layout.tiles_per_sequence();
        let blocks = tiles.div_ceil(BLOCK);
        let y = Part::whole(y.data_mut(), self.features * LANES).into_rows(tiles.max(1));
        let saved = Part::whole(saved.data_mut(), self.heads * LANES).into_rows(tiles.max(1));
        let mut tasks = Vec::with_capacity(layout.sequences * self.heads * blocks);
        for (sequence, (y, saved)) in y.into_iter().zip(saved).enumerate() {
            let y = y.into_columns(head_features * LANES);
            for (head, (y, saved)) in y.into_iter().zip(saved.into_columns(LANES)).enumerate() {
                let at = Head { sequence, head, heads: self.heads, head_features, tiles };
                let blocks = y.into_rows(BLOCK).into_iter().zip(saved.into_rows(BLOCK));
                let blocks = (0..tiles).step_by(BLOCK).zip(blocks);
                // Long rows of scores first, so that the last tasks to run are short ones.
                tasks.extend(blocks.rev().map(|(first, (y, saved))| (at, first, y, saved)));
            }
        }
        for_each_part(tasks, |(at, first, y, saved)| {
            let queries = first..first + y.rows();
            let mut scores = Scratch::take(queries.len() * queries.end * SQUARE);
            dispatch(Forward { at, qkv, queries, scores: &mut scores, y, saved });
        });
    }

    fn needs_output(&self) -> Need {
        Need::Exact
    }

    fn backward(&self, pass: Backward<'_>) {
        let (layout, qkv) = (pass.dy.layout(), pass.x[0].exact());
        let head_features = self.head_features();
        let tiles = layout.tiles_per_sequence();
        let [dx] = pass.dx else { panic!("attention has one input") };
        assert_eq!(dx.features(), 3 * self.features, "q, k and v of the output's size are needed");
        assert_eq!((qkv.layout(), dx.layout()), (layout, layout), "layouts disagree");
        assert_eq!((pass.dy.features(), qkv.features()), (self.features, dx.features()));
        let mut tasks = Vec::with_capacity(layout.sequences * self.heads);
        let sequences =
            Part::whole(dx.data_mut(), 3 * self.features * LANES).into_rows(tiles.max(1));
        for (sequence, dx) in sequences.into_iter().enumerate() {
            let mut q = dx.into_columns(head_features * LANES);
            let v = q.split_off(2 * self.heads);
            let k = q.split_off(self.heads);
            for (head, ((q, k), v)) in q.into_iter().zip(k).zip(v).enumerate() {
                let at = Head { sequence, head, heads: self.heads, head_features, tiles };
                tasks.push((at, [q, k, v]));
            }
        }
        for_each_part(tasks, |(at, dx)| {
            let mut scratch = Scratch::take(tiles * LANES + (2 * BLOCK + BLOCK * BLOCK) * SQUARE);
            let (corrections, scratch) = scratch.split_at_mut(tiles * LANES);
            let (p, scratch) = scratch.split_at_mut(BLOCK * SQUARE);
            let (ds, ds_transposed) = scratch.split_at_mut(BLOCK * SQUARE);
            dispatch(Gradient {
                at,
                context: layout.context,
                qkv,
                y: pass.y.exact(),
                lse: pass.saved,
                dy: pass.dy,
                dx,
                accumulate: pass.accumulate[0],
                corrections: lines_mut(corrections),
                p,
                ds,
                ds_transposed,
            });
        });
    }

    fn one_token(&self, token: OneToken<'_>) {
        one_token::attend(self.head_features(), token);
    }

    /// Key and value.
    fn cached_features(&self) -> usize {
        2 * self.features
    }

    fn fill_cache(&self, x: &[&Tiles], cache: &mut [f32]) {
        one_token::fill(x[0], cache);
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let (sequences, context) = (layout.sequences as u64, layout.context as u64);
        let (heads, features) = (self.heads as u64, self.features as u64);
        let forward_flops = 4 * pairs(layout) * features + self.softmax_flops(layout);
        Cost {
            forward_flops,
            backward_flops: 2 * forward_flops,
            // Forward: q, k, v, y, lse. Backward: the same, dy and the gradients of q, k, v.
            bytes: 4 * sequences * context * (12 * features + 2 * heads),
        }
    }
}

/// Attention by the definition.
fn naive(layout: TokenLayout, qkv: &[f64], heads: usize, features: usize) -> Vec<f64> {
    let head_features = features / heads;
    let mut y = Vec::with_capacity(layout.tokens() * features);
    let token = |t: usize, part: usize, head: usize| {
        &qkv[t * 3 * features + part * features + head * head_features..][..head_features]
    };
    for t in 0..layout.tokens() {
        let sequence = t / layout.context * layout.context;
        for head in 0..heads {
            let score = |key| {
                let products = token(t, 0, head).iter().zip(token(key, 1, head));
                products.map(|(q, k)| q * k).sum::<f64>() / (head_features as f64).sqrt()
            };
            let weights: Vec<f64> = (sequence..=t).map(|key| score(key).exp()).collect();
            let sum: f64 = weights.iter().sum();
            y.extend((0..head_features).map(|d| {
                let values = (sequence..=t).map(|key| token(key, 2, head)[d]);
                weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / sum
            }));
        }
    }
    y
}

/// Test case with several heads and sequences.
pub const CASE: OpCase = OpCase {
    name: "attention",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[3 * 14],
    parameters: Parameters::default,
    with_op: |_, check| check(&CausalAttention { heads: 2, features: 14 }),
    reference: |layout, x, _| naive(layout, &x[0], 2, 14),
    tolerance: F32,
};

/// Test case with several blocks of queries and keys.
pub const LONG_CASE: OpCase = OpCase {
    name: "attention on several blocks",
    layout: TokenLayout { sequences: 1, context: 137 },
    input_features: &[3 * 3],
    parameters: Parameters::default,
    with_op: |_, check| check(&CausalAttention { heads: 1, features: 3 }),
    reference: |layout, x, _| naive(layout, &x[0], 1, 3),
    tolerance: F32,
};
