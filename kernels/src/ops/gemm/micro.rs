//! The micro-kernel of dense products: a few rows of A by a few tiles, sums in registers.

use crate::LANES;
use crate::isa::Isa;

/// Rows of A per micro-kernel.
pub(super) const PANEL: usize = 6;

/// How a micro-kernel finds A: by any strides, …
const STRIDED: u8 = 0;
/// … packed, so that a full panel has strides one and its rows, …
pub(super) const PACKED: u8 = 1;
/// … as rows whose elements are neighbours, …
pub(super) const ROWS: u8 = 2;
/// … or as lines of token tiles, sixteen columns to a tile.
pub(super) const TILED: u8 = 3;

/// A small product C (+)= A · B on raw tiles, for kernels that already run inside a task.
///
/// The rest of a literal can be [`TileProduct::NOTHING`]. A(row, k) is at `a + row · a_row + k · a_col`,
/// line (k, tile) of B at `b + k · b_line + tile · b_tile`, line (row, tile) of C at
/// `c + row · c_row + tile · c_tile`.
#[derive(Clone, Copy)]
pub struct TileProduct {
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

impl TileProduct {
    /// The empty product, to fill in: `TileProduct { rows, …, ..TileProduct::NOTHING }`.
    pub const NOTHING: TileProduct = TileProduct {
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
                unsafe {
                    TileProduct { rows, tiles, ..self.at(row, tile) }.panel::<I, STRIDED>(isa)
                };
            }
        }
    }

    /// The same product from row `row` and tile `tile` on.
    /// # Safety
    /// They lie inside the product.
    #[inline(always)]
    unsafe fn at(self, row: usize, tile: usize) -> TileProduct {
        // SAFETY: the caller vouches that the strides stay inside the operands.
        unsafe {
            TileProduct {
                a: self.a.add(row * self.a_row),
                b: self.b.add(tile * self.b_tile),
                c: self.c.add(row * self.c_row + tile * self.c_tile),
                ..self
            }
        }
    }

    /// At most `PANEL` rows by at most four tiles, in pieces that have a micro-kernel.
    #[inline(always)]
    pub(super) unsafe fn panel<I: Isa, const A: u8>(self, isa: I) {
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
