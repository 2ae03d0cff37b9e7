//! Execution plans for [`spmm`](super::spmm) and [`sddmm`](super::sddmm): the non-zeros of a matrix in
//! the order in which the kernels meet them.

use super::blocking::{Blocking, ZERO};
use super::panel::{Panel, panels};
use crate::SparsePattern;
use rayon::prelude::*;
use std::ops::Range;

/// The order of execution of one sparse matrix.
///
/// **What the kernels rely on**, since they do not check again: rows are below `rows`, or [`NO_ROW`] in
/// slots without non-zeros; every place is below the width of its K block; a panel has as many places and
/// sources as its counts say, which fit 16 bits; every non-zero of the matrix is the source of exactly one
/// packed value.
/// [`PanelPlan::new`] and [`PanelPlan::of_twin`] make plans, and nothing changes one.
pub(super) struct PanelPlan {
    rows: usize,
    columns: usize,
    nnz: usize,
    blocking: Blocking,
    k_blocks: usize,
    laid: Laid,
    /// One entry per (row block, K block), and one at the end.
    starts: Vec<BlockStart>,
}

/// Panels one after the other.
#[derive(Default)]
struct Laid {
    /// Row of every panel slot, [`NO_ROW`] where the last panel of a block is short.
    panel_rows: Vec<u32>,
    /// For every panel the number of columns of each set of several rows in their order, whole groups
    /// each, then the number of [rounds](Blocking::round) of columns of single rows.
    counts: Vec<u16>,
    /// Place inside the K block of every column of every panel.
    places: Vec<u16>,
    /// CSR position of every packed value.
    source: Vec<u32>,
}

impl Laid {
    /// With room for so many non-zeros, and for what pads them.
    fn with_room(nnz: usize) -> Self {
        let room = nnz + nnz / 4;
        let (places, source) = (Vec::with_capacity(room), Vec::with_capacity(room));
        Self { places, source, ..Self::default() }
    }

    /// Adds a panel of that blocking.
    fn add_panel(&mut self, panel: &Panel, blocking: Blocking) {
        let panel_rows = blocking.panel_rows;
        // The non-zeros of a row that lie together.
        let together = if blocking.pairs() { 2 } else { 1 };
        let row = |slot| panel.rows.get(slot).map_or(NO_ROW, |&row| row as u32);
        self.panel_rows.extend((0..panel_rows).map(row));
        for &set in blocking.shared() {
            self.counts.push(count(panel.columns[set].len()));
            for columns in panel.columns[set].chunks(together) {
                columns.iter().for_each(|column| self.places.push(column.place));
                for row in (0..panel_rows).filter(|row| set >> row & 1 == 1) {
                    columns.iter().for_each(|column| self.source.push(column.source[row]));
                }
            }
        }
        self.counts.push(count(panel.columns[1].len() * panel_rows / blocking.round()));
        for at in (0..panel.columns[1].len()).step_by(together) {
            for row in 0..panel_rows {
                for column in &panel.columns[1 << row][at..at + together] {
                    self.places.push(column.place);
                    self.source.push(column.source[row]);
                }
            }
        }
    }

    /// Adds the panels of another.
    fn append(&mut self, other: &Self) {
        self.panel_rows.extend_from_slice(&other.panel_rows);
        self.counts.extend_from_slice(&other.counts);
        self.places.extend_from_slice(&other.places);
        self.source.extend_from_slice(&other.source);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct BlockStart {
    panel: usize,
    column: usize,
    value: usize,
}

/// The part of a plan for one row block and K block.
pub(super) struct Block<'a> {
    range: Range<usize>,
    columns: Range<usize>,
    pub(super) rows: &'a [u32],
    pub(super) counts: &'a [u16],
    pub(super) places: &'a [u16],
    pub(super) values: Range<usize>,
    panels: usize,
    row_sets: usize,
}

impl Block<'_> {
    /// The matrix rows of the row block.
    #[inline(always)]
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The matrix columns of the K block.
    #[inline(always)]
    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    #[inline(always)]
    pub(super) fn panels(&self) -> usize {
        self.panels
    }

    /// Counts of each panel.
    #[inline(always)]
    pub(super) fn row_sets(&self) -> usize {
        self.row_sets
    }
}

/// Columns of the widest K block that is run as one, so that every count of a panel fits 16 bits. Loops
/// of the kernels count in 16 bits too: with 32, the compiler unrolls them, at the cost of a tenth of their
/// speed.
const WIDEST: usize = 1 << 15;

