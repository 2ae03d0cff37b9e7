//! The micro-kernel of dense products: a few rows of A by a few tiles, sums in registers.

use crate::LANES;
use crate::isa::Isa;
use crate::ops::arithmetic::Arithmetic;
use crate::parallel::Part;

/// Rows of A per micro-kernel.
pub(super) const PANEL: usize = 6;

/// How a micro-kernel finds A: packed, so that a full panel has strides one and its rows, …
pub(super) const PACKED: u8 = 0;
/// … as rows whose elements are neighbours, …
pub(super) const ROWS: u8 = 1;
/// … as lines of token tiles, sixteen columns to a tile, …
pub(super) const TILED: u8 = 2;
/// … or as lines that hold a column each.
const COLUMNS: u8 = 3;
/// Beside one of these: B's tiles lie apart, and not side by side.
const APART: u8 = 4;

/// A small product C (+)= A · B on tiles, for kernels that already run inside a task. Elements of A and B are words,
/// numbers or pairs of bf16, of which those of A and B that meet hold the same two columns; C is of numbers.
///
/// Line (k, tile) of B is at `b[k · b_line + tile · b_tile..]`.
#[derive(Clone, Copy)]
pub struct TileProduct<'a> {
    /// Rows of A and C.
    pub rows: usize,
    /// Columns of A, lines of B.
    pub k: usize,
    /// Tiles of B and C.
    pub tiles: usize,
    /// A.
    pub a: &'a [f32],
    /// Where its elements lie.
    pub form: LeftForm,
    /// B.
    pub b: &'a [f32],
    /// Distance of B's lines.
    pub b_line: usize,
    /// Distance of B's tiles.
    pub b_tile: usize,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
}

/// Where the elements of the left operand of a [`TileProduct`] lie.
#[derive(Clone, Copy)]
pub enum LeftForm {
    /// Those of a row together; rows are so far apart.
    Rows(usize),
    /// Those of a column in a line.
    Columns,
    /// Sixteen of a row in a line, the lines of all rows in a tile; tiles are so far apart.
    Tiles(usize),
}

impl TileProduct<'_> {
    /// Computes the product on this thread; line (row, tile) of C is at
    /// `c[row · c_row + tile · c_tile..]`.
    /// # Panics
    /// If an operand is shorter than its extents and distances reach.
    #[inline(always)]
    #[track_caller]
    pub fn run<I: Isa, W: Arithmetic>(self, isa: I, c: &mut [f32], c_row: usize, c_tile: usize) {
        let reach = reach([(self.rows, c_row), (self.tiles, c_tile)], LANES);
        assert!(reach <= c.len(), "C is shorter than the product");
        self.check_operands::<W>();
        // SAFETY: no index exceeds what was checked, and C is borrowed for writing.
        unsafe { self.run_at::<I, W>(isa, c.as_mut_ptr(), c_row, c_tile) };
    }

    /// Computes the product on this thread; the lines of C's tiles are the rows of a part from `first`
    /// on, one tile a row.
    /// # Panics
    /// If an operand is shorter than its extents and distances reach, or the part has no such rows.
    #[inline(always)]
    #[track_caller]
    pub fn run_on_part<I: Isa, W: Arithmetic>(self, isa: I, c: &mut Part<'_>, first: usize) {
        self.check_operands::<W>();
        let (c, c_tile) = c.pointer(first..first + self.tiles, self.rows.saturating_mul(LANES));
        // SAFETY: as in `run`; the part has these rows, and they hold as many lines.
        unsafe { self.run_at::<I, W>(isa, c, LANES, c_tile) };
    }

    #[inline(always)]
    #[track_caller]
    fn check_operands<W: Arithmetic>(&self) {
        const { assert!(!W::HALVES, "a line of halves is of two tiles") };
        let a = match self.form {
            LeftForm::Rows(row) => reach([(self.rows, row), (self.k, 1)], 1),
            LeftForm::Columns => reach([(self.rows, 1), (self.k, LANES)], 1),
            // Whole lines.
            LeftForm::Tiles(tile) => {
                reach([(self.rows, LANES), (self.k.div_ceil(LANES), tile)], LANES)
            }
        };
        let b = reach([(self.k, self.b_line), (self.tiles, self.b_tile)], LANES);
        assert!(a <= self.a.len() && b <= self.b.len(), "A or B is shorter than the product");
    }

    /// # Safety
    /// The operands are checked, and every line of C that the strides reach is valid for writing.
    #[inline(always)]
    unsafe fn run_at<I: Isa, W: Arithmetic>(
        self,
        isa: I,
        c: *mut f32,
        c_row: usize,
        c_tile: usize,
    ) {
        let Self { rows, k, tiles, a, form, b, b_line, b_tile, accumulate } = self;
        let (a_row, a_col, a_block_stride) = match form {
            LeftForm::Rows(row) => (row, 1, 0),
            LeftForm::Columns => (1, LANES, 0),
            LeftForm::Tiles(tile) => (LANES, 1, tile),
        };
        let (a, b, c_tiles) = (a.as_ptr(), b.as_ptr(), tiles);
        let product = Micro {
            rows,
            k,
            a,
            a_row,
            a_col,
            a_block_stride,
            b,
            b_line,
            b_tile,
            c,
            c_row,
            c_tile,
            c_tiles,
            accumulate,
        };
        // SAFETY: what the caller vouches for.
        unsafe {
            match form {
                LeftForm::Rows(_) => product.run::<I, W, { ROWS | APART }>(isa, tiles),
                LeftForm::Columns => product.run::<I, W, { COLUMNS | APART }>(isa, tiles),
                LeftForm::Tiles(_) => product.run::<I, W, { TILED | APART }>(isa, tiles),
            }
        }
    }
}

