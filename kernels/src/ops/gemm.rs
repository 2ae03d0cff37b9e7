//! Dense product C (+)= A · B whose B and C have tokens in their lanes.
//!
//! B is given as tiles `[tile][k][LANES]`; a task gathers the lines of V tiles into L1. A matrix A is
//! packed into panels of `PANEL` rows, once for many products if the caller keeps the [`Packed`]
//! form; activations serve as A just as they lie. The micro-kernel keeps `PANEL × V` accumulators,
//! reads V lines of B once per k and broadcasts A.
//!
//! Loop nest, outside in: row blocks × tile blocks (parallel) · K blocks (B panel stays in L1) ·
//! groups of V tiles · row panels · k.

use super::gather::gather_tiles;
use crate::isa::{Isa, IsaKind, Kernel};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch};
use std::ops::Range;

/// Rows of A per micro-kernel.
const PANEL: usize = 6;
/// Columns of A per block: a B panel of four tiles is then 32 KB and stays in a 48 KB L1.
const K_BLOCK: usize = 128;
/// Rows of A per parallel task: packed, 192 × 128 takes 96 KB of L2.
const ROW_BLOCK: usize = 32 * PANEL;
/// Tiles per parallel task.
const TILE_BLOCK: usize = 16;

/// All columns in one block.
const WHOLE: u32 = usize::BITS - 1;

/// The left operand A `[rows, cols]`, in any of the layouts the engine meets.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    /// Columns come in blocks of 2 to the power of this…
    block_bits: u32,
    /// …which lie this far apart.
    block_stride: usize,
}

impl<'a> Left<'a> {
    /// A row-major matrix `[rows, cols]`.
    #[track_caller]
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix data and shape disagree");
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
            block_bits: WHOLE,
            block_stride: 0,
        }
    }

    /// The transpose of a row-major matrix `[cols, rows]`.
    #[track_caller]
    pub fn transposed(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix data and shape disagree");
        Self {
            data,
            rows,
            cols,
            row_stride: 1,
            col_stride: rows,
            block_bits: WHOLE,
            block_stride: 0,
        }
    }

    /// Activations as a matrix `[features, tokens]`, from tiles `[tile][feature][LANES]`.
    #[track_caller]
    pub fn tiles(data: &'a [f32], features: usize) -> Self {
        let stride = features * LANES;
        assert!(stride > 0 && data.len().is_multiple_of(stride), "not whole tiles");
        let cols = data.len() / features;
        Self {
            data,
            rows: features,
            cols,
            row_stride: LANES,
            col_stride: 1,
            block_bits: LANES.trailing_zeros(),
            block_stride: stride,
        }
    }

    /// Where element (0, `col`) lies.
    #[inline(always)]
    fn column_offset(&self, col: usize) -> usize {
        let inside = col & ((1 << self.block_bits) - 1);
        (col >> self.block_bits) * self.block_stride + inside * self.col_stride
    }
}

/// Where C lies: element (row, tile, lane) is at `row · row_stride + tile · tile_stride + lane`.
#[derive(Clone, Copy)]
pub struct OutLayout {
    /// Distance of neighbouring rows.
    pub row_stride: usize,
    /// Distance of neighbouring tiles.
    pub tile_stride: usize,
}

impl OutLayout {
    /// Activations `[tile][features][LANES]`.
    pub fn tiles(features: usize) -> Self {
        Self { row_stride: LANES, tile_stride: features * LANES }
    }

    /// A row-major matrix whose columns run through tiles and lanes; `columns` is a multiple of
    /// [`LANES`].
    pub fn row_major(columns: usize) -> Self {
        Self { row_stride: columns, tile_stride: LANES }
    }
}

/// C (+)= A · B: A `[m, k]`, B as tiles `[tiles][k][LANES]`, C `[m, tiles · LANES]` laid out as
/// `layout` says. Overwrites C, or adds to it when `accumulate`. 2 · m · k · tiles · LANES FLOPs.
/// # Panics
/// If the shapes disagree.
#[track_caller]
pub fn gemm(a: Left<'_>, b: &[f32], c: &mut [f32], layout: OutLayout, accumulate: bool) {
    gemm_on(IsaKind::active().unwrap_or_else(|e| panic!("{e}")), a, b, c, layout, accumulate);
}

/// [`gemm()`] on a given instruction set.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub fn gemm_on(
    isa: IsaKind,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    layout: OutLayout,
    accumulate: bool,
) {
    let source = match (a.block_bits, a.col_stride) {
        (WHOLE, 1) => Source::Rows(a),
        (WHOLE, _) => Source::Packed(&a.pack()),
        _ => Source::Tiles(a),
    };
    run(isa, source, b, c, layout, accumulate);
}

