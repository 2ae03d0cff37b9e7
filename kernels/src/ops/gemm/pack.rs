//! Left operands in the order of the micro-kernel.

use super::left::Left;
use super::micro::PANEL;
use super::product::{K_BLOCK, Out, ROW_BLOCK, Right, Source, range, run};
use crate::isa::IsaKind;
use crate::ops::extent::size;
use crate::parallel::{SharedMut, for_each_block};
use crate::{AlignedBuffer, Scratch};
use half::bf16;
use std::ops::Deref;

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
        let bits = |at: usize| u32::from(bf16::from_f32(self.data[at]).to_bits());
        self.write(&mut packed.values, packed.cols, |row, pair| {
            let at = |col| row * self.row_stride + self.column_offset(col);
            let low = bits(at(2 * pair));
            let high = if 2 * pair + 1 < self.cols { bits(at(2 * pair + 1)) } else { 0 };
            f32::from_bits(high << 16 | low)
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
        let number = |row, col| self.data[row * self.row_stride + self.column_offset(col)];
        self.write(to, self.cols, number);
    }

    /// Writes the elements of a matrix with this one's rows and `cols` columns in the order of the
    /// micro-kernel.
    fn write(&self, to: &mut [f32], cols: usize, element: impl Fn(usize, usize) -> f32 + Sync) {
        let row_blocks = self.rows.div_ceil(ROW_BLOCK);
        let shared = SharedMut::new(to);
        for_each_block(cols.div_ceil(K_BLOCK) * row_blocks, |task| {
            let ks = range(task / row_blocks, K_BLOCK, cols);
            let rows = range(task % row_blocks, ROW_BLOCK, self.rows);
            // SAFETY: the (k block, row block) pairs are disjoint ranges of the packed values.
            let mut to = unsafe {
                let from = ks.start * self.rows + rows.start * ks.len();
                shared.slice(from, rows.len() * ks.len())
            };
            for panel in rows.clone().step_by(PANEL) {
                let panel_rows = PANEL.min(rows.end - panel);
                for k in ks.clone() {
                    let (line, rest) = to.split_at_mut(panel_rows);
                    for (row, to) in line.iter_mut().enumerate() {
                        *to = element(panel + row, k);
                    }
                    to = rest;
                }
            }
        });
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
