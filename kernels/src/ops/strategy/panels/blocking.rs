//! [`Blocking`]: the tile sizes of panels, and the groups that packed values come in.

use crate::ops::arithmetic::Words;

/// Tile sizes of a plan. They are data: chosen by
/// [`LayerPlan::estimate`](crate::ops::LayerPlan::estimate) or by measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocking {
    /// Rows of a panel: 1, 2 or 4.
    pub panel_rows: usize,
    /// Tiles that a micro-kernel works on at once, or lines of halves: 1, 2 or 4, or 8 with at most two rows.
    pub vectors: usize,
    /// Sums of each row that single-row columns go to in turn: 1, or 2 where rows × vectors alone are
    /// too few independent sums to hide the latency of an FMA.
    pub unroll: usize,
    /// Columns of a K block, at most 65,536; wider ones than 2,048 are cut.
    pub k_block: usize,
    /// Rows of a row block, the unit of parallel work.
    pub row_block: usize,
    /// K blocks that one group of tiles meets before the next group does: many keep Y in L2, few
    /// keep W there.
    pub k_pass: usize,
    /// What is multiplied: of pairs, the non-zeros of a row come two by two.
    pub words: Words,
}

impl Blocking {
    /// Whether the kernel can run it.
    pub(super) fn is_valid(&self) -> bool {
        matches!(self.panel_rows, 1 | 2 | 4)
            && (matches!(self.vectors, 1 | 2 | 4) || self.vectors == 8 && self.panel_rows <= 2)
            && (self.unroll == 1 || self.unroll == 2 && self.panel_rows * self.vectors <= 4)
            && (self.words == Words::Numbers || self.unroll == 1)
            && (self.words != Words::Pairs || self.vectors >= 2)
            && (1..=1 << 16).contains(&self.k_block)
            && self.row_block > 0
            && self.k_pass > 0
    }

    /// Sets of several rows of a panel, as bits, in the order in which the kernels run them; columns of
    /// a single row come last.
    pub(super) fn shared(&self) -> &'static [usize] {
        match self.panel_rows {
            1 => &[],
            2 => &[3],
            _ => &[15, 7, 11, 13, 14, 3, 12, 5, 10, 9, 6],
        }
    }
}

impl Blocking {
    /// Whether the non-zeros of a row come two by two.
    pub(super) fn pairs(&self) -> bool {
        self.words == Words::Pairs
    }

    /// Non-zeros of a row that lie together, in a word.
    pub(super) fn together(&self) -> usize {
        if self.pairs() { 2 } else { 1 }
    }

    /// Tiles that a micro-kernel works on at once.
    pub(super) fn tiles(&self) -> usize {
        self.vectors * self.words.tiles()
    }

    /// Tiles, or lines of two, that the weight gradient works on at once where so many are left: 1, 2, 4 or 8.
    pub(super) fn at_once(&self, left: usize) -> usize {
        1 << self.vectors.min(left).ilog2()
    }

    /// Columns of a row set that come together: whole groups of values, and whole pairs.
    pub(super) fn whole(&self, set: usize) -> usize {
        whole_groups(set).max(self.together())
    }

    /// Columns of a round of single rows: as many of each row, in whole groups and whole pairs.
    pub(super) fn round(&self) -> usize {
        round(self.panel_rows, self.pairs())
    }
}

/// [`Blocking::round`].
pub(super) const fn round(panel_rows: usize, pairs: bool) -> usize {
    if pairs && panel_rows == 4 { 2 * GROUP } else { GROUP }
}

/// Packed values come in groups of so many: the weight gradient reduces as many sums together.
pub(super) const GROUP: usize = 4;

/// Columns of a row set that make whole groups of values.
pub(super) const fn whole_groups(rows: usize) -> usize {
    match rows.count_ones() {
        4 => 1,
        2 => 2,
        _ => 4,
    }
}
