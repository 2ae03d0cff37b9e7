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
//! In bf16, where the CPU multiplies pairs of it, the operands of all these products are rounded: Q, K, V, dO, the P
//! that V and dO are multiplied with (before it is divided by its sum in the forward pass) and dS. Each is packed so that two
//! features, or two tokens, over which a product adds up share a word. Sums, softmax, lse and D are `f32`, as is all
//! of attention on other CPUs and in f16, whose range the scores of a trained model leave.
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
mod operand;
#[cfg(test)]
mod tests;

use self::backward::{Gradient, Squares};
use self::forward::Forward;
use self::head::{BLOCK, Head, SQUARE, Third};
use self::operand::{Operand, packed};
use super::OpCase;
use super::lines::lines_mut;
use crate::{Backward, Cost, Need, OneToken, Op, Parameters, Tiles, TokenLayout};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::{Arithmetic, Numbers, Pairs, Words};
use mediswift_kernels::parallel::{Part, for_each_part};
use mediswift_kernels::{LANES, Precision, Scratch};
use std::marker::PhantomData;

/// y = softmax(mask(Qᵀ K / √d_head)) V for each head. The input has 3 · `features` rows: all of Q,
/// all of K, all of V; head h has features h · d_head to (h + 1) · d_head of each.
pub struct CausalAttention {
    /// Heads; divides `features`.
    pub heads: usize,
    /// Features of the output.
    pub features: usize,
    /// What the operands of its products may be rounded to, where that is faster.
    pub precision: Precision,
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

    /// The forward pass by products of a kind of words.
    fn forward_on<W: Arithmetic>(
        &self,
        isa: IsaKind,
        qkv: &Tiles,
        y: &mut Tiles,
        saved: &mut Tiles,
    ) {
        let layout = y.layout();
        let head_features = self.head_features();
        assert_eq!(qkv.features(), 3 * self.features, "q, k and v of the output's size are needed");
        assert_eq!((qkv.layout(), saved.layout()), (layout, layout), "layouts disagree");
        assert_eq!((y.features(), saved.features()), (self.features, self.heads));
        let tiles = layout.tiles_per_sequence();
        let heads = self.heads_of(layout);
        let size = heads.first().map_or(0, |&head| packed::<W>(head));
        let mut pairs = Scratch::take(heads.len() * 3 * size);
        let mut places = pairs.chunks_exact_mut(size.max(1));
        let mut place = || places.next().unwrap_or_default();
        let mut operands = vec![None; heads.len()];
        let heads_of_operands = heads.iter().zip(&mut operands);
        let parts =
            heads_of_operands.map(|(&at, operands)| (at, [place(), place(), place()], operands));
        for_each_part(parts.collect(), |(at, [q, k, v], operands)| {
            let of = |third| (&qkv.data()[at.input(third, 0)..], at.input_tile());
            *operands = Some([
                Operand::new::<W>(isa, at, of(Third::Q), q, &mut []),
                Operand::new::<W>(isa, at, of(Third::K), k, &mut []),
                Operand::new::<W>(isa, at, of(Third::V), &mut [], v),
            ]);
        });
        let blocks = tiles.div_ceil(BLOCK);
        let y = Part::whole(y.data_mut(), self.features * LANES).into_rows(tiles.max(1));
        let saved = Part::whole(saved.data_mut(), self.heads * LANES).into_rows(tiles.max(1));
        let parts = y.into_iter().zip(saved).flat_map(|(y, saved)| {
            y.into_columns(head_features * LANES).into_iter().zip(saved.into_columns(LANES))
        });
        let mut tasks = Vec::with_capacity(heads.len() * blocks);
        for ((&at, operands), (y, saved)) in heads.iter().zip(operands).zip(parts) {
            let operands = operands.expect("every head has them");
            let blocks = y.into_rows(BLOCK).into_iter().zip(saved.into_rows(BLOCK));
            let blocks = (0..tiles).step_by(BLOCK).zip(blocks);
            // Long rows of scores first, so that the last tasks to run are short ones.
            tasks.extend(blocks.rev().map(|(first, (y, saved))| (at, operands, first, y, saved)));
        }
        for_each_part(tasks, |(at, [q, k, v], first, y, saved)| {
            let queries = first..first + y.rows();
            let mut scores = Scratch::take(queries.len() * queries.end * SQUARE);
            let (words, scores) = (PhantomData::<W>, &mut scores);
            W::run(isa, Forward { words, at, q, k, v, queries, scores, y, saved });
        });
    }