/// One past the last element that a number of steps of each distance and `len` more elements reach.
/// # Panics
/// If that is beyond all memory.
#[inline(always)]
#[track_caller]
fn reach(steps: [(usize, usize); 2], len: usize) -> usize {
    let last = |(count, distance): (usize, usize)| count.checked_sub(1)?.checked_mul(distance);
    match steps.map(|(count, _)| count) {
        [0, _] | [_, 0] => 0,
        _ => last(steps[0])
            .zip(last(steps[1]))
            .and_then(|(a, b)| a.checked_add(b)?.checked_add(len))
            .expect("a product that fits in memory"),
    }
}

/// A product on raw tiles: A(row, k) is at `a + row · a_row + k · a_col`, line (k, tile) of B at
/// `b + k · b_line + tile · b_tile`, line (row, tile) of C at `c + row · c_row + tile · c_tile`.
#[derive(Clone, Copy)]
pub(super) struct Micro {
    pub rows: usize,
    pub k: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    /// Distance of A's blocks of sixteen columns, where A is made of token tiles; else 0.
    pub a_block_stride: usize,
    pub b: *const f32,
    pub b_line: usize,
    pub b_tile: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub c_tile: usize,
    /// Tiles of C from the first line on, of which the last line may have one alone.
    pub c_tiles: usize,
    pub accumulate: bool,
}

impl Micro {
    /// Computes the product on so many lines on this thread.
    /// # Safety
    /// Every element that the strides and extents reach is valid, for writing in C, and C
    /// overlaps neither A nor B.
    #[inline(always)]
    unsafe fn run<I: Isa, W: Arithmetic, const A: u8>(self, isa: I, lines: usize) {
        let mut line = 0;
        while line < lines {
            // SAFETY: a sub-block of what the caller vouches for.
            line += unsafe {
                if const { I::REGISTERS >= 32 && W::WORDS.is_native::<I>() } {
                    match lines - line {
                        4.. => self.panels::<I, W, A, 4>(isa, line),
                        2..4 => self.panels::<I, W, A, 2>(isa, line),
                        _ => self.panels::<I, W, A, 1>(isa, line),
                    }
                } else {
                    self.panels::<I, W, A, 1>(isa, line)
                }
            };
        }
    }

