//! Left operands in the order of the micro-kernel.

use super::left::Left;
use super::micro::PANEL;
use crate::ops::extent::size;
use crate::parallel::{SharedMut, for_each_block};
use crate::{AlignedBuffer, Scratch};
use std::ops::Range;

/// Columns of A per block: a B panel of four tiles is then 32 KB and stays in a 48 KB L1.
pub(super) const K_BLOCK: usize = 128;
/// Rows of A per parallel task: packed, 192 × 128 takes 96 KB of L2.
pub(super) const ROW_BLOCK: usize = 32 * PANEL;

/// A matrix A `[rows, cols]` packed as `[k block][row panel][k][panel row]`; a last panel holds the rows
/// left over.
pub struct Packed<B = AlignedBuffer> {
    pub(super) values: B,
    pub(super) rows: usize,
    pub(super) cols: usize,
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

/// Block `block` of `size`, cut off at the end.
pub(super) fn range(block: usize, size: usize, end: usize) -> Range<usize> {
    block * size..((block + 1) * size).min(end)
}
