//! Dense weight gradient of f16: dot products over the tokens in the lanes of all pairs of a few rows and columns.

use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::extent::tiles;
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch};
use std::ops::Range;

/// Lines whose products are summed in f16, 512 tokens: [`Isa::sum_halves`] adds what is in the lanes.
const DEEP: usize = 16;

/// Rows, and columns, whose pairs a micro-kernel multiplies.
const QUAD: usize = 4;

/// Rows of a task; their sums take 32 KB.
const ROWS: usize = 64;

/// Columns of a task: their lines of X take 32 KB, and stay in L1.
const COLUMNS: usize = 32;

/// dW (+)= dY · Xᵀ of [lines](crate::precision) of f16, as words: dY `[lines][rows]`, X `[lines][columns]`, dW
/// `[rows][columns]` with rows filled up to whole lines of `f32`.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(crate) fn outer_halves_on(
    isa: IsaKind,
    (dy, rows): (&[f32], usize),
    (x, columns): (&[f32], usize),
    dw: &mut [f32],
    accumulate: bool,
) {
    let lines = tiles("dY", dy, rows);
    assert_eq!(tiles("X", x, columns), lines, "dY and X have different tokens");
    let width = columns.next_multiple_of(LANES);
    assert_eq!(dw.len(), rows * width, "dW is not made of rows of {width}");
    let column_blocks = columns.div_ceil(COLUMNS);
    let dw = SharedMut::new(dw);
    for_each_block(rows.div_ceil(ROWS) * column_blocks, |task| {
        let range =
            |block: usize, size: usize, end: usize| block * size..((block + 1) * size).min(end);
        isa.run_halves(Task {
            lines,
            dy: Operand { words: dy, features: rows },
            x: Operand { words: x, features: columns },
            rows: range(task / column_blocks, ROWS, rows),
            columns: range(task % column_blocks, COLUMNS, columns),
            dw,
            width,
            accumulate,
        });
    });
}

struct Task<'a> {
    lines: usize,
    dy: Operand<'a>,
    x: Operand<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    dw: SharedMut<'a>,
    width: usize,
    accumulate: bool,
}

/// Words `[line][feature][LANES]`.
struct Operand<'a> {
    words: &'a [f32],
    features: usize,
}

/// The words of one feature.
type Deep = [[f32; LANES]; DEEP];

impl Operand<'_> {
    /// Writes up to `DEEP` lines of some features side by side, with zeros where there are none.
    #[inline(always)]
    fn gather<I: Isa>(&self, isa: I, lines: Range<usize>, features: Range<usize>, to: &mut [Deep]) {
        for (at, to) in to.iter_mut().enumerate() {
            let feature = features.start + at;
            for (line, to) in (lines.start..).zip(to) {
                let is_there = line < lines.end && feature < features.end;
                let from = (line * self.features + feature) * LANES;
                let words = is_there.then(|| &self.words.as_chunks::<LANES>().0[from / LANES]);
                isa.store_line(to, words.map_or(isa.splat(0.0), |words| isa.load_line(words)));
            }
        }
    }
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        const GROUPS: usize = COLUMNS / QUAD;
        let mut x = Scratch::take(COLUMNS * DEEP * LANES);
        let x = x.as_chunks_mut::<LANES>().0.as_chunks_mut::<DEEP>().0;
        let mut dy = Scratch::take(QUAD * DEEP * LANES);
        let dy = dy.as_chunks_mut::<LANES>().0.as_chunks_mut::<DEEP>().0;
        // [row][group of columns], the columns of a group in the lanes, in four parts.
        let mut sums = Scratch::zeros(ROWS * GROUPS * LANES);
        let sums = sums.as_chunks_mut::<LANES>().0.as_chunks_mut::<GROUPS>().0;
        for first in (0..self.lines).step_by(DEEP) {
            let lines = first..self.lines.min(first + DEEP);
            self.x.gather(isa, lines.clone(), self.columns.clone(), x);
            for (row, sums) in self.rows.clone().step_by(QUAD).zip(sums.chunks_exact_mut(QUAD)) {
                self.dy.gather(isa, lines.clone(), row..self.rows.end, dy);
                for (group, x) in x.as_chunks::<QUAD>().0.iter().enumerate() {
                    let products = products(isa, dy, x);
                    for (sums, products) in sums.iter_mut().zip(products) {
                        let sum = isa.load_line(&sums[group]);
                        let sum = isa.add(sum, isa.sum_halves(products));
                        isa.store_line(&mut sums[group], sum);
                    }
                }
            }
        }
        for (row, sums) in self.rows.clone().zip(sums) {
            let columns = self.columns.clone().step_by(LANES);
            for (column, parts) in columns.zip(sums.as_chunks::<QUAD>().0) {
                let sum = isa.sum_over_quarters(parts.map(|part| isa.load_line(&part)));
                // SAFETY: rows have whole lines, and these are of this task alone.
                let to = unsafe { self.dw.slice(row * self.width + column, LANES) };
                let to = &mut to.as_chunks_mut::<LANES>().0[0];
                let held = self.accumulate.then(|| isa.load_line(to));
                isa.store_line(to, held.map_or(sum, |held| isa.add(held, sum)));
            }
        }
    }
}

/// Sums of f16 over the lines, lane by lane, of the products of each row with each column.
#[inline(always)]
fn products<I: Isa>(isa: I, rows: &[Deep], columns: &[Deep; QUAD]) -> [[I::V; QUAD]; QUAD] {
    let rows: &[Deep; QUAD] = rows.as_chunks().0.first().expect("four rows");
    let mut sums = [[isa.splat(0.0); QUAD]; QUAD];
    for line in 0..DEEP {
        let x = columns.each_ref().map(|column| isa.load_line(&column[line]));
        for (sums, row) in sums.iter_mut().zip(rows) {
            let dy = isa.load_line(&row[line]);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = isa.fma_halves(dy, x, *sum);
            }
        }
    }
    sums
}
