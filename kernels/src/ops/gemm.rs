//! Dense product C (+)= A · B whose B and C have tokens in their lanes.
//!
//! B is given as tiles `[tile][k][LANES]`, so it is already in the packed form that a BLIS-style
//! GEMM makes for itself; only A is packed, into panels of [`PANEL`] rows. The micro-kernel keeps
//! `PANEL × V` accumulators, reads V lines of B once per k and broadcasts A.
//!
//! Loop nest, outside in: row blocks × tile blocks (parallel) · K blocks (B panel stays in L1) ·
//! groups of V tiles · row panels · k.

use crate::isa::{Isa, IsaKind, Kernel};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch};

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

/// [`gemm`] on a given instruction set.
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
    let (m, k) = (a.rows, a.cols);
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

    let packed = pack(&a);
    let row_blocks = m.div_ceil(ROW_BLOCK);
    let tile_blocks = tiles.div_ceil(TILE_BLOCK);
    let shared = SharedMut::new(c);
    for_each_block(row_blocks * tile_blocks, |task| {
        let rows = range(task / tile_blocks, ROW_BLOCK, m);
        let tiles = range(task % tile_blocks, TILE_BLOCK, tiles);
        isa.run(Task { packed: &packed, m, k, b, c: shared, layout, rows, tiles, accumulate });
    });
}

fn range(block: usize, size: usize, end: usize) -> std::ops::Range<usize> {
    block * size..((block + 1) * size).min(end)
}

/// Packs A as `[k block][row panel][k][panel row]`; a panel at the end holds the rows left over.
fn pack(a: &Left<'_>) -> Scratch {
    let mut packed = Scratch::take(a.rows * a.cols);
    let row_blocks = a.rows.div_ceil(ROW_BLOCK);
    let shared = SharedMut::new(&mut packed);
    for_each_block(a.cols.div_ceil(K_BLOCK) * row_blocks, |task| {
        let ks = range(task / row_blocks, K_BLOCK, a.cols);
        let rows = range(task % row_blocks, ROW_BLOCK, a.rows);
        // SAFETY: the (k block, row block) pairs are disjoint ranges of the packed buffer.
        let to = unsafe {
            shared.slice(ks.start * a.rows + rows.start * ks.len(), rows.len() * ks.len())
        };
        let mut to = to;
        for panel in rows.clone().step_by(PANEL) {
            let panel_rows = PANEL.min(rows.end - panel);
            for k in ks.clone() {
                let from = &a.data[panel * a.row_stride + a.column_offset(k)..];
                let (line, rest) = to.split_at_mut(panel_rows);
                for (row, to) in line.iter_mut().enumerate() {
                    *to = from[row * a.row_stride];
                }
                to = rest;
            }
        }
    });
    packed
}

struct Task<'a> {
    packed: &'a [f32],
    m: usize,
    k: usize,
    b: &'a [f32],
    c: SharedMut,
    layout: OutLayout,
    rows: std::ops::Range<usize>,
    tiles: std::ops::Range<usize>,
    accumulate: bool,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let group = if I::REGISTERS >= 32 { 4 } else { 1 };
        for k0 in (0..self.k).step_by(K_BLOCK) {
            let k = K_BLOCK.min(self.k - k0);
            let mut tile = self.tiles.start;
            while tile < self.tiles.end {
                let tiles = group.min(self.tiles.end - tile);
                for row in self.rows.clone().step_by(PANEL) {
                    let rows = PANEL.min(self.rows.end - row);
                    let at = k0 * self.m + row * k;
                    let product = Product {
                        rows,
                        k,
                        tiles,
                        a: self.packed[at..at + rows * k].as_ptr(),
                        a_row: 1,
                        a_col: rows,
                        b: self.b[(tile * self.k + k0) * LANES..].as_ptr(),
                        b_tile: self.k * LANES,
                        // SAFETY: in bounds by the check in `gemm_on`, and of this task alone.
                        c: unsafe {
                            self.c
                                .get(row * self.layout.row_stride + tile * self.layout.tile_stride)
                        },
                        c_row: self.layout.row_stride,
                        c_tile: self.layout.tile_stride,
                        accumulate: self.accumulate || k0 > 0,
                    };
                    // SAFETY: A is one packed panel, B the lines k0.. of `tiles` tiles, both
                    // inside their slices; C as above.
                    unsafe { product.panel::<I, true>(isa) };
                }
                tile += tiles;
            }
        }
    }
}

