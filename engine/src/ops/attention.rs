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
use mediswift_kernels::parallel::{SharedMut, for_each_block};
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
        let y = SharedMut::new(y.data_mut());
        let saved = SharedMut::new(saved.data_mut());
        for_each_block(layout.sequences * self.heads * blocks, |task| {
            let (sequence, head) = (task / blocks / self.heads, task / blocks % self.heads);
            // Long rows of scores first, so that the last tasks to run are short ones.
            let first = (blocks - 1 - task % blocks) * BLOCK;
            let queries = first..(first + BLOCK).min(tiles);
            let mut scores = Scratch::take(queries.len() * queries.end * SQUARE);
            let at = Head { sequence, head, heads: self.heads, head_features, tiles };
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
        let dx = SharedMut::new(dx.data_mut());
        for_each_block(layout.sequences * self.heads, |task| {
            let (sequence, head) = (task / self.heads, task % self.heads);
            let at = Head { sequence, head, heads: self.heads, head_features, tiles };
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
enum Part {
    Q,
    K,
    V,
}

impl Head {
    /// Offset of this head's first line in `tile` of the sequence, in tiles of one part.
    fn output(self, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        (tile * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the first line of Q, K or V in `tile` of the sequence, in tiles of all three.
    fn input(self, part: Part, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        ((3 * tile + part as usize) * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the line with one value per query.
    fn saved(self, tile: usize) -> usize {
        ((self.sequence * self.tiles + tile) * self.heads + self.head) * LANES
    }

    /// Distance of tiles that hold one part.
    fn output_tile(self) -> usize {
        self.heads * self.head_features * LANES
    }

    /// Distance of tiles that hold Q, K and V.
    fn input_tile(self) -> usize {
        3 * self.output_tile()
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
    y: SharedMut,
    saved: SharedMut,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { at, qkv, queries, scores, y, saved } = self;
        let qkv = qkv.data();
        let stride = queries.end * SQUARE;
        for key in 0..queries.end {
            let first = key.max(queries.start);
            let product = TileProduct {
                rows: LANES,
                k: at.head_features,
                tiles: queries.end - first,
                a: at.lines(qkv, at.input(Part::K, key)).as_ptr().cast(),
                a_row: 1,
                a_col: LANES,
                b: qkv[at.input(Part::Q, first)..].as_ptr(),
                b_tile: at.input_tile(),
                c: scores[(first - queries.start) * stride + key * SQUARE..].as_mut_ptr(),
                c_row: LANES,
                c_tile: stride,
                accumulate: false,
                ..TileProduct::NOTHING
            };
            // SAFETY: A is the head's lines of K in one tile, B its lines of Q in the query tiles
            // from `first`, C the sixteen lines of this key tile for each of them; `forward` has
            // checked the extents of qkv.
            unsafe { product.run(isa) };
        }
        let mut inverses = [isa.splat(0.0); BLOCK];
        let rows = scores.chunks_exact_mut(stride);
        for ((query, scores), inverse) in queries.clone().zip(rows).zip(&mut inverses) {
            let visible = &mut lines_mut(scores)[..(query + 1) * LANES];
            // SAFETY: the line of this head and query tile belongs to this task alone.
            let lse = unsafe { saved.slice(at.saved(query), LANES) };
            *inverse = softmax(isa, visible, at.scale(), &mut lines_mut(lse)[0]);
        }
        for key in 0..queries.end {
            let first = key.max(queries.start);
            // SAFETY: A is the head's lines of V in one tile, B the sixteen lines of this key tile
            // for the query tiles from `first`, C the head's output lines in these tiles, which
            // belong to this task alone; `forward` has checked the extents of qkv and y.
            unsafe {
                let product = TileProduct {
                    rows: at.head_features,
                    k: LANES,
                    tiles: queries.end - first,
                    a: at.lines(qkv, at.input(Part::V, key)).as_ptr().cast(),
                    a_row: LANES,
                    a_col: 1,
                    b: scores[(first - queries.start) * stride + key * SQUARE..].as_ptr(),
                    b_tile: stride,
                    c: y.get(at.output(first)),
                    c_row: LANES,
                    c_tile: at.output_tile(),
                    accumulate: key > 0,
                    ..TileProduct::NOTHING
                };
                product.run(isa);
            }
        }
        for (query, inverse) in queries.zip(inverses) {
            // SAFETY: the head's output lines in this tile belong to this task alone.
            let y = unsafe { y.slice(at.output(query), at.head_features * LANES) };
            for y in lines_mut(y) {
                store(isa, y, isa.mul(load(isa, y), inverse));
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
    dx: SharedMut,
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
                for part in [Part::Q, Part::K, Part::V] {
                    // SAFETY: the head's lines of Q, K and V belong to this task alone.
                    let dx =
                        unsafe { self.dx.slice(at.input(part, tile), at.head_features * LANES) };
                    dx.fill(0.0);
                }
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
        let product = TileProduct {
            rows,
            k: at.head_features,
            tiles: keys.len(),
            a: at.lines(qkv, at.input(Part::Q, query)).as_ptr().cast(),
            a_row: 1,
            a_col: LANES,
            b: qkv[at.input(Part::K, keys.start)..].as_ptr(),
            b_tile: at.input_tile(),
            c: self.p.as_mut_ptr(),
            c_row: LANES,
            c_tile: SQUARE,
            accumulate: false,
            ..TileProduct::NOTHING
        };
        // SAFETY: A is the head's lines of Q (then dO) in the query tile, B its lines of K (then V)
        // in the key tiles, C a scratch of `BLOCK` squares; `backward` has checked the extents.
        unsafe {
            product.run(isa);
            let product = TileProduct {
                a: at.lines(self.dy.data(), at.output(query)).as_ptr().cast(),
                b: qkv[at.input(Part::V, keys.start)..].as_ptr(),
                c: self.ds.as_mut_ptr(),
                ..product
            };
            product.run(isa);
        }
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
        let dy = at.lines(self.dy.data(), at.output(query));
        let q = at.lines(self.qkv.data(), at.input(Part::Q, query));
        for (part, a, b) in [(Part::V, dy, &*self.p), (Part::K, q, &*self.ds)] {
            // SAFETY: A is the head's lines in the query tile, B the rows of the real queries in
            // the scratch, C the head's lines in the key tiles, which belong to this task alone.
            unsafe {
                let product = TileProduct {
                    rows: at.head_features,
                    k: self.tokens(query),
                    tiles: keys.len(),
                    a: a.as_ptr().cast(),
                    a_row: LANES,
                    a_col: 1,
                    b: b.as_ptr(),
                    b_tile: SQUARE,
                    c: self.dx.get(at.input(part, keys.start)),
                    c_row: LANES,
                    c_tile: at.input_tile(),
                    accumulate: true,
                    ..TileProduct::NOTHING
                };
                product.run(isa);
            }
        }
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
            // SAFETY: A is the head's lines of K in one tile, B a square of the scratch per query
            // tile, C the head's lines of Q in these tiles, which belong to this task alone.
            unsafe {
                let product = TileProduct {
                    rows: at.head_features,
                    k: LANES,
                    tiles: queries.end - first,
                    a: at.lines(self.qkv.data(), at.input(Part::K, key)).as_ptr().cast(),
                    a_row: LANES,
                    a_col: 1,
                    b: self.ds_transposed[square * SQUARE..].as_ptr(),
                    b_tile: BLOCK * SQUARE,
                    c: self.dx.get(at.input(Part::Q, first)),
                    c_row: LANES,
                    c_tile: at.input_tile(),
                    accumulate: true,
                    ..TileProduct::NOTHING
                };
                product.run(isa);
            }
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
