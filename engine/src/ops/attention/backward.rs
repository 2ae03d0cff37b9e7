//! The backward pass of one head.

use super::super::lines::{Line, lines, lines_mut, load, store};
use super::head::{BLOCK, Head, Part, SQUARE};
use crate::Tiles;
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, math};
use mediswift_kernels::ops::gemm::TileProduct;
use mediswift_kernels::parallel::SharedMut;
use std::ops::Range;

/// The backward pass of one head.
pub(super) struct Gradient<'a> {
    pub(super) at: Head,
    /// Tokens of the sequence.
    pub(super) context: usize,
    pub(super) qkv: &'a Tiles,
    pub(super) y: &'a Tiles,
    pub(super) lse: &'a Tiles,
    pub(super) dy: &'a Tiles,
    pub(super) dx: SharedMut,
    pub(super) accumulate: bool,
    /// D, `[query tile][query lane]`.
    pub(super) corrections: &'a mut [Line],
    /// P of one query tile, `[key tile][query][key lane]`.
    pub(super) p: &'a mut [f32],
    /// α · dS of one query tile, `[key tile][query][key lane]`.
    pub(super) ds: &'a mut [f32],
    /// α · dS of a block, `[query tile][key tile][key][query lane]`.
    pub(super) ds_transposed: &'a mut [f32],
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
