//! Left operands in the order of the micro-kernel.

use super::left::{Form, Left};
use super::micro::PANEL;
use super::product::{K_BLOCK, Out, ROW_BLOCK, Right, Source, range, run};
use crate::isa::{Isa, IsaKind, Kernel, dispatch};
use crate::ops::extent::size;
use crate::parallel::{SharedMut, for_each_block};
use crate::rounding::bf16_pair;
use crate::{AlignedBuffer, Scratch};
use std::ops::{Deref, Range};

/// A matrix A `[rows, cols]` packed as `[k block][row panel][k][panel row]`; a last panel holds the rows
/// left over.
pub struct Packed<B = AlignedBuffer> {
    values: B,
    rows: usize,
    cols: usize,
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
        run(isa, source, Right::Numbers(b), c, out, accumulate);
    }
}

impl Packed {
    /// C (+)= A · B of f16, as [`gemm_halves_on`](super::gemm_halves_on).
    /// # Panics
    /// If the shapes disagree or the machine lacks `isa`.
    #[track_caller]
    pub(crate) fn multiply_halves_on(
        &self,
        isa: IsaKind,
        b: &[f32],
        c: &mut [f32],
        accumulate: bool,
    ) {
        let Self { values, rows, cols } = self;
        let source = Source::Packed { values, rows: *rows, cols: *cols };
        run(isa, source, Right::Halves(b), c, Out::Tiles, accumulate);
    }
}

impl Left<'_> {
    /// Packs A into memory of its own, to keep.
    pub(crate) fn pack(&self) -> Packed {
        let values = AlignedBuffer::zeros(size(&[self.rows, self.cols]));
        let mut packed = Packed { values, rows: self.rows, cols: self.cols };
        self.pack_into(&mut packed);
        packed
    }

    /// Packs A, rounded to bf16, into memory of its own.
    pub(crate) fn pack_pairs(&self) -> PackedPairs {
        let cols = self.cols.div_ceil(2);
        let values = AlignedBuffer::zeros(size(&[self.rows, cols]));
        let packed = Packed { values, rows: self.rows, cols };
        let mut packed = PackedPairs { packed, features: self.cols };
        self.pack_pairs_into(&mut packed);
        packed
    }

    /// Packs A, rounded to bf16, over another matrix of its shape.
    /// # Panics
    /// If it has another shape.
    #[track_caller]
    pub(crate) fn pack_pairs_into(&self, pairs: &mut PackedPairs) {
        let PackedPairs { packed, features } = pairs;
        assert_eq!((packed.rows, *features), (self.rows, self.cols), "another shape");
        let a = *self;
        self.write(&mut packed.values, packed.cols, |rows, pairs, to| {
            dispatch(PackPairs { a, rows, pairs, to });
        });
    }

    /// Packs A for the length of a computation.
    pub fn pack_scratch(&self) -> Packed<Scratch> {
        let mut values = Scratch::take(size(&[self.rows, self.cols]));
        self.write_numbers(&mut values);
        Packed { values, rows: self.rows, cols: self.cols }
    }

    /// Packs A over another matrix of its shape.
    /// # Panics
    /// If it has another shape.
    #[track_caller]
    pub(crate) fn pack_into(&self, packed: &mut Packed) {
        assert_eq!((packed.rows, packed.cols), (self.rows, self.cols), "another shape");
        self.write_numbers(&mut packed.values);
    }

    fn write_numbers(&self, to: &mut [f32]) {
        self.write(to, self.cols, |rows, ks, mut to| {
            if matches!(self.form(), Form::Columns) {
                // Columns may lie a page apart: each is read once, for all panels.
                for (place, k) in ks.clone().enumerate() {
                    let column = &self.data[self.column_offset(k) + rows.start..][..rows.len()];
                    share_out(column, place, ks.len(), to);
                }
                return;
            }
            for panel in rows.clone().step_by(PANEL) {
                let panel = panel..rows.end.min(panel + PANEL);
                for k in ks.clone() {
                    let (line, rest) = to.split_at_mut(panel.len());
                    for (row, to) in panel.clone().zip(line) {
                        *to = self.data[row * self.row_stride + self.column_offset(k)];
                    }
                    to = rest;
                }
            }
        });
    }

    /// Writes the elements of a matrix with this one's rows and `cols` columns in the order of the
    /// micro-kernel: `fill` writes those of a block of rows and columns, `[panel][column][panel row]`.
    fn write(
        &self,
        to: &mut [f32],
        cols: usize,
        fill: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
    ) {
        let row_blocks = self.rows.div_ceil(ROW_BLOCK);
        let shared = SharedMut::new(to);
        for_each_block(cols.div_ceil(K_BLOCK) * row_blocks, |task| {
            let ks = range(task / row_blocks, K_BLOCK, cols);
            let rows = range(task % row_blocks, ROW_BLOCK, self.rows);
            // SAFETY: the (k block, row block) pairs are disjoint ranges of the packed values.
            let to = unsafe {
                let from = ks.start * self.rows + rows.start * ks.len();
                shared.slice(from, rows.len() * ks.len())
            };
            fill(rows, ks, to);
        });
    }
}

