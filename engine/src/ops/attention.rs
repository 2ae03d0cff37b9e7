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

use super::OpCase;
use super::lines::{Line, lines, lines_mut, load, store};
use crate::{Backward, Cost, Op, Parameters, Tiles, TokenLayout};
use mediswift_kernels::isa::{Isa, Kernel, dispatch, math};
use mediswift_kernels::ops::gemm::TileProduct;
use mediswift_kernels::parallel::{Part, for_each_part};
use mediswift_kernels::{LANES, Scratch};
use std::ops::Range;

/// Query tiles (and, in the backward pass, key tiles) of a block: the widest micro-kernel's.
const BLOCK: usize = 4;

/// Elements of a 16 × 16 block of scores.
const SQUARE: usize = LANES * LANES;

/// y = softmax(mask(Qᵀ K / √d_head)) V for each head. The input has 3 · `features` rows: all of Q,
/// all of K, all of V; head h has features h · d_head to (h + 1) · d_head of each.
pub struct CausalAttention {
    /// Heads; divides `features`.
    pub heads: usize,
    /// Features of the output.
    pub features: usize,
}

impl CausalAttention {
    #[track_caller]
    fn head_features(&self) -> usize {
        let (heads, features) = (self.heads, self.features);
        assert!(features.is_multiple_of(heads), "{heads} heads do not divide {features} features");
        features / heads
    }
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

