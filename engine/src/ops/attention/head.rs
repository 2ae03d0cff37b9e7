//! Where the lines of one head lie, and how its work is cut.

use super::super::lines::{Line, lines};
use mediswift_kernels::LANES;

/// Query tiles (and, in the backward pass, key tiles) of a block: the widest micro-kernel's.
pub(super) const BLOCK: usize = 4;

/// Elements of a 16 × 16 block of scores.
pub(super) const SQUARE: usize = LANES * LANES;

/// One head of one sequence: where its lines lie.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) sequence: usize,
    pub(super) head: usize,
    pub(super) heads: usize,
    pub(super) head_features: usize,
    /// Tiles of the sequence.
    pub(super) tiles: usize,
}

/// Q, K or V.
#[derive(Clone, Copy)]
pub(super) enum Third {
    Q,
    K,
    V,
}

impl Head {
    /// Offset of this head's first line in `tile` of the sequence, in tiles of one third.
    pub(super) fn output(self, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        (tile * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the first line of Q, K or V in `tile` of the sequence, in tiles of all three thirds.
    pub(super) fn input(self, third: Third, tile: usize) -> usize {
        let tile = self.sequence * self.tiles + tile;
        ((3 * tile + third as usize) * self.heads + self.head) * self.head_features * LANES
    }

    /// Offset of the line with one value per query.
    pub(super) fn saved(self, tile: usize) -> usize {
        ((self.sequence * self.tiles + tile) * self.heads + self.head) * LANES
    }

    /// Distance of tiles that hold Q, K and V.
    pub(super) fn input_tile(self) -> usize {
        3 * self.heads * self.head_features * LANES
    }

    /// Distance of tiles of one third.
    pub(super) fn output_tile(self) -> usize {
        self.heads * self.head_features * LANES
    }

    /// Elements of a tile of [packed](super::operand::Operand) pairs of features.
    pub(super) fn packed_tile(self) -> usize {
        self.head_features.div_ceil(2) * LANES
    }

    /// Elements of a block of packed pairs of tokens.
    pub(super) fn packed_block(self) -> usize {
        BLOCK * self.packed_tile()
    }

    /// Elements of all packed pairs, of features or of tokens.
    pub(super) fn packed(self) -> usize {
        self.tiles.div_ceil(BLOCK) * self.packed_block()
    }

    /// Lines of this head at `offset`.
    #[inline(always)]
    pub(super) fn lines(self, data: &[f32], offset: usize) -> &[Line] {
        lines(&data[offset..offset + self.head_features * LANES])
    }

    /// α.
    pub(super) fn scale(self) -> f32 {
        1.0 / (self.head_features as f32).sqrt()
    }
}
