//! Left operands in the order of the micro-kernel.

use super::left::Left;
use super::micro::PANEL;
use super::product::{K_BLOCK, Out, ROW_BLOCK, Source, range, run};
use crate::isa::IsaKind;
use crate::ops::extent::size;
use crate::parallel::{SharedMut, for_each_block};
use crate::{AlignedBuffer, Scratch};
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
        run(isa, source, b, c, out, accumulate);
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

    /// Packs A for the length of a computation.
    pub fn pack_scratch(&self) -> Packed<Scratch> {
        let mut values = Scratch::take(size(&[self.rows, self.cols]));
        self.write(&mut values);
        Packed { values, rows: self.rows, cols: self.cols }
    }

    /// Packs A over another matrix of its shape.
    /// # Panics
    /// If it has another shape.
    #[track_caller]
    pub(crate) fn pack_into(&self, packed: &mut Packed) {
        assert_eq!((packed.rows, packed.cols), (self.rows, self.cols), "another shape");
        self.write(&mut packed.values);
    }

    fn write(&self, to: &mut [f32]) {
        let row_blocks = self.rows.div_ceil(ROW_BLOCK);
        let shared = SharedMut::new(to);
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
    }
}