/// A count of a panel's columns or rounds, at most [`WIDEST`] and what pads it.
fn count(count: usize) -> u16 {
    count.try_into().expect("K blocks are narrow enough for 16 bits")
}

/// Marks a slot of a panel that has no row.
pub(super) const NO_ROW: u32 = u32::MAX;

impl PanelPlan {
    /// Plans the products with a matrix of that pattern.
    /// # Panics
    /// If `blocking` is out of range.
    #[track_caller]
    pub(super) fn new(pattern: &SparsePattern, blocking: Blocking) -> Self {
        assert!(blocking.is_valid(), "{blocking:?}");
        let blocking = Blocking { k_block: blocking.k_block.min(WIDEST), ..blocking };
        let Blocking { k_block, row_block, .. } = blocking;
        let k_blocks = pattern.columns().div_ceil(k_block).max(1);
        let mut plan = Self {
            rows: pattern.rows(),
            columns: pattern.columns(),
            nnz: pattern.nnz(),
            blocking,
            k_blocks,
            laid: Laid::with_room(pattern.nnz()),
            starts: Vec::new(),
        };
        let area = (pattern.rows() * pattern.columns()).max(1);
        let width = k_block.min(pattern.columns());
        for first_row in (0..pattern.rows()).step_by(row_block) {
            let rows = first_row..(first_row + row_block).min(pattern.rows());
            // Panels are large, and gone as soon as they are laid.
            let laid = |k: usize| {
                let panels = panels(pattern, blocking, rows.clone(), k * k_block);
                let mut laid = Laid::with_room(rows.len() * width * pattern.nnz() / area);
                panels.iter().for_each(|panel| laid.add_panel(panel, blocking));
                laid
            };
            let blocks: Vec<Laid> = (0..k_blocks).into_par_iter().map(laid).collect();
            for laid in &blocks {
                plan.starts.push(plan.here());
                plan.laid.append(laid);
            }
        }
        plan.starts.push(plan.here());
        plan.laid.places.shrink_to_fit();
        plan.laid.source.shrink_to_fit();
        plan
    }

    fn here(&self) -> BlockStart {
        BlockStart {
            panel: self.laid.panel_rows.len() / self.blocking.panel_rows,
            column: self.laid.places.len(),
            value: self.laid.source.len(),
        }
    }

    /// Plans the products with the transpose of a matrix, whose values are taken from the matrix.
    /// # Panics
    /// If `blocking` is out of range.
    #[track_caller]
    pub(super) fn of_twin(pattern: &SparsePattern, blocking: Blocking) -> Self {
        let (twin, positions) = pattern.transpose();
        let mut plan = Self::new(&twin, blocking);
        for source in plan.laid.source.iter_mut().filter(|source| **source != ZERO) {
            *source = positions[*source as usize];
        }
        plan
    }

    /// Rows of the matrix.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Non-zeros of the matrix.
    pub(super) fn nnz(&self) -> usize {
        self.nnz
    }

    /// Words of packed values, the non-zeros of the matrix and the zeros that pad row sets: one each, or
    /// one for a pair.
    pub(super) fn packed_len(&self) -> usize {
        self.laid.source.len() / if self.blocking.pairs() { 2 } else { 1 }
    }

    /// Tile sizes of the plan.
    pub(super) fn blocking(&self) -> Blocking {
        self.blocking
    }

    pub(super) fn row_blocks(&self) -> usize {
        self.rows.div_ceil(self.blocking.row_block)
    }

    pub(super) fn k_blocks(&self) -> usize {
        self.k_blocks
    }

    #[inline(always)]
    pub(super) fn block(&self, row_block: usize, k_block: usize) -> Block<'_> {
        let at = row_block * self.k_blocks + k_block;
        let (from, to) = (self.starts[at], self.starts[at + 1]);
        let r = self.blocking.panel_rows;
        let row_sets = self.blocking.shared().len() + 1;
        let first_row = row_block * self.blocking.row_block;
        let first = k_block * self.blocking.k_block;
        Block {
            range: first_row..(first_row + self.blocking.row_block).min(self.rows),
            columns: first..(first + self.blocking.k_block).min(self.columns),
            rows: &self.laid.panel_rows[from.panel * r..to.panel * r],
            counts: &self.laid.counts[from.panel * row_sets..to.panel * row_sets],
            places: &self.laid.places[from.column..to.column],
            values: from.value..to.value,
            panels: to.panel - from.panel,
            row_sets,
        }
    }

    /// CSR position of every packed value, or [`ZERO`], in the order of execution.
    pub(super) fn source(&self) -> &[u32] {
        &self.laid.source
    }
}