/// [`gemm()`] with a left operand packed before.
/// # Panics
/// If the shapes disagree.
#[track_caller]
pub fn gemm_packed(a: &Packed, b: &[f32], c: &mut [f32], layout: OutLayout, accumulate: bool) {
    let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
    run(isa, Source::Packed(a), b, c, layout, accumulate);
}

/// A left operand in the order of the micro-kernel.
pub struct Packed {
    values: Scratch,
    rows: usize,
    cols: usize,
}

/// Where a task reads A.
#[derive(Clone, Copy)]
enum Source<'a> {
    Packed(&'a Packed),
    Rows(Left<'a>),
    Tiles(Left<'a>),
}

#[track_caller]
fn run(isa: IsaKind, a: Source<'_>, b: &[f32], c: &mut [f32], layout: OutLayout, accumulate: bool) {
    let (m, k) = match a {
        Source::Packed(a) => (a.rows, a.cols),
        Source::Rows(a) | Source::Tiles(a) => (a.rows, a.cols),
    };
    if m == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    assert!(b.len().is_multiple_of(k * LANES), "B is not made of tiles of {k} lines");
    let tiles = b.len() / (k * LANES);
    if tiles == 0 {
        return;
    }
    let last = (m - 1) * layout.row_stride + (tiles - 1) * layout.tile_stride + LANES;
    assert!(c.len() >= last, "C holds {} elements, the product needs {last}", c.len());

    let row_blocks = m.div_ceil(ROW_BLOCK);
    let tile_blocks = tiles.div_ceil(TILE_BLOCK);
    let shared = SharedMut::new(c);
    for_each_block(row_blocks * tile_blocks, |task| {
        let rows = range(task / tile_blocks, ROW_BLOCK, m);
        let tiles = range(task % tile_blocks, TILE_BLOCK, tiles);
        isa.run(Task { a, m, k, b, c: shared, layout, rows, tiles, accumulate });
    });
}

fn range(block: usize, size: usize, end: usize) -> Range<usize> {
    block * size..((block + 1) * size).min(end)
}

impl Left<'_> {
    /// Packs A as `[k block][row panel][k][panel row]`; a last panel holds the rows left over.
    pub fn pack(&self) -> Packed {
        let mut values = Scratch::take(self.rows * self.cols);
        let row_blocks = self.rows.div_ceil(ROW_BLOCK);
        let shared = SharedMut::new(&mut values);
        for_each_block(self.cols.div_ceil(K_BLOCK) * row_blocks, |task| {
            let ks = range(task / row_blocks, K_BLOCK, self.cols);
            let rows = range(task % row_blocks, ROW_BLOCK, self.rows);
            // SAFETY: the (k block, row block) pairs are disjoint ranges of the packed values.
            let mut to = unsafe {
                let from = ks.start * self.rows + rows.start * ks.len();
                shared.slice(from, rows.len() * ks.len())
            };
            for panel in rows.clone().step_by(PANEL) {
                let panel_rows = PANEL.min(rows.end - panel);
                for k in ks.clone() {
                    let from = &self.data[panel * self.row_stride + self.column_offset(k)..];
                    let (line, rest) = to.split_at_mut(panel_rows);
                    for (row, to) in line.iter_mut().enumerate() {
                        *to = from[row * self.row_stride];
                    }
                    to = rest;
                }
            }
        });
        Packed { values, rows: self.rows, cols: self.cols }
    }
}

struct Task<'a> {
    a: Source<'a>,
    m: usize,
    k: usize,
    b: &'a [f32],
    c: SharedMut,
    layout: OutLayout,
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
            let common = Product {
                rows,
                k: ks.len(),
                tiles: V,
                b: b.as_ptr(),
                b_line: V * LANES,
                b_tile: LANES,
                // SAFETY: in bounds by the check in `run`, and of this task alone.
                c: unsafe {
                    self.c.get(row * self.layout.row_stride + tile * self.layout.tile_stride)
                },
                c_row: self.layout.row_stride,
                c_tile: self.layout.tile_stride,
                accumulate: self.accumulate || ks.start > 0,
                ..Product::NOTHING
            };
            match self.a {
                Source::Packed(a) => {
                    let at = ks.start * self.m + row * ks.len();
                    let a = a.values[at..at + rows * ks.len()].as_ptr();
                    let product = Product { a, a_row: 1, a_col: rows, ..common };
                    // SAFETY: A is one packed panel, B the gathered lines, both inside their
                    // slices; C as above.
                    unsafe { product.panel::<I, PACKED>(isa) };
                }
                Source::Rows(a) => {
                    let a_row = a.row_stride;
                    let a = a.data[row * a_row + ks.start..].as_ptr();
                    let product = Product { a, a_row, a_col: 1, ..common };
                    // SAFETY: A is a part of each of `rows` rows; B and C as above.
                    unsafe { product.panel::<I, ROWS>(isa) };
                }
                Source::Tiles(a) => {
                    let at = a.column_offset(ks.start) + row * LANES;
                    let (a, stride) = (a.data[at..].as_ptr(), a.block_stride);
                    let product =
                        Product { a, a_row: LANES, a_col: 1, a_block_stride: stride, ..common };
                    // SAFETY: A is `rows` lines of each of the whole tiles that `ks` spans; B and C
                    // as above.
                    unsafe { product.panel::<I, TILED>(isa) };
                }
            }
        }
        V
    }
}