/// A small product C (+)= A · B on raw tiles, for kernels that already run inside a task.
///
/// A(row, k) is at `a + row · a_row + k · a_col`, line (k, tile) of B at `b + k · LANES +
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
    /// First line of B.
    pub b: *const f32,
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
    /// Computes the whole product on this thread.
    /// # Safety
    /// Every element that the strides and extents reach is valid, for writing in C, and C
    /// overlaps neither A nor B.
    #[inline(always)]
    pub unsafe fn run<I: Isa>(self, isa: I) {
        let group = if I::REGISTERS >= 32 { 4 } else { 1 };
        for tile in (0..self.tiles).step_by(group) {
            for row in (0..self.rows).step_by(PANEL) {
                // SAFETY: a sub-block of what the caller vouches for.
                unsafe {
                    let part = Product {
                        rows: PANEL.min(self.rows - row),
                        tiles: group.min(self.tiles - tile),
                        a: self.a.add(row * self.a_row),
                        b: self.b.add(tile * self.b_tile),
                        c: self.c.add(row * self.c_row + tile * self.c_tile),
                        ..self
                    };
                    part.panel::<I, false>(isa);
                }
            }
        }
    }

    /// At most [`PANEL`] rows by at most four tiles, in pieces that have a micro-kernel.
    #[inline(always)]
    unsafe fn panel<I: Isa, const PACKED: bool>(self, isa: I) {
        let mut tile = 0;
        while tile < self.tiles {
            let tiles = floor_power_of_two(self.tiles - tile);
            let mut row = 0;
            while row < self.rows {
                // SAFETY: a sub-block of what the caller vouches for.
                unsafe {
                    let part = Product {
                        a: self.a.add(row * self.a_row),
                        b: self.b.add(tile * self.b_tile),
                        c: self.c.add(row * self.c_row + tile * self.c_tile),
                        ..self
                    };
                    row += match (self.rows - row, tiles) {
                        (6, 4) => part.micro::<I, PACKED, 6, 4>(isa),
                        (6, 2) => part.micro::<I, PACKED, 6, 2>(isa),
                        (6, _) => part.micro::<I, PACKED, 6, 1>(isa),
                        (4..6, 4) => part.micro::<I, PACKED, 4, 4>(isa),
                        (4..6, 2) => part.micro::<I, PACKED, 4, 2>(isa),
                        (4..6, _) => part.micro::<I, PACKED, 4, 1>(isa),
                        (2..4, 4) => part.micro::<I, PACKED, 2, 4>(isa),
                        (2..4, 2) => part.micro::<I, PACKED, 2, 2>(isa),
                        (2..4, _) => part.micro::<I, PACKED, 2, 1>(isa),
                        (_, 4) => part.micro::<I, PACKED, 1, 4>(isa),
                        (_, 2) => part.micro::<I, PACKED, 1, 2>(isa),
                        (_, _) => part.micro::<I, PACKED, 1, 1>(isa),
                    };
                }
            }
            tile += tiles;
        }
    }

    /// `M × V` accumulators; returns M. A full packed panel has stride one and M.
    #[inline(always)]
    unsafe fn micro<I: Isa, const PACKED: bool, const M: usize, const V: usize>(
        self,
        isa: I,
    ) -> usize {
        let (a_row, a_col) = match PACKED && M == PANEL {
            true => (1, M),
            false => (self.a_row, self.a_col),
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
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.k {
                let mut x = [isa.splat(0.0); V];
                for (v, x) in x.iter_mut().enumerate() {
                    *x = isa.load(b.add(v * self.b_tile));
                }
                for (row, acc) in acc.iter_mut().enumerate() {
                    let w = isa.splat(*a.add(row * a_row));
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = isa.fma(w, x, *acc);
                    }
                }
                a = a.wrapping_add(a_col);
                b = b.wrapping_add(LANES);
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
