//! [`Left`]: the left operand.

use crate::LANES;
use crate::ops::extent::{size, tiles};

/// All columns in one block.
const WHOLE: u32 = usize::BITS - 1;

/// The left operand A `[rows, cols]`, in any of the layouts the engine meets.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    col_stride: usize,
    /// Columns come in blocks of 2 to the power of this…
    block_bits: u32,
    /// …which lie this far apart.
    pub(super) block_stride: usize,
}

impl<'a> Left<'a> {
    /// A row-major matrix `[rows, cols]`.
    /// # Panics
    /// If `data` does not have that many elements.
    #[track_caller]
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), size(&[rows, cols]), "matrix data and shape disagree");
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
    /// # Panics
    /// If `data` does not have that many elements.
    #[track_caller]
    pub fn transposed(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), size(&[rows, cols]), "matrix data and shape disagree");
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
    /// # Panics
    /// If there are no features, or `data` is not made of whole tiles.
    #[track_caller]
    pub fn tiles(data: &'a [f32], features: usize) -> Self {
        assert!(features > 0, "tiles without features make no matrix");
        let cols = tiles("A", data, features) * LANES;
        Self {
            data,
            rows: features,
            cols,
            row_stride: LANES,
            col_stride: 1,
            block_bits: LANES.trailing_zeros(),
            block_stride: features * LANES,
        }
    }

    /// Where element (0, `col`) lies.
    #[inline(always)]
    pub(super) fn column_offset(&self, col: usize) -> usize {
        let inside = col & ((1 << self.block_bits) - 1);
        (col >> self.block_bits) * self.block_stride + inside * self.col_stride
    }

    /// What the product can read as it is.
    pub(super) fn form(&self) -> Form {
        match (self.block_bits, self.col_stride) {
            (WHOLE, 1) => Form::Rows,
            (WHOLE, _) => Form::Columns,
            _ => Form::Tiles,
        }
    }
}

/// How the elements of a left operand lie.
pub(super) enum Form {
    /// Those of a row together.
    Rows,
    /// Those of a row apart.
    Columns,
    /// As activations.
    Tiles,
}