/// How a micro-kernel finds A: by any strides, …
const STRIDED: u8 = 0;
/// … packed, so that a full panel has strides one and its rows, …
const PACKED: u8 = 1;
/// … as rows whose elements are neighbours, …
const ROWS: u8 = 2;
/// … or as lines of token tiles, sixteen columns to a tile.
const TILED: u8 = 3;

/// A small product C (+)= A · B on raw tiles, for kernels that already run inside a task.
///
/// The rest of a literal can be [`Product::NOTHING`]. A(row, k) is at `a + row · a_row + k · a_col`, line (k, tile) of B at `b + k · b_line +
/// tile · b_tile`, line (row, tile) of C at `c + row · c_row + tile · c_tile`.
#[derive(Clone, Copy)]
pub struct Product {
    /// Rows of A and C.
    pub rows: usize,
    /// Columns of A, lines of B.
    pub k: usize,
    /// Tiles of B and C.
    pub tiles: usize,
    /// First element of A.
    pub a: *const f32,
    /// Distance of A's rows.
    pub a_row: usize,
    /// Distance of A's columns.
    pub a_col: usize,
    /// Distance of A's blocks of sixteen columns, where A is made of token tiles; else 0.
    pub a_block_stride: usize,
    /// First line of B.
    pub b: *const f32,
    /// Distance of B's lines.
    pub b_line: usize,
    /// Distance of B's tiles.
    pub b_tile: usize,
    /// First line of C.
    pub c: *mut f32,
    /// Distance of C's rows.
    pub c_row: usize,
    /// Distance of C's tiles.
    pub c_tile: usize,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
}

impl Product {
    /// The empty product, to fill in: `Product { rows, …, ..Product::NOTHING }`.
    pub const NOTHING: Product = Product {
        rows: 0,
        k: 0,
        tiles: 0,
        a: std::ptr::null(),
        a_row: 0,
        a_col: 0,
        a_block_stride: 0,
        b: std::ptr::null(),
        b_line: LANES,
        b_tile: 0,
        c: std::ptr::null_mut(),
        c_row: 0,
        c_tile: 0,
        accumulate: false,
    };

    /// Computes the whole product on this thread.
    /// # Safety
    /// Every element that the strides and extents reach is valid, for writing in C, and C
    /// overlaps neither A nor B.
    #[inline(always)]
    pub unsafe fn run<I: Isa>(self, isa: I) {
        let group = if I::REGISTERS >= 32 { 4 } else { 1 };
        for tile in (0..self.tiles).step_by(group) {
            for row in (0..self.rows).step_by(PANEL) {
                let (rows, tiles) = (PANEL.min(self.rows - row), group.min(self.tiles - tile));
                // SAFETY: a sub-block of what the caller vouches for.
                unsafe { Product { rows, tiles, ..self.at(row, tile) }.panel::<I, STRIDED>(isa) };
            }
        }
    }

    /// The same product from row `row` and tile `tile` on.
    /// # Safety
    /// They lie inside the product.
    #[inline(always)]
    unsafe fn at(self, row: usize, tile: usize) -> Product {
        // SAFETY: the caller vouches that the strides stay inside the operands.
        unsafe {
            Product {
                a: self.a.add(row * self.a_row),
                b: self.b.add(tile * self.b_tile),
                c: self.c.add(row * self.c_row + tile * self.c_tile),
                ..self
            }
        }
    }

    /// At most `PANEL` rows by at most four tiles, in pieces that have a micro-kernel.
    #[inline(always)]
    unsafe fn panel<I: Isa, const A: u8>(self, isa: I) {
        let mut tile = 0;
        while tile < self.tiles {
            let tiles = floor_power_of_two(self.tiles - tile);
            let mut row = 0;
            while row < self.rows {
                // SAFETY: a sub-block of what the caller vouches for.
                unsafe {
                    let part = self.at(row, tile);
                    row += match (self.rows - row, tiles) {
                        (6, 4) => part.micro::<I, A, 6, 4>(isa),
                        (6, 2) => part.micro::<I, A, 6, 2>(isa),
                        (6, _) => part.micro::<I, A, 6, 1>(isa),
                        (4..6, 4) => part.micro::<I, A, 4, 4>(isa),
                        (4..6, 2) => part.micro::<I, A, 4, 2>(isa),
                        (4..6, _) => part.micro::<I, A, 4, 1>(isa),
                        (2..4, 4) => part.micro::<I, A, 2, 4>(isa),
                        (2..4, 2) => part.micro::<I, A, 2, 2>(isa),
                        (2..4, _) => part.micro::<I, A, 2, 1>(isa),
                        (_, 4) => part.micro::<I, A, 1, 4>(isa),
                        (_, 2) => part.micro::<I, A, 1, 2>(isa),
                        (_, _) => part.micro::<I, A, 1, 1>(isa),
                    };
                }
            }
            tile += tiles;
        }
    }

