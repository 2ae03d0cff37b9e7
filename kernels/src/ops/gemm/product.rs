//! The loop nest.

use super::left::Left;
use super::micro::{Micro, PACKED, PANEL, ROWS, TILED};
use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::arithmetic::{self, Arithmetic, Multiplication, Words};
use crate::ops::extent::{size, tiles};
use crate::ops::gather::{gather_pairs_of_lines, gather_tiles};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch};
use std::marker::PhantomData;
use std::ops::Range;

/// Columns of A per block: a B panel of four tiles is then 32 KB and stays in a 48 KB L1.
pub(super) const K_BLOCK: usize = 128;
/// Rows of A per parallel task: packed, 192 × 128 takes 96 KB of L2.
pub(super) const ROW_BLOCK: usize = 32 * PANEL;
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

/// Where a task reads A.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Packed { values: &'a [f32], rows: usize, cols: usize },
    Rows(Left<'a>),
    Tiles(Left<'a>),
}

/// The right operand B.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// Numbers, as tiles `[tiles][k][LANES]`.
    Numbers(&'a [f32]),
    /// The same of words, each two bf16 that meet the two of a word of A.
    Words(&'a [f32]),
    /// [Lines](crate::precision) of bf16, as words, with so many features, of which two neighbours meet the
    /// two numbers of a word of A.
    Features(&'a [f32], usize),
    /// [Lines](crate::precision) of f16, as words `[pair of tiles][k][LANES]`, which meet words of A that hold an f16
    /// twice. Sums are of f16 inside a K block.
    Halves(&'a [f32]),
}

impl Right<'_> {
    fn words(self) -> Words {
        match self {
            Right::Numbers(_) => Words::Numbers,
            Right::Words(_) | Right::Features(..) => Words::Pairs,
            Right::Halves(_) => Words::Halves,
        }
    }
}

/// C (+)= A · B.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(super) fn run(
    isa: IsaKind,
    a: Source<'_>,
    b: Right<'_>,
    c: &mut [f32],
    out: Out,
    accumulate: bool,
) {
    let (m, k) = match a {
        Source::Packed { rows, cols, .. } => (rows, cols),
        Source::Rows(a) | Source::Tiles(a) => (a.rows, a.cols),
    };
    let words = match b {
        Right::Numbers(b) | Right::Words(b) | Right::Features(b, _) | Right::Halves(b) => b,
    };
    if k == 0 {
        assert!(words.is_empty(), "A has no columns, B has lines");
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    let tiles = match b {
        Right::Numbers(b) | Right::Words(b) => tiles("B", b, k),
        Right::Features(b, features) => {
            assert_eq!(k, features.div_ceil(2), "A and B disagree on their features");
            let count = tiles("C", c, m);
            assert_eq!(b.len(), size(&[count.div_ceil(2), features, LANES]), "B and C disagree");
            count
        }
        Right::Halves(b) => {
            let count = tiles("C", c, m);
            assert_eq!(b.len(), size(&[count.div_ceil(2), k, LANES]), "B and C disagree");
            count
        }
    };
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
    // A line of B is of one tile of C, or of two.
    let lines = tiles.div_ceil(b.words().tiles());
    let tile_blocks = lines.div_ceil(TILE_BLOCK);
    let shared = SharedMut::new(c);
    for_each_block(row_blocks * tile_blocks, |task| {
        let rows = range(task / tile_blocks, ROW_BLOCK, m);
        let lines = range(task % tile_blocks, TILE_BLOCK, lines);
        let c = Place { c: shared, row_stride, tile_stride, tiles };
        arithmetic::run(isa, b.words(), Task { a, m, k, b, c, rows, lines, accumulate });
    });
}

/// The places of a block.
pub(super) fn range(block: usize, size: usize, end: usize) -> Range<usize> {
    block * size..((block + 1) * size).min(end)
}

/// Where C lies.
struct Place<'a> {
    c: SharedMut<'a>,
    row_stride: usize,
    tile_stride: usize,
    tiles: usize,
}

struct Task<'a> {
    a: Source<'a>,
    m: usize,
    k: usize,
    b: Right<'a>,
    c: Place<'a>,
    rows: Range<usize>,
    lines: Range<usize>,
    accumulate: bool,
}

impl Multiplication for Task<'_> {
    #[inline(always)]
    fn run<I: Isa, W: Arithmetic>(self, isa: I) {
        let mut lines = Scratch::take(K_BLOCK * 4 * LANES);
        for k0 in (0..self.k).step_by(K_BLOCK) {
            let ks = k0..(k0 + K_BLOCK).min(self.k);
            let mut line = self.lines.start;
            while line < self.lines.end {
                let left = self.lines.end - line;
                line += if const { I::REGISTERS >= 32 && W::WORDS.is_native::<I>() } {
                    match left {
                        4.. => self.group::<I, W, 4>(isa, ks.clone(), line, &mut lines),
                        2..4 => self.group::<I, W, 2>(isa, ks.clone(), line, &mut lines),
                        _ => self.group::<I, W, 1>(isa, ks.clone(), line, &mut lines),
                    }
                } else {
                    self.group::<I, W, 1>(isa, ks.clone(), line, &mut lines)
                };
            }
        }
    }
}