/// Writes the column at one place of a block of so many columns to its panels.
#[inline(always)]
fn share_out(column: &[f32], place: usize, columns: usize, to: &mut [f32]) {
    let (panels, last) = column.as_chunks::<PANEL>();
    for (panel, numbers) in panels.iter().enumerate() {
        let from = panel * PANEL * columns + place * PANEL;
        to[from..from + PANEL].copy_from_slice(numbers);
    }
    let from = panels.len() * PANEL * columns + place * last.len();
    to[from..from + last.len()].copy_from_slice(last);
}

/// Writes a block of pairs of bf16 in the order of the micro-kernel. What lies together is rounded together, as
/// vector code, and shared out to the panels after that.
struct PackPairs<'a> {
    a: Left<'a>,
    rows: Range<usize>,
    pairs: Range<usize>,
    to: &'a mut [f32],
}

impl Kernel for PackPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        let Self { a, rows, pairs, to } = self;
        match a.form() {
            Form::Columns => {
                let (mut words, nothing) = ([0.0; ROW_BLOCK], [0.0; ROW_BLOCK]);
                let (words, nothing) = (&mut words[..rows.len()], &nothing[..rows.len()]);
                for (place, pair) in pairs.clone().enumerate() {
                    let low = &a.data[a.column_offset(2 * pair) + rows.start..][..rows.len()];
                    let high = match 2 * pair + 1 < a.cols {
                        true => &a.data[a.column_offset(2 * pair + 1) + rows.start..][..rows.len()],
                        false => nothing,
                    };
                    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                        *word = bf16_pair(*low, *high);
                    }
                    share_out(words, place, pairs.len(), to);
                }
            }
            Form::Rows => {
                let mut words = [0.0; K_BLOCK];
                let words = &mut words[..pairs.len()];
                for (place, row) in rows.clone().enumerate() {
                    let row =
                        &a.data[row * a.row_stride + 2 * pairs.start..][..a.cols - 2 * pairs.start];
                    let (twos, rest) = row.as_chunks::<2>();
                    for (word, [low, high]) in words.iter_mut().zip(twos) {
                        *word = bf16_pair(*low, *high);
                    }
                    if let (Some(word), Some(&low)) = (words.get_mut(twos.len()), rest.first()) {
                        *word = bf16_pair(low, 0.0);
                    }
                    let panel = place - place % PANEL;
                    let panel_rows = PANEL.min(rows.len() - panel);
                    let to = &mut to[panel * pairs.len() + place % PANEL..];
                    let to = to.iter_mut().step_by(panel_rows);
                    to.zip(&*words).for_each(|(to, word)| *to = *word);
                }
            }
            Form::Tiles => unreachable!("weights are no activations"),
        }
    }
}

/// A matrix A `[rows, features]` packed as words of two bf16 each, neighbours of a row.
pub(crate) struct PackedPairs {
    packed: Packed,
    features: usize,
}

impl PackedPairs {
    /// C (+)= A · B with [lines](crate::precision) of bf16, as words, for B.
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
        let Packed { values, rows, cols } = &self.packed;
        let source = Source::Packed { values, rows: *rows, cols: *cols };
        run(isa, source, Right::Features(b, self.features), c, out, accumulate);
    }
}
