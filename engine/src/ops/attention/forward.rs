//! The forward pass of one block of queries.

use super::super::lines::{Line, lines_mut, load, store};
use super::head::{BLOCK, Head, SQUARE, Third};
use crate::Tiles;
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, math};
use mediswift_kernels::ops::gemm::TileProduct;
use mediswift_kernels::parallel::Part;
use std::ops::Range;

/// One block of query tiles of one head.
pub(super) struct Forward<'a> {
    pub(super) at: Head,
    pub(super) qkv: &'a Tiles,
    pub(super) queries: Range<usize>,
    /// `[query tile][key][query lane]`, with the keys of tiles 0..queries.end.
    pub(super) scores: &'a mut [f32],
    /// The head's lines of the query tiles, one tile a row.
    pub(super) y: Part<'a>,
    /// One line of each query tile.
    pub(super) saved: Part<'a>,
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
