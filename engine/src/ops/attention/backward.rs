//! The backward pass of one head.

use super::super::lines::{Line, lines, lines_mut, load, store};
use super::head::{BLOCK, Head, SQUARE, Third};
use super::operand::{Operand, put_words, words};
use crate::Tiles;
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, math};
use mediswift_kernels::ops::Arithmetic;
use mediswift_kernels::ops::gemm::{LeftForm, TileProduct};
use mediswift_kernels::parallel::Part;
use std::marker::PhantomData;
use std::ops::Range;

/// The backward pass of one head.
pub(super) struct Gradient<'a, W> {
    pub(super) words: PhantomData<W>,
    pub(super) at: Head,
    /// Tokens of the sequence.
    pub(super) context: usize,
    /// Multiplied over features and over tokens.
    pub(super) q: Operand<'a>,
    /// Multiplied over features and over tokens.
    pub(super) k: Operand<'a>,
    /// Multiplied over its features.
    pub(super) v: Operand<'a>,
    /// dO, multiplied over features and over tokens.
    pub(super) dout: Operand<'a>,
    pub(super) y: &'a Tiles,
    pub(super) lse: &'a Tiles,
    pub(super) dy: &'a Tiles,
    /// The head's lines of Q, K and V, one tile a row.
    pub(super) dx: [Part<'a>; 3],
    pub(super) accumulate: bool,
    /// D, `[query tile][query lane]`.
    pub(super) corrections: &'a mut [Line],
    pub(super) scratch: Squares<'a>,
}

/// What the backward pass computes of one block of queries and keys.
pub(super) struct Squares<'a> {
    /// P, then α · dS, of one query tile: `[key tile][query][key lane]`.
    of_tile: [&'a mut [f32]; 2],
    /// Words of queries of the same: `[key tile][query tile][words of queries][key lane]`.
    of_block: [&'a mut [f32]; 2],
    /// Words of keys of α · dS, `[query tile][key tile][words of keys][query lane]`.
    ds_transposed: &'a mut [f32],
}

impl<'a> Squares<'a> {
    /// Elements that they take.
    pub(super) const fn size<W: Arithmetic>() -> usize {
        2 * BLOCK * SQUARE + 3 * BLOCK * BLOCK * words::<W>(SQUARE)
    }

    /// In so many elements, which may hold anything.
    pub(super) fn new<W: Arithmetic>(scratch: &'a mut [f32]) -> Self {
        let of_block = BLOCK * BLOCK * words::<W>(SQUARE);
        let (p, scratch) = scratch.split_at_mut(BLOCK * SQUARE);
        let (ds, scratch) = scratch.split_at_mut(BLOCK * SQUARE);
        let (p_words, scratch) = scratch.split_at_mut(of_block);
        let (ds_words, ds_transposed) = scratch.split_at_mut(of_block);
        Self { of_tile: [p, ds], of_block: [p_words, ds_words], ds_transposed }
    }
}

impl<W: Arithmetic> Kernel for Gradient<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        self.prepare(isa);
        let tiles = self.at.tiles;
        for first_key in (0..tiles).step_by(BLOCK) {
            let keys = first_key..(first_key + BLOCK).min(tiles);
            for first_query in (first_key..tiles).step_by(BLOCK) {
                let block = Block {
                    queries: first_query..(first_query + BLOCK).min(tiles),
                    keys: keys.clone(),
                };
                for query in block.queries.clone() {
                    self.score_gradients(isa, &block, query);
                }
                if block.is_diagonal() {
                    for query in block.queries.clone() {
                        let keys = keys.start..keys.end.min(query + 1);
                        self.key_and_value_gradients(isa, &block, query..query + 1, keys);
                    }
                    for key in keys.clone() {
                        self.query_gradients(
                            isa,
                            &block,
                            key.max(first_query)..block.queries.end,
                            key..key + 1,
                        );
                    }
                } else {
                    self.key_and_value_gradients(isa, &block, block.queries.clone(), keys.clone());
                    self.query_gradients(isa, &block, block.queries.clone(), keys.clone());
                }
            }
        }
    }
}

/// Tiles of queries and of keys.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Block {
    /// Whether some of its queries do not see some of its keys.
    fn is_diagonal(&self) -> bool {
        self.queries.start < self.keys.end
    }

    /// The place of a square among those of the block, with the tiles of queries beside each other.
    fn place(&self, query: usize, key: usize) -> usize {
        (key - self.keys.start) * BLOCK + query - self.queries.start
    }

    /// The same with the tiles of keys beside each other.
    fn transposed_place(&self, query: usize, key: usize) -> usize {
        (query - self.queries.start) * BLOCK + key - self.keys.start
    }
}

