//! Dense product C (+)= A · B whose B and C have tokens in their lanes.
//!
//! B is given as tiles `[tile][k][LANES]`; a task gathers the lines of V tiles into L1. A matrix whose
//! rows lie apart is packed into panels of `PANEL` rows ([`pack`]), once for many products if the caller
//! keeps the [`Packed`] form; rows and activations serve as A just as they lie. The micro-kernel
//! ([`micro`]) keeps `PANEL × V` accumulators,
//! reads V lines of B once per k and broadcasts A.
//!
//! Loop nest, outside in: row blocks × tile blocks (parallel) · K blocks (B panel stays in L1) ·
//! groups of V tiles · row panels · k.

mod left;
mod micro;
mod pack;
mod transpose;

pub use self::left::Left;
pub use self::micro::TileProduct;
pub use self::pack::Packed;
pub use self::transpose::transpose_tiles;

use self::left::WHOLE;
use self::micro::{Micro, PACKED, PANEL, ROWS, TILED};
use self::pack::{K_BLOCK, ROW_BLOCK, range};
use super::extent::{size, tiles};
use super::gather::gather_tiles;
use crate::isa::{Isa, IsaKind, Kernel};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch};
use std::ops::{Deref, Range};

/// Tiles per parallel task.
const TILE_BLOCK: usize = 16;

/// Where the elements of C `[m, tiles · LANES]` lie.
#[derive(Clone, Copy)]
pub enum Out {
    /// As activations, `[tile][m][LANES]`.
    Tiles,
    /// Row by row, `[m][tiles · LANES]`.
    Rows,
}

/// C (+)= A · B: A `[m, k]`, B as tiles `[tiles][k][LANES]`, C as `out` says. Overwrites C, or adds to
/// it when `accumulate`. 2 · m · k · tiles · LANES FLOPs.
/// # Panics
/// If the shapes disagree.
#[track_caller]
pub fn gemm(a: Left<'_>, b: &[f32], c: &mut [f32], out: Out, accumulate: bool) {
    gemm_on(IsaKind::active().unwrap_or_else(|e| panic!("{e}")), a, b, c, out, accumulate);
}

/// [`gemm()`] on a given instruction set.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(crate) fn gemm_on(
    isa: IsaKind,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    out: Out,
    accumulate: bool,
) {
    let source = match (a.block_bits, a.col_stride) {
        (WHOLE, 1) => Source::Rows(a),
        (WHOLE, _) => return a.pack_scratch().multiply_on(isa, b, c, out, accumulate),
        _ => Source::Tiles(a),
    };
    run(isa, source, b, c, out, accumulate);
}

impl<B: Deref<Target = [f32]>> Packed<B> {
    /// C (+)= A · B, as [`gemm`](super::gemm()).
    /// # Panics
    /// If the shapes disagree.
    #[track_caller]
    pub fn multiply(&self, b: &[f32], c: &mut [f32], out: Out, accumulate: bool) {
        let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
        self.multiply_on(isa, b, c, out, accumulate);
    }

    /// [`Packed::multiply`] on a given instruction set.
    /// # Panics
    /// If the shapes disagree or the machine lacks `isa`.
    #[track_caller]
    pub(crate) fn multiply_on(
        &self,
        isa: IsaKind,
        b: &[f32],
        c: &mut [f32],
        out: Out,
        accumulate: bool,
    ) {
        let Self { values, rows, cols } = self;
        let source = Source::Packed { values, rows: *rows, cols: *cols };
        run(isa, source, b, c, out, accumulate);
    }
}