impl Task<'_> {
    /// The K block `ks` of `V` lines from `line`, all rows of this task; returns V.
    #[inline(always)]
    fn group<I: Isa, W: Arithmetic, const V: usize>(
        &self,
        isa: I,
        ks: Range<usize>,
        line: usize,
        lines: &mut [f32],
    ) -> usize {
        W::run_on(isa, Group::<W, V> { task: self, ks, line, lines, words: PhantomData })
    }
}

/// [`Task::group`]: a kernel inside the kernel, so that each size is compiled for itself.
struct Group<'a, W, const V: usize> {
    task: &'a Task<'a>,
    ks: Range<usize>,
    line: usize,
    lines: &'a mut [f32],
    words: PhantomData<W>,
}

impl<W: Arithmetic, const V: usize> Kernel for Group<'_, W, V> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        let Self { task, ks, line, lines, .. } = self;
        let b = match task.b {
            Right::Numbers(b) | Right::Words(b) | Right::Halves(b) => {
                gather_tiles::<I, V>(isa, b, task.k, line, ks.clone(), lines)
            }
            Right::Features(b, features) => {
                gather_pairs_of_lines::<I, V>(isa, b, features, line, ks.clone(), lines)
            }
        };
        let Place { c, row_stride, tile_stride, tiles } = task.c;
        let tile = line * W::WORDS.tiles();
        for row in task.rows.clone().step_by(PANEL) {
            let rows = PANEL.min(task.rows.end - row);
            let common = Micro {
                rows,
                k: ks.len(),
                b: b.as_ptr(),
                b_line: V * LANES,
                b_tile: LANES,
                // SAFETY: in bounds by the checks of `product::run`, and of this task alone.
                c: unsafe { c.get(row * row_stride + tile * tile_stride) },
                c_row: row_stride,
                c_tile: tile_stride,
                c_tiles: tiles - tile,
                accumulate: task.accumulate || ks.start > 0,
                a: std::ptr::null(),
                a_row: 0,
                a_col: 0,
                a_block_stride: 0,
            };
            match task.a {
                Source::Packed { values, .. } => {
                    let at = ks.start * task.m + row * ks.len();
                    let a = values[at..at + rows * ks.len()].as_ptr();
                    let product = Micro { a, a_row: 1, a_col: rows, ..common };
                    // SAFETY: A is one packed panel, B the gathered lines, both inside their
                    // slices; C as above.
                    unsafe { product.panel::<I, W, PACKED, V>(isa) };
                }
                Source::Rows(a) => {
                    let a_row = a.row_stride;
                    let a = a.data[row * a_row + ks.start..].as_ptr();
                    let product = Micro { a, a_row, a_col: 1, ..common };
                    // SAFETY: A is a part of each of `rows` rows; B and C as above.
                    unsafe { product.panel::<I, W, ROWS, V>(isa) };
                }
                Source::Tiles(a) => {
                    let at = a.column_offset(ks.start) + row * LANES;
                    let (a, stride) = (a.data[at..].as_ptr(), a.block_stride);
                    let product =
                        Micro { a, a_row: LANES, a_col: 1, a_block_stride: stride, ..common };
                    // SAFETY: A is `rows` lines of each of the whole tiles that `ks` spans; B and C
                    // as above.
                    unsafe { product.panel::<I, W, TILED, V>(isa) };
                }
            }
        }
        V
    }
}