    /// All rows by `V` lines from `line`; returns V.
    /// # Safety
    /// They lie inside the product.
    #[inline(always)]
    unsafe fn panels<I: Isa, W: Arithmetic, const A: u8, const V: usize>(
        self,
        isa: I,
        line: usize,
    ) -> usize {
        for row in (0..self.rows).step_by(PANEL) {
            let rows = PANEL.min(self.rows - row);
            // SAFETY: a sub-block of what the caller vouches for.
            unsafe { Micro { rows, ..self.at::<W>(row, line) }.panel::<I, W, A, V>(isa) };
        }
        V
    }

    /// The same product from row `row` and line `line` on.
    /// # Safety
    /// They lie inside the product.
    #[inline(always)]
    unsafe fn at<W: Arithmetic>(self, row: usize, line: usize) -> Micro {
        let tile = line * W::WORDS.tiles();
        // SAFETY: the caller vouches that the strides stay inside the operands.
        unsafe {
            Micro {
                a: self.a.add(row * self.a_row),
                b: self.b.add(line * self.b_tile),
                c: self.c.add(row * self.c_row + tile * self.c_tile),
                c_tiles: self.c_tiles - tile,
                ..self
            }
        }
    }

    /// At most `PANEL` rows by `V` lines, in pieces that have a micro-kernel.
    #[inline(always)]
    pub(super) unsafe fn panel<I: Isa, W: Arithmetic, const A: u8, const V: usize>(self, isa: I) {
        let mut row = 0;
        while row < self.rows {
            // SAFETY: a sub-block of what the caller vouches for.
            unsafe {
                let part = self.at::<W>(row, 0);
                row += match self.rows - row {
                    6 => part.micro::<I, W, A, 6, V>(isa),
                    4..6 => part.micro::<I, W, A, 4, V>(isa),
                    2..4 => part.micro::<I, W, A, 2, V>(isa),
                    _ => part.micro::<I, W, A, 1, V>(isa),
                };
            }
        }
    }

    /// `M × V` accumulators; returns M.
    #[inline(always)]
    unsafe fn micro<I: Isa, W: Arithmetic, const A: u8, const M: usize, const V: usize>(
        self,
        isa: I,
    ) -> usize {
        // Constant strides become immediate offsets.
        let (a_row, a_col) = match A & !APART {
            PACKED if M == PANEL => (1, M),
            ROWS => (self.a_row, 1),
            TILED => (LANES, 1),
            COLUMNS => (1, LANES),
            _ => (self.a_row, self.a_col),
        };
        let b_line = self.b_line;
        let b_tile = if A & APART != 0 { self.b_tile } else { LANES };
        let mut acc = [[isa.splat(0.0); V]; M];
        // SAFETY: the caller vouches for every address formed from the strides and extents.
        unsafe {
            // Sums of halves begin at zero, and are added to C when they are whole.
            if self.accumulate && !W::HALVES {
                for (row, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = isa.load(self.c.add(row * self.c_row + v * self.c_tile));
                    }
                }
            }
            let (mut a, mut b, mut left) = (self.a, self.b, self.k);
            while left > 0 {
                let steps = if A & !APART == TILED { left.min(LANES) } else { left };
                let mut column = a;
                for _ in 0..steps {
                    let mut x = [isa.splat(0.0); V];
                    for (v, x) in x.iter_mut().enumerate() {
                        *x = isa.load(b.add(v * b_tile));
                    }
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let w = isa.splat(*column.add(row * a_row));
                        for (acc, x) in acc.iter_mut().zip(x) {
                            *acc = W::multiply_add(isa, w, x, *acc);
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
                    let c = |tile: usize| self.c.add(row * self.c_row + tile * self.c_tile);
                    if !W::HALVES {
                        isa.store(c(v), acc);
                        continue;
                    }
                    let (first, second) = isa.widen_f16(acc);
                    for (tile, sum) in [(2 * v, first), (2 * v + 1, second)] {
                        if tile < self.c_tiles {
                            let held = self.accumulate.then(|| isa.load(c(tile)));
                            isa.store(c(tile), held.map_or(sum, |held| isa.add(held, sum)));
                        }
                    }
                }
            }
        }
        M
    }
}
