//! The backward pass of one head.

use super::super::lines::{Line, lines, lines_mut, load, store};
use super::head::{BLOCK, Head, SQUARE, Third};
use crate::Tiles;
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, math};
use mediswift_kernels::ops::gemm::TileProduct;
use mediswift_kernels::parallel::Part;
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
    /// The head's lines of Q, K and V, one tile a row.
    pub(super) dx: [Part<'a>; 3],
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