    /// `M × V` accumulators; returns M.
    #[inline(always)]
    unsafe fn micro<I: Isa, const A: u8, const M: usize, const V: usize>(self, isa: I) -> usize {
        // Constant strides become immediate offsets.
        let (a_row, a_col) = match A {
            PACKED if M == PANEL => (1, M),
            ROWS => (self.a_row, 1),
            TILED => (LANES, 1),
            _ => (self.a_row, self.a_col),
        };
        let (b_line, b_tile) = match A {
            STRIDED => (self.b_line, self.b_tile),
            _ => (self.b_line, LANES),
        };
        let mut acc = [[isa.splat(0.0); V]; M];
        // SAFETY: the caller vouches for every address formed from the strides and extents.
        unsafe {
            if self.accumulate {
                for (row, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = isa.load(self.c.add(row * self.c_row + v * self.c_tile));
                    }
                }
            }
            let (mut a, mut b, mut left) = (self.a, self.b, self.k);
            while left > 0 {
                let steps = if A == TILED { left.min(LANES) } else { left };
                let mut column = a;
                for _ in 0..steps {
                    let mut x = [isa.splat(0.0); V];
                    for (v, x) in x.iter_mut().enumerate() {
                        *x = isa.load(b.add(v * b_tile));
                    }
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let w = isa.splat(*column.add(row * a_row));
                        for (acc, x) in acc.iter_mut().zip(x) {
                            *acc = isa.fma(w, x, *acc);
                        }
                    }
                    column = column.wrapping_add(a_col);
                    b = b.wrapping_add(b_line);
                }
                a = a.wrapping_add(self.a_block_stride);
                left -= steps;
            }
            for (row, acc) in acc.into_iter().enumerate() {
                for (v, acc) in acc.into_iter().enumerate() {
                    isa.store(self.c.add(row * self.c_row + v * self.c_tile), acc);
                }
            }
        }
        M
    }
}

/// The largest of 1, 2, 4 not above `n` ≥ 1.
#[inline(always)]
fn floor_power_of_two(n: usize) -> usize {
    match n {
        1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

/// Lays activations `[tile][feature][LANES tokens]` out as `[feature tile][token][LANES features]`,
/// the B operand of the weight gradient; features are padded with zeros to whole tiles.
#[track_caller]
pub fn transpose_tiles(x: &[f32], features: usize) -> Scratch {
    let stride = features * LANES;
    assert!(stride > 0 && x.len().is_multiple_of(stride), "not whole tiles");
    let tiles = x.len() / stride;
    let feature_tiles = features.div_ceil(LANES);
    let mut out = Scratch::take(feature_tiles * tiles * LANES * LANES);
    let shared = SharedMut::new(&mut out);
    let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
    for_each_block(feature_tiles, |feature_tile| {
        let len = tiles * LANES * LANES;
        // SAFETY: feature tiles are disjoint ranges of the output.
        let to = unsafe { shared.slice(feature_tile * len, len) };
        isa.run(Transpose { x, features, first: feature_tile * LANES, to });
    });
    out
}

struct Transpose<'a> {
    x: &'a [f32],
    features: usize,
    first: usize,
    to: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = LANES.min(self.features - self.first);
        let tiles = self.x.chunks_exact(self.features * LANES);
        for (tile, to) in tiles.zip(self.to.chunks_exact_mut(LANES * LANES)) {
            let from = &tile[self.first * LANES..(self.first + rows) * LANES];
            let mut block = [isa.splat(0.0); LANES];
            for (row, from) in block.iter_mut().zip(from.chunks_exact(LANES)) {
                // SAFETY: `from` holds one line.
                *row = unsafe { isa.load(from.as_ptr()) };
            }
            let block = isa.transpose(block);
            for (to, row) in to.chunks_exact_mut(LANES).zip(block) {
                // SAFETY: `to` holds one line.
                unsafe { isa.store(to.as_mut_ptr(), row) };
            }
        }
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
                        gemm_on(isa, a, &b, &mut c, OutLayout::tiles(m), accumulate);
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
        gemm(Left::tiles(&dy, out), &xt, &mut dw, OutLayout::row_major(columns), false);
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