    /// The backward pass by products of a kind of words.
    fn backward_on<W: Arithmetic>(&self, isa: IsaKind, pass: Backward<'_>) {
        let (layout, qkv) = (pass.dy.layout(), pass.x[0].exact());
        let head_features = self.head_features();
        let tiles = layout.tiles_per_sequence();
        let [dx] = pass.dx else { panic!("attention has one input") };
        assert_eq!(dx.features(), 3 * self.features, "q, k and v of the output's size are needed");
        assert_eq!((qkv.layout(), dx.layout()), (layout, layout), "layouts disagree");
        assert_eq!((pass.dy.features(), qkv.features()), (self.features, dx.features()));
        let heads = self.heads_of(layout);
        let mut tasks = Vec::with_capacity(heads.len());
        let sequences =
            Part::whole(dx.data_mut(), 3 * self.features * LANES).into_rows(tiles.max(1));
        for (dx, heads) in sequences.into_iter().zip(heads.chunks(self.heads.max(1))) {
            let mut q = dx.into_columns(head_features * LANES);
            let v = q.split_off(2 * self.heads);
            let k = q.split_off(self.heads);
            for (&at, ((q, k), v)) in heads.iter().zip(q.into_iter().zip(k).zip(v)) {
                tasks.push((at, [q, k, v]));
            }
        }
        for_each_part(tasks, |(at, dx)| {
            let size = packed::<W>(at);
            let mut pairs = Scratch::take(7 * size);
            let mut places = pairs.chunks_exact_mut(size.max(1));
            let mut place = || places.next().unwrap_or_default();
            let of = |third| (&qkv.data()[at.input(third, 0)..], at.input_tile());
            let dout = (&pass.dy.data()[at.output(0)..], at.output_tile());
            let q = Operand::new::<W>(isa, at, of(Third::Q), place(), place());
            let k = Operand::new::<W>(isa, at, of(Third::K), place(), place());
            let v = Operand::new::<W>(isa, at, of(Third::V), place(), &mut []);
            let dout = Operand::new::<W>(isa, at, dout, place(), place());
            let mut scratch = Scratch::take(tiles * LANES + Squares::size::<W>());
            let (corrections, scratch) = scratch.split_at_mut(tiles * LANES);
            W::run(
                isa,
                Gradient {
                    words: PhantomData::<W>,
                    at,
                    context: layout.context,
                    q,
                    k,
                    v,
                    dout,
                    y: pass.y.exact(),
                    lse: pass.saved,
                    dy: pass.dy,
                    dx,
                    accumulate: pass.accumulate[0],
                    corrections: lines_mut(corrections),
                    scratch: Squares::new::<W>(scratch),
                },
            );
        });
    }

    /// The heads of all sequences.
    fn heads_of(&self, layout: TokenLayout) -> Vec<Head> {
        let (heads, head_features) = (self.heads, self.head_features());
        let tiles = layout.tiles_per_sequence();
        let head = |at: usize| Head {
            sequence: at / heads,
            head: at % heads,
            heads,
            head_features,
            tiles,
        };
        (0..layout.sequences * heads).map(head).collect()
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
        let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
        match Words::of(self.precision, isa) {
            Words::Pairs => self.forward_on::<Pairs>(isa, x[0], y, saved),
            Words::Numbers | Words::Halves => self.forward_on::<Numbers>(isa, x[0], y, saved),
        }
    }

    fn needs_output(&self) -> Need {
        Need::Exact
    }

    fn backward(&self, pass: Backward<'_>) {
        let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
        match Words::of(self.precision, isa) {
            Words::Pairs => self.backward_on::<Pairs>(isa, pass),
            Words::Numbers | Words::Halves => self.backward_on::<Numbers>(isa, pass),
        }
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

/// The operator of [`CASE`].
fn two_heads(precision: Precision) -> CausalAttention {
    CausalAttention { heads: 2, features: 14, precision }
}

/// The operator of [`LONG_CASE`].
fn one_head(precision: Precision) -> CausalAttention {
    CausalAttention { heads: 1, features: 3, precision }
}

/// Test case with several heads and sequences.
pub const CASE: OpCase = OpCase {
    name: "attention",
    layout: TokenLayout { sequences: 2, context: 19 },
    input_features: &[3 * 14],
    parameters: Parameters::default,
    with_op: |_, check| check(&two_heads(Precision::F32)),
    reference: |layout, x, _| naive(layout, &x[0], 2, 14),
    precision: Precision::F32,
};

/// Test case with several blocks of queries and keys.
pub const LONG_CASE: OpCase = OpCase {
    name: "attention on several blocks",
    layout: TokenLayout { sequences: 1, context: 137 },
    input_features: &[3 * 3],
    parameters: Parameters::default,
    with_op: |_, check| check(&one_head(Precision::F32)),
    reference: |layout, x, _| naive(layout, &x[0], 1, 3),
    precision: Precision::F32,
};

/// [`CASE`] with pairs of bf16, where the CPU multiplies them.
pub const BF16_CASE: OpCase = OpCase {
    name: "attention of bf16",
    with_op: |_, check| check(&two_heads(Precision::Bf16)),
    precision: Precision::Bf16,
    ..CASE
};

/// [`LONG_CASE`] with pairs of bf16, where the CPU multiplies them.
pub const LONG_BF16_CASE: OpCase = OpCase {
    name: "attention of bf16 on several blocks",
    with_op: |_, check| check(&one_head(Precision::Bf16)),
    precision: Precision::Bf16,
    ..LONG_CASE
};