    fn backward(&self, pass: Backward<'_>) {
        let (layout, qkv) = (pass.dy.layout(), pass.x[0]);
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
                y: pass.y,
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

    fn cost(&self, layout: TokenLayout) -> Cost {
        let (sequences, context) = (layout.sequences as u64, layout.context as u64);
        let (heads, features) = (self.heads as u64, self.features as u64);
        let pairs = sequences * context * (context + 1) / 2;
        let forward_flops = 4 * pairs * features + 3 * pairs * heads;
        Cost {
            forward_flops,
            backward_flops: 2 * forward_flops,
            // Forward: q, k, v, y, lse. Backward: the same, dy and the gradients of q, k, v.
            bytes: 4 * sequences * context * (12 * features + 2 * heads),
        }
    }
}

/// One head of one sequence: where its lines lie.
#[derive(Clone, Copy)]
struct Head {
    sequence: usize,
    head: usize,
    heads: usize,
    head_features: usize,
    /// Tiles of the sequence.
    tiles: usize,
}

/// Q, K or V.
#[derive(Clone, Copy)]
enum Third {
    Q,
    K,
    V,
}

impl Head {
    /// Offset of this head's first line in `tile` of the sequence, in tiles of one third.
    fn output(self, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        (tile * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the first line of Q, K or V in `tile` of the sequence, in tiles of all three thirds.
    fn input(self, third: Third, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        ((3 * tile + third as usize) * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the line with one value per query.
    fn saved(self, tile: usize) -> usize {
        ((self.sequence * self.tiles + tile) * self.heads + self.head) * LANES
    }

    /// Distance of tiles that hold Q, K and V.
    fn input_tile(self) -> usize {
        3 * self.heads * self.head_features * LANES
    }

    /// Lines of this head at `offset`.
    #[inline(always)]
    fn lines(self, data: &[f32], offset: usize) -> &[Line] {
        lines(&data[offset..offset + self.head_features * LANES])
    }

    /// α.
    fn scale(self) -> f32 {
        1.0 / (self.head_features as f32).sqrt()
    }
}

/// One block of query tiles of one head.
struct Forward<'a> {
    at: Head,
    qkv: &'a Tiles,
    queries: Range<usize>,
    /// `[query tile][key][query lane]`, with the keys of tiles 0..queries.end.
    scores: &'a mut [f32],
    /// The head's lines of the query tiles, one tile a row.
    y: Part<'a>,
    /// One line of each query tile.
    saved: Part<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { at, qkv, queries, scores, mut y, mut saved } = self;
        let qkv = qkv.data();
        let stride = queries.end * SQUARE;
        for key in 0..queries.end {
            let first = key.max(queries.start);
            // The head's lines of K in one tile, with its lines of Q in the query tiles from `first`.
            let product = TileProduct {
                rows: LANES,
                k: at.head_features,
                tiles: queries.end - first,
                a: &qkv[at.input(Third::K, key)..],
                a_row: 1,
                a_col: LANES,
                b: &qkv[at.input(Third::Q, first)..],
                b_line: LANES,
                b_tile: at.input_tile(),
                accumulate: false,
            };
            let scores = &mut scores[(first - queries.start) * stride + key * SQUARE..];
            product.run(isa, scores, LANES, stride);
        }
        let mut inverses = [isa.splat(0.0); BLOCK];
        let rows = scores.chunks_exact_mut(stride).zip(queries.clone());
        for ((place, (scores, query)), inverse) in rows.enumerate().zip(&mut inverses) {
            let visible = &mut lines_mut(scores)[..(query + 1) * LANES];
            let lse = &mut lines_mut(saved.row(place))[0];
            *inverse = softmax(isa, visible, at.scale(), lse);
        }
        for key in 0..queries.end {
            let first = key.max(queries.start);
            // The head's lines of V in one tile, with the lines of this key tile in the scores.
            let product = TileProduct {
                rows: at.head_features,
                k: LANES,
                tiles: queries.end - first,
                a: &qkv[at.input(Third::V, key)..],
                a_row: LANES,
                a_col: 1,
                b: &scores[(first - queries.start) * stride + key * SQUARE..],
                b_line: LANES,
                b_tile: stride,
                accumulate: key > 0,
            };
            product.run_on_part(isa, &mut y, first - queries.start);
        }
        for (place, inverse) in inverses[..queries.len()].iter().enumerate() {
            for y in lines_mut(y.row(place)) {
                store(isa, y, isa.mul(load(isa, y), *inverse));
            }
        }
    }
}

/// Turns the scores of one query tile, before the factor `scale`, into exp(scale · (s − max)), with
/// zeros where the mask hides a key of the last, diagonal tile. Writes the log-sum-exp; returns one
/// over the sum.
#[inline(always)]
fn softmax<I: Isa>(isa: I, scores: &mut [Line], scale: f32, lse: &mut Line) -> I::V {
    let (zero, lowest) = (isa.splat(0.0), isa.splat(f32::MIN));
    let (full, diagonal) = scores.split_at_mut(scores.len() - LANES);
    let mut max = [lowest; 4];
    for keys in full.chunks_exact(4) {
        for (max, s) in max.iter_mut().zip(keys) {
            *max = isa.max(*max, load(isa, s));
        }
    }
    let mut max = isa.max(isa.max(max[0], max[1]), isa.max(max[2], max[3]));
    for (key, s) in diagonal.iter().enumerate() {
        max = isa.max(max, isa.first_lanes(key, lowest, load(isa, s)));
    }
    let scale = isa.splat(scale);
    let shift = isa.mul(isa.sub(zero, scale), max);
    let mut sum = zero;
    for s in full {
        let p = math::exp(isa, isa.fma(scale, load(isa, s), shift));
        sum = isa.add(sum, p);
        store(isa, s, p);
    }
    for (key, s) in diagonal.iter_mut().enumerate() {
        let p = math::exp(isa, isa.fma(scale, load(isa, s), shift));
        let p = isa.first_lanes(key, zero, p);
        sum = isa.add(sum, p);
        store(isa, s, p);
    }
    let logarithms = isa.to_array(sum).map(f32::ln);
    store(isa, lse, isa.sub(load(isa, &logarithms), shift));
    isa.div(isa.splat(1.0), sum)
}

/// The backward pass of one head.
struct Gradient<'a> {
    at: Head,
    /// Tokens of the sequence.
    context: usize,
    qkv: &'a Tiles,
    y: &'a Tiles,
    lse: &'a Tiles,
    dy: &'a Tiles,
    /// The head's lines of Q, K and V, one tile a row.
    dx: [Part<'a>; 3],
    accumulate: bool,
    /// D, `[query tile][query lane]`.
    corrections: &'a mut [Line],
    /// P of one query tile, `[key tile][query][key lane]`.
    p: &'a mut [f32],
    /// α · dS of one query tile, `[key tile][query][key lane]`.
    ds: &'a mut [f32],
    /// α · dS of a block, `[query tile][key tile][key][query lane]`.
    ds_transposed: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        self.prepare(isa);
        let tiles = self.at.tiles;
        for first_key in (0..tiles).step_by(BLOCK) {
            let keys = first_key..(first_key + BLOCK).min(tiles);
            for first_query in (first_key..tiles).step_by(BLOCK) {
                let queries = first_query..(first_query + BLOCK).min(tiles);
                for query in queries.clone() {
                    let visible = keys.start..keys.end.min(query + 1);
                    self.score_gradients(isa, query, visible.clone());
                    self.key_and_value_gradients(isa, query, visible.clone());
                    self.transpose(isa, query, query - queries.start, visible);
                }
                self.query_gradients(isa, queries, keys.clone());
            }
        }
    }
}

impl Gradient<'_> {
    /// Zeros the gradient, unless it is to be added to, and computes D.
    #[inline(always)]
    fn prepare<I: Isa>(&mut self, isa: I) {
        let at = self.at;
        for (tile, correction) in self.corrections.iter_mut().enumerate() {
            if !self.accumulate {
                self.dx.iter_mut().for_each(|dx| dx.row(tile).fill(0.0));
            }
            let y = at.lines(self.y.data(), at.output(tile));
            let dy = at.lines(self.dy.data(), at.output(tile));
            let mut sum = isa.splat(0.0);
            for (y, dy) in y.iter().zip(dy) {
                sum = isa.fma(load(isa, dy), load(isa, y), sum);
            }
            store(isa, correction, sum);
        }
    }

    /// Real tokens of a query tile.
    #[inline(always)]
    fn tokens(&self, query: usize) -> usize {
        LANES.min(self.context - query * LANES)
    }

