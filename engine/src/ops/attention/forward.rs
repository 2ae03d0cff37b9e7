//! The forward pass of one block of queries.

use super::super::lines::{Line, lines_mut, load, store};
use super::head::{BLOCK, Head, SQUARE};
use super::operand::{Operand, put_words, words};
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, math};
use mediswift_kernels::ops::Arithmetic;
use mediswift_kernels::ops::gemm::{LeftForm, TileProduct};
use mediswift_kernels::parallel::Part;
use std::marker::PhantomData;
use std::ops::Range;

/// One block of query tiles of one head.
pub(super) struct Forward<'a, W> {
    pub(super) words: PhantomData<W>,
    pub(super) at: Head,
    /// Multiplied over its features.
    pub(super) q: Operand<'a>,
    /// Multiplied over its features.
    pub(super) k: Operand<'a>,
    /// Multiplied over its tokens.
    pub(super) v: Operand<'a>,
    pub(super) queries: Range<usize>,
    /// `[query tile][key][query lane]`, with the keys of tiles 0..queries.end.
    pub(super) scores: &'a mut [f32],
    /// The head's lines of the query tiles, one tile a row.
    pub(super) y: Part<'a>,
    /// One line of each query tile.
    pub(super) saved: Part<'a>,
}

impl<W: Arithmetic> Kernel for Forward<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let stride = self.queries.end * SQUARE;
        for key in 0..self.queries.end {
            self.score(isa, key);
        }
        let mut inverses = [isa.splat(0.0); BLOCK];
        let rows = self.scores.chunks_exact_mut(stride).zip(self.queries.clone());
        for ((place, (scores, query)), inverse) in rows.enumerate().zip(&mut inverses) {
            let visible = &mut lines_mut(scores)[..(query + 1) * LANES];
            let lse = &mut lines_mut(self.saved.row(place))[0];
            *inverse = softmax::<I, W>(isa, visible, self.at.scale(), lse);
        }
        // All these queries see the keys of earlier blocks.
        for first in (0..self.queries.start).step_by(BLOCK) {
            self.add_values(isa, first..first + BLOCK);
        }
        for key in self.queries.clone() {
            self.add_values(isa, key..key + 1);
        }
        for (place, inverse) in inverses[..self.queries.len()].iter().enumerate() {
            for y in lines_mut(self.y.row(place)) {
                store(isa, y, isa.mul(load(isa, y), *inverse));
            }
        }
    }
}

impl<W: Arithmetic> Forward<'_, W> {
    /// Scores of the queries that see the keys of one tile.
    #[inline(always)]
    fn score<I: Isa>(&mut self, isa: I, key: usize) {
        let queries = &self.queries;
        let (first, stride) = (key.max(queries.start), queries.end * SQUARE);
        // The head's lines of K in the tile, with its lines of Q in the query tiles from `first`.
        let product = TileProduct {
            rows: LANES,
            k: words::<W>(self.at.head_features),
            tiles: queries.end - first,
            a: self.k.lines(key),
            form: LeftForm::Columns,
            b: self.q.lines(first),
            b_line: LANES,
            b_tile: self.q.tile(),
            accumulate: false,
        };
        let scores = &mut self.scores[(first - queries.start) * stride + key * SQUARE..];
        product.run::<I, W>(isa, scores, LANES, stride);
    }

    /// y += V · exp of the scores over the keys of some tiles, which all queries from the first key on see.
    #[inline(always)]
    fn add_values<I: Isa>(&mut self, isa: I, keys: Range<usize>) {
        let queries = &self.queries;
        let (first, stride) = (keys.start.max(queries.start), queries.end * SQUARE);
        let scores = (first - queries.start) * stride + keys.start * words::<W>(SQUARE);
        // The head's lines of V in the key tiles, with the words of these keys in the scores.
        let (a, form) = self.v.tokens::<W>(keys.start);
        let product = TileProduct {
            rows: self.at.head_features,
            k: words::<W>(keys.len() * LANES),
            tiles: queries.end - first,
            a,
            form,
            b: &self.scores[scores..],
            b_line: LANES,
            b_tile: stride,
            accumulate: keys.start > 0,
        };
        product.run_on_part::<I, W>(isa, &mut self.y, first - queries.start);
    }
}

/// Turns the scores of one query tile, before the factor `scale`, into words of exp(scale · (s − max)), with
/// zeros where the mask hides a key of the last, diagonal tile; pairs are of neighbouring keys, and take the first
/// half of the lines. Writes the log-sum-exp; returns one over the sum.
#[inline(always)]
fn softmax<I: Isa, W: Arithmetic>(isa: I, scores: &mut [Line], scale: f32, lse: &mut Line) -> I::V {
    let (zero, lowest) = (isa.splat(0.0), isa.splat(f32::MIN));
    let hidden = scores.len() - LANES;
    let (full, diagonal) = scores.split_at(hidden);
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
    for pair in 0..scores.len() / 2 {
        let mut p = [zero; 2];
        for (key, p) in (2 * pair..).zip(&mut p) {
            *p = math::exp(isa, isa.fma(scale, load(isa, &scores[key]), shift));
            if key >= hidden {
                *p = isa.first_lanes(key - hidden, zero, *p);
            }
            sum = isa.add(sum, *p);
        }
        put_words::<I, W>(isa, scores, pair, p);
    }
    let logarithms = isa.to_array(sum).map(f32::ln);
    store(isa, lse, isa.sub(load(isa, &logarithms), shift));
    isa.div(isa.splat(1.0), sum)
}