/// Where a task reads A.
#[derive(Clone, Copy)]
enum Source<'a> {
    Packed { values: &'a [f32], rows: usize, cols: usize },
    Rows(Left<'a>),
    Tiles(Left<'a>),
}

#[track_caller]
fn run(isa: IsaKind, a: Source<'_>, b: &[f32], c: &mut [f32], out: Out, accumulate: bool) {
    let (m, k) = match a {
        Source::Packed { rows, cols, .. } => (rows, cols),
        Source::Rows(a) | Source::Tiles(a) => (a.rows, a.cols),
    };
    if k == 0 {
        assert!(b.is_empty(), "A has no columns, B has lines");
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    let tiles = tiles("B", b, k);
    // Exactly, so that no two elements of C share a place.
    let (found, needed) = (c.len(), size(&[m, tiles, LANES]));
    assert_eq!(found, needed, "C holds {found} elements, the product has {needed}");
    if needed == 0 {
        return;
    }
    let (row_stride, tile_stride) = match out {
        Out::Tiles => (LANES, m * LANES),
        Out::Rows => (tiles * LANES, LANES),
    };
    let row_blocks = m.div_ceil(ROW_BLOCK);
    let tile_blocks = tiles.div_ceil(TILE_BLOCK);
    let shared = SharedMut::new(c);
    for_each_block(row_blocks * tile_blocks, |task| {
        let rows = range(task / tile_blocks, ROW_BLOCK, m);
        let tiles = range(task % tile_blocks, TILE_BLOCK, tiles);
        isa.run(Task { a, m, k, b, c: shared, row_stride, tile_stride, rows, tiles, accumulate });
    });
}

struct Task<'a> {
    a: Source<'a>,
    m: usize,
    k: usize,
    b: &'a [f32],
    c: SharedMut<'a>,
    row_stride: usize,
    tile_stride: usize,
    rows: Range<usize>,
    tiles: Range<usize>,
    accumulate: bool,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut lines = Scratch::take(K_BLOCK * 4 * LANES);
        for k0 in (0..self.k).step_by(K_BLOCK) {
            let ks = k0..(k0 + K_BLOCK).min(self.k);
            let mut tile = self.tiles.start;
            while tile < self.tiles.end {
                let left = self.tiles.end - tile;
                tile += match if I::REGISTERS >= 32 { left } else { 1 } {
                    4.. => self.group::<I, 4>(isa, ks.clone(), tile, &mut lines),
                    2..4 => self.group::<I, 2>(isa, ks.clone(), tile, &mut lines),
                    _ => self.group::<I, 1>(isa, ks.clone(), tile, &mut lines),
                };
            }
        }
    }
}

impl Task<'_> {
    /// The K block `ks` of `V` tiles from `tile`, all rows of this task; returns V.
    #[inline(always)]
    fn group<I: Isa, const V: usize>(
        &self,
        isa: I,
        ks: Range<usize>,
        tile: usize,
        lines: &mut [f32],
    ) -> usize {
        let b = gather_tiles::<I, V>(isa, self.b, self.k, tile, ks.clone(), lines);
        for row in self.rows.clone().step_by(PANEL) {
            let rows = PANEL.min(self.rows.end - row);
            let common = Micro {
                rows,
                k: ks.len(),
                tiles: V,
                b: b.as_ptr(),
                b_line: V * LANES,
                b_tile: LANES,
                // SAFETY: in bounds by the check in `run`, and of this task alone.
                c: unsafe { self.c.get(row * self.row_stride + tile * self.tile_stride) },
                c_row: self.row_stride,
                c_tile: self.tile_stride,
                accumulate: self.accumulate || ks.start > 0,
                a: std::ptr::null(),
                a_row: 0,
                a_col: 0,
                a_block_stride: 0,
            };
            match self.a {
                Source::Packed { values, .. } => {
                    let at = ks.start * self.m + row * ks.len();
                    let a = values[at..at + rows * ks.len()].as_ptr();
                    let product = Micro { a, a_row: 1, a_col: rows, ..common };
                    // SAFETY: A is one packed panel, B the gathered lines, both inside their
                    // slices; C as above.
                    unsafe { product.panel::<I, PACKED>(isa) };
                }
                Source::Rows(a) => {
                    let a_row = a.row_stride;
                    let a = a.data[row * a_row + ks.start..].as_ptr();
                    let product = Micro { a, a_row, a_col: 1, ..common };
                    // SAFETY: A is a part of each of `rows` rows; B and C as above.
                    unsafe { product.panel::<I, ROWS>(isa) };
                }
                Source::Tiles(a) => {
                    let at = a.column_offset(ks.start) + row * LANES;
                    let (a, stride) = (a.data[at..].as_ptr(), a.block_stride);
                    let product =
                        Micro { a, a_row: LANES, a_col: 1, a_block_stride: stride, ..common };
                    // SAFETY: A is `rows` lines of each of the whole tiles that `ks` spans; B and C
                    // as above.
                    unsafe { product.panel::<I, TILED>(isa) };
                }
            }
        }
        V
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(next).collect()
    }

    /// C[m][token] by the definition, in f64.
    fn naive(a: &Left<'_>, b: &[f32], tiles: usize) -> Vec<Vec<f64>> {
        let element = |m, token: usize| {
            let line = |k| ((token / LANES) * a.cols + k) * LANES + token % LANES;
            (0..a.cols)
                .map(|k| {
                    f64::from(a.data[m * a.row_stride + a.column_offset(k)]) * f64::from(b[line(k)])
                })
                .sum::<f64>()
        };
        (0..a.rows).map(|m| (0..tiles * LANES).map(|t| element(m, t)).collect()).collect()
    }

    #[test]
    fn equals_the_definition_on_ragged_shapes_and_every_isa() {
        for isa in IsaKind::available() {
            for (m, k, tiles) in [(1, 1, 1), (6, 7, 4), (13, 129, 5), (200, 130, 19), (5, 0, 2)] {
                let w = numbers(m * k, 1);
                let b = numbers(k * tiles * LANES, 2);
                for a in [Left::row_major(&w, m, k), Left::transposed(&w, m, k)] {
                    let want = naive(&a, &b, tiles);
                    for accumulate in [false, true] {
                        let mut c = vec![1.0; m * tiles * LANES];
                        gemm_on(isa, a, &b, &mut c, Out::Tiles, accumulate);
                        if k == 0 {
                            assert!(c.iter().all(|&x| x == f32::from(accumulate)));
                            continue;
                        }
                        for (row, want) in want.iter().enumerate() {
                            for (token, want) in want.iter().enumerate() {
                                let at = ((token / LANES) * m + row) * LANES + token % LANES;
                                let want = want + f64::from(u8::from(accumulate));
                                let error = (f64::from(c[at]) - want).abs();
                                assert!(error < 1e-4, "{isa} {m}x{k}: {} != {want}", c[at]);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weight_gradient_form_equals_the_definition() {
        let (out, inn, tiles) = (10, 37, 3);
        let dy = numbers(out * tiles * LANES, 3);
        let x = numbers(inn * tiles * LANES, 4);
        let xt = transpose_tiles(&x, inn);
        let columns = inn.next_multiple_of(LANES);
        let mut dw = vec![0.0; out * columns];
        gemm(Left::tiles(&dy, out), &xt, &mut dw, Out::Rows, false);
        for o in 0..out {
            for i in 0..inn {
                let want: f64 = (0..tiles * LANES)
                    .map(|t| {
                        let (tile, lane) = (t / LANES, t % LANES);
                        f64::from(dy[(tile * out + o) * LANES + lane])
                            * f64::from(x[(tile * inn + i) * LANES + lane])
                    })
                    .sum();
                assert!((f64::from(dw[o * columns + i]) - want).abs() < 1e-4);
            }
        }
    }
}