    /// P and α · dS of one query tile on some key tiles.
    #[inline(always)]
    fn score_gradients<I: Isa>(&mut self, isa: I, query: usize, keys: Range<usize>) {
        let (at, rows) = (self.at, self.tokens(query));
        let qkv = self.qkv.data();
        // The head's lines of Q (then dO) in the query tile, with its lines of K (then V) in the key
        // tiles.
        let product = TileProduct {
            rows,
            k: at.head_features,
            tiles: keys.len(),
            a: &qkv[at.input(Third::Q, query)..],
            a_row: 1,
            a_col: LANES,
            b: &qkv[at.input(Third::K, keys.start)..],
            b_line: LANES,
            b_tile: at.input_tile(),
            accumulate: false,
        };
        product.run(isa, self.p, LANES, SQUARE);
        let a = &self.dy.data()[at.output(query)..];
        let b = &qkv[at.input(Third::V, keys.start)..];
        TileProduct { a, b, ..product }.run(isa, self.ds, LANES, SQUARE);
        let (scale, zero) = (isa.splat(at.scale()), isa.splat(0.0));
        let lse = &lines(&self.lse.data()[at.saved(query)..])[0];
        let squares = self.p.chunks_exact_mut(SQUARE).zip(self.ds.chunks_exact_mut(SQUARE));
        for (key, (p, ds)) in keys.zip(squares) {
            let lines = lines_mut(p).iter_mut().zip(lines_mut(ds));
            let scalars = lse.iter().zip(&self.corrections[query]);
            for (row, ((p, ds), (&lse, &d))) in lines.zip(scalars).take(rows).enumerate() {
                let score = isa.fma(scale, load(isa, p), isa.splat(-lse));
                let probability = math::exp(isa, score);
                let probability = match key == query {
                    true => isa.first_lanes(row + 1, probability, zero),
                    false => probability,
                };
                store(isa, p, probability);
                let difference = isa.sub(load(isa, ds), isa.splat(d));
                store(isa, ds, isa.mul(isa.mul(scale, probability), difference));
            }
        }
    }

    /// dV += dO · P and dK += Q · α dS over the queries of one tile.
    #[inline(always)]
    fn key_and_value_gradients<I: Isa>(&mut self, isa: I, query: usize, keys: Range<usize>) {
        let at = self.at;
        let dy = &self.dy.data()[at.output(query)..];
        let q = &self.qkv.data()[at.input(Third::Q, query)..];
        // The head's lines in the query tile, with the rows of the real queries in the scratch.
        let product = TileProduct {
            rows: at.head_features,
            k: self.tokens(query),
            tiles: keys.len(),
            a: dy,
            a_row: LANES,
            a_col: 1,
            b: self.p,
            b_line: LANES,
            b_tile: SQUARE,
            accumulate: true,
        };
        let [_, dk, dv] = &mut self.dx;
        product.run_on_part(isa, dv, keys.start);
        TileProduct { a: q, b: self.ds, ..product }.run_on_part(isa, dk, keys.start);
    }

    /// Keeps α · dS of the `place`-th query tile of a block, with queries in the lanes.
    #[inline(always)]
    fn transpose<I: Isa>(&mut self, isa: I, query: usize, place: usize, keys: Range<usize>) {
        let rows = self.tokens(query);
        let to = self.ds_transposed.chunks_exact_mut(SQUARE).skip(place * BLOCK);
        for (ds, to) in self.ds.chunks_exact(SQUARE).zip(to).take(keys.len()) {
            let mut square = [isa.splat(0.0); LANES];
            for (v, line) in square.iter_mut().zip(lines(ds)).take(rows) {
                *v = load(isa, line);
            }
            for (to, v) in lines_mut(to).iter_mut().zip(isa.transpose(square)) {
                store(isa, to, v);
            }
        }
    }

    /// dQ += K · α dS of a block.
    #[inline(always)]
    fn query_gradients<I: Isa>(&mut self, isa: I, queries: Range<usize>, keys: Range<usize>) {
        let at = self.at;
        for key in keys.clone() {
            let first = key.max(queries.start);
            let square = (first - queries.start) * BLOCK + key - keys.start;
            // The head's lines of K in one tile, with a square of the scratch per query tile.
            let product = TileProduct {
                rows: at.head_features,
                k: LANES,
                tiles: queries.end - first,
                a: &self.qkv.data()[at.input(Third::K, key)..],
                a_row: LANES,
                a_col: 1,
                b: &self.ds_transposed[square * SQUARE..],
                b_line: LANES,
                b_tile: BLOCK * SQUARE,
                accumulate: true,
            };
            product.run_on_part(isa, &mut self.dx[Third::Q as usize], first);
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
};

/// Test case with several blocks of queries and keys.
pub const LONG_CASE: OpCase = OpCase {
    name: "attention on several blocks",
    layout: TokenLayout { sequences: 1, context: 137 },
    input_features: &[3 * 3],
    parameters: Parameters::default,
    with_op: |_, check| check(&CausalAttention { heads: 1, features: 3 }),
    reference: |layout, x, _| naive(layout, &x[0], 1, 3),
};