impl<W: Arithmetic> Gradient<'_, W> {
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

    /// P and α · dS of one query tile on the key tiles that it sees.
    #[inline(always)]
    fn score_gradients<I: Isa>(&mut self, isa: I, block: &Block, query: usize) {
        let (at, rows) = (self.at, self.tokens(query));
        let keys = block.keys.start..block.keys.end.min(query + 1);
        // The head's lines of Q (then dO) in the query tile, with its lines of K (then V) in the key
        // tiles.
        let product = TileProduct {
            rows,
            k: words::<W>(at.head_features),
            tiles: keys.len(),
            a: self.q.lines(query),
            form: LeftForm::Columns,
            b: self.k.lines(keys.start),
            b_line: LANES,
            b_tile: self.k.tile(),
            accumulate: false,
        };
        let Squares { of_tile: [p, ds], of_block, ds_transposed } = &mut self.scratch;
        product.run::<I, W>(isa, p, LANES, SQUARE);
        let (a, b) = (self.dout.lines(query), self.v.lines(keys.start));
        TileProduct { a, b, b_tile: self.v.tile(), ..product }.run::<I, W>(isa, ds, LANES, SQUARE);
        let (scale, zero) = (isa.splat(at.scale()), isa.splat(0.0));
        let lse = &lines(&self.lse.data()[at.saved(query)..])[0];
        let corrections = &self.corrections[query];
        let squares = p.as_chunks::<SQUARE>().0.iter().zip(ds.as_chunks_mut::<SQUARE>().0);
        for (key, (p, ds)) in keys.zip(squares) {
            let size = words::<W>(SQUARE);
            let [p_words, ds_words] = of_block
                .each_mut()
                .map(|of_block| lines_mut(&mut of_block[block.place(query, key) * size..][..size]));
            let (p, ds) = (lines(p), lines_mut(ds));
            for pair in 0..rows.div_ceil(2) {
                let mut values = [[zero; 2]; 2];
                for (half, row) in (2 * pair..rows.min(2 * pair + 2)).enumerate() {
                    let score = isa.fma(scale, load(isa, &p[row]), isa.splat(-lse[row]));
                    let probability = math::exp(isa, score);
                    let probability = match key == query {
                        true => isa.first_lanes(row + 1, probability, zero),
                        false => probability,
                    };
                    let difference = isa.sub(load(isa, &ds[row]), isa.splat(corrections[row]));
                    let gradient = isa.mul(isa.mul(scale, probability), difference);
                    store(isa, &mut ds[row], gradient);
                    values[0][half] = probability;
                    values[1][half] = gradient;
                }
                let [probabilities, gradients] = values;
                put_words::<I, W>(isa, p_words, pair, probabilities);
                put_words::<I, W>(isa, ds_words, pair, gradients);
            }
            let mut square = [zero; LANES];
            for (v, line) in square.iter_mut().zip(ds.iter()).take(rows) {
                *v = load(isa, line);
            }
            let to = &mut ds_transposed[block.transposed_place(query, key) * size..][..size];
            let square = isa.transpose(square);
            for (pair, &both) in square.as_chunks::<2>().0.iter().enumerate() {
                put_words::<I, W>(isa, lines_mut(to), pair, both);
            }
        }
    }

    /// dV += dO · P and dK += Q · α dS of some queries on keys that they all see.
    #[inline(always)]
    fn key_and_value_gradients<I: Isa>(
        &mut self,
        isa: I,
        block: &Block,
        queries: Range<usize>,
        keys: Range<usize>,
    ) {
        let real = (queries.len() - 1) * LANES + self.tokens(queries.end - 1);
        let first = block.place(queries.start, keys.start) * words::<W>(SQUARE);
        let [p, ds] = self.scratch.of_block.each_ref().map(|of_block| &of_block[first..]);
        // The head's lines in the query tiles, with the words of the real queries in the scratch.
        let (a, form) = self.dout.tokens::<W>(queries.start);
        let product = TileProduct {
            rows: self.at.head_features,
            k: words::<W>(real),
            tiles: keys.len(),
            a,
            form,
            b: p,
            b_line: LANES,
            b_tile: BLOCK * words::<W>(SQUARE),
            accumulate: true,
        };
        let [_, dk, dv] = &mut self.dx;
        product.run_on_part::<I, W>(isa, dv, keys.start);
        let (a, form) = self.q.tokens::<W>(queries.start);
        TileProduct { a, form, b: ds, ..product }.run_on_part::<I, W>(isa, dk, keys.start);
    }

    /// dQ += K · α dS of some queries on keys that they all see.
    #[inline(always)]
    fn query_gradients<I: Isa>(
        &mut self,
        isa: I,
        block: &Block,
        queries: Range<usize>,
        keys: Range<usize>,
    ) {
        let first = block.transposed_place(queries.start, keys.start) * words::<W>(SQUARE);
        // The head's lines of K in the key tiles, with the words of their keys in the scratch.
        let (a, form) = self.k.tokens::<W>(keys.start);
        let product = TileProduct {
            rows: self.at.head_features,
            k: words::<W>(keys.len() * LANES),
            tiles: queries.len(),
            a,
            form,
            b: &self.scratch.ds_transposed[first..],
            b_line: LANES,
            b_tile: BLOCK * words::<W>(SQUARE),
            accumulate: true,
        };
        product.run_on_part::<I, W>(isa, &mut self.dx[Third::Q as usize], queries.start);
    }
}
