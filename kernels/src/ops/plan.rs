//! Execution plans for [`spmm`](super::spmm): the non-zeros of a matrix in the order in which the
//! kernel meets them.

use crate::SparsePattern;
use std::ops::Range;

/// Tile sizes of a plan. They are data: chosen by
/// [`SpmmStrategy::estimate`](super::SpmmStrategy::estimate) or by measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Rows of a panel: 1, 2 or 4.
    pub panel_rows: usize,
    /// Tiles that a micro-kernel works on at once: 1, 2 or 4.
    pub vectors: usize,
    /// Columns of a K block, at most 65,536.
    pub k_block: usize,
    /// Rows of a row block, the unit of parallel work.
    pub row_block: usize,
    /// K blocks that one group of tiles meets before the next group does: many keep Y in L2, few
    /// keep W there.
    pub k_pass: usize,
}

/// Patterns of non-zeros in the rows of a panel, in the order in which the kernel runs them.
const ORDER_1: [usize; 1] = [1];
const ORDER_2: [usize; 3] = [3, 1, 2];
const ORDER_4: [usize; 15] = [15, 7, 11, 13, 14, 3, 12, 5, 10, 9, 6, 1, 2, 4, 8];

/// Where a multi-row pattern goes when its column is demoted: two smaller patterns.
fn split(pattern: usize) -> (usize, usize) {
    match pattern {
        15 => (3, 12),
        7 => (3, 4),
        11 => (3, 8),
        13 => (12, 1),
        14 => (12, 2),
        _ => {
            let low = pattern & pattern.wrapping_neg();
            (low, pattern ^ low)
        }
    }
}

/// The order of execution of one sparse matrix.
#[derive(Clone, Debug)]
pub struct PanelPlan {
    rows: usize,
    columns: usize,
    blocking: Blocking,
    k_blocks: usize,
    /// Row of every panel slot, [`PanelPlan::NO_ROW`] where the last panel of a block is short.
    panel_rows: Vec<u32>,
    /// For every panel the number of columns of every pattern 1, 2, ….
    counts: Vec<u16>,
    /// Column inside the K block of every step.
    column_steps: Vec<u16>,
    /// CSR position of every packed value.
    source: Vec<u32>,
    /// One entry per (row block, K block), and one at the end.
    starts: Vec<BlockStart>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BlockStart {
    panel: usize,
    column: usize,
    value: usize,
}

/// The part of a plan for one row block and K block.
pub(super) struct Block<'a> {
    columns: Range<usize>,
    pub(super) rows: &'a [u32],
    pub(super) counts: &'a [u16],
    pub(super) steps: &'a [u16],
    pub(super) values: Range<usize>,
    panels: usize,
}

impl Block<'_> {
    /// The matrix columns of the K block.
    #[inline(always)]
    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    #[inline(always)]
    pub(super) fn panels(&self) -> usize {
        self.panels
    }
}

impl PanelPlan {
    /// Marks a slot of a panel that has no row.
    pub const NO_ROW: u32 = u32::MAX;

    /// Plans the products with a matrix of that pattern.
    /// # Panics
    /// If `blocking` is out of range.
    #[track_caller]
    pub fn new(pattern: &SparsePattern, blocking: Blocking) -> Self {
        let Blocking { k_block, row_block, .. } = blocking;
        assert!(blocking.is_valid(), "{blocking:?}");
        let k_blocks = pattern.columns().div_ceil(k_block).max(1);
        let mut plan = Self {
            rows: pattern.rows(),
            columns: pattern.columns(),
            blocking,
            k_blocks,
            panel_rows: Vec::new(),
            counts: Vec::new(),
            column_steps: Vec::with_capacity(pattern.nnz()),
            source: Vec::with_capacity(pattern.nnz()),
            starts: Vec::new(),
        };
        // CSR position up to which each row of the row block has been planned.
        let mut next: Vec<usize> = pattern.row_offsets().iter().map(|&o| o as usize).collect();
        for first_row in (0..pattern.rows()).step_by(row_block) {
            let rows = first_row..(first_row + row_block).min(pattern.rows());
            for k in 0..k_blocks {
                plan.starts.push(plan.here());
                plan.add_block(pattern, rows.clone(), k * k_block, &mut next);
            }
        }
        plan.starts.push(plan.here());
        plan
    }

    fn here(&self) -> BlockStart {
        BlockStart {
            panel: self.panel_rows.len() / self.blocking.panel_rows,
            column: self.column_steps.len(),
            value: self.source.len(),
        }
    }

    fn add_block(
        &mut self,
        pattern: &SparsePattern,
        rows: Range<usize>,
        first_column: usize,
        next: &mut [usize],
    ) {
        let end_column = (first_column + self.blocking.k_block) as u64;
        let mut segments: Vec<(usize, Range<usize>)> = rows
            .map(|row| {
                let from = next[row];
                let rest = &pattern.column_indices()[from..pattern.row_range(row).end];
                let count = rest.partition_point(|&c| u64::from(c) < end_column);
                next[row] = from + count;
                (row, from..from + count)
            })
            .collect();
        // Stable, so that the plan is a function of the pattern alone.
        segments.sort_by_key(|(_, segment)| segment.len());
        let panels: Vec<Panel> = segments
            .chunks(self.blocking.panel_rows)
            .map(|segments| Panel::new(pattern, segments, first_column))
            .collect();
        let limits = self.limits(&panels);
        for mut panel in panels {
            panel.demote(self.order(), &limits);
            self.panel_rows.extend(
                (0..self.blocking.panel_rows)
                    .map(|slot| panel.rows.get(slot).map_or(Self::NO_ROW, |&row| row as u32)),
            );
            self.counts.extend(panel.columns[1..].iter().map(|columns| columns.len() as u16));
            for &bits in self.order() {
                for step in &panel.columns[bits] {
                    self.column_steps.push(step.column);
                    let rows = (0..self.blocking.panel_rows).filter(|row| bits >> row & 1 == 1);
                    self.source.extend(rows.map(|row| step.source[row]));
                }
            }
        }
    }

    fn order(&self) -> &'static [usize] {
        match self.blocking.panel_rows {
            1 => &ORDER_1,
            2 => &ORDER_2,
            _ => &ORDER_4,
        }
    }

    /// How many columns each multi-row pattern may keep: what three quarters of the panels have,
    /// after the demotions from above.
    fn limits(&self, panels: &[Panel]) -> [usize; 16] {
        let mut limits = [usize::MAX; 16];
        let mut counts: Vec<[usize; 16]> = panels
            .iter()
            .map(|p| std::array::from_fn(|b| p.columns.get(b).map_or(0, Vec::len)))
            .collect();
        for &bits in self.order().iter().filter(|bits| bits.count_ones() > 1) {
            let mut sorted: Vec<usize> = counts.iter().map(|c| c[bits]).collect();
            sorted.sort_unstable();
            let limit = sorted.get(sorted.len() / 4).copied().unwrap_or(0);
            limits[bits] = limit;
            let (a, b) = split(bits);
            for counts in &mut counts {
                let surplus = counts[bits].saturating_sub(limit);
                counts[bits] -= surplus;
                counts[a] += surplus;
                counts[b] += surplus;
            }
        }
        limits
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Non-zeros of the matrix.
    pub fn nnz(&self) -> usize {
        self.source.len()
    }

    /// Tile sizes of the plan.
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    pub(super) fn panel_rows(&self) -> usize {
        self.blocking.panel_rows
    }

    pub(super) fn vectors(&self) -> usize {
        self.blocking.vectors
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
        let patterns = (1 << r) - 1;
        let first = k_block * self.blocking.k_block;
        Block {
            columns: first..(first + self.blocking.k_block).min(self.columns),
            rows: &self.panel_rows[from.panel * r..to.panel * r],
            counts: &self.counts[from.panel * patterns..to.panel * patterns],
            steps: &self.column_steps[from.column..to.column],
            values: from.value..to.value,
            panels: to.panel - from.panel,
        }
    }

    /// CSR position of every packed value, in the order of execution: a permutation.
    pub fn source(&self) -> &[u32] {
        &self.source
    }

    /// The same plan for values that lie elsewhere: packed value i is then at `positions[source[i]]`.
    pub fn compose(mut self, positions: &[u32]) -> Self {
        for source in &mut self.source {
            *source = positions[*source as usize];
        }
        self
    }
}

/// One column of a panel: its place in the K block and the CSR position of each row's non-zero.
#[derive(Clone, Copy)]
struct Step {
    column: u16,
    source: [u32; 4],
}

/// A panel under construction: columns by pattern.
struct Panel {
    rows: Vec<usize>,
    columns: Vec<Vec<Step>>,
}

impl Panel {
    fn new(
        pattern: &SparsePattern,
        segments: &[(usize, Range<usize>)],
        first_column: usize,
    ) -> Self {
        let mut columns = vec![Vec::new(); 16];
        let mut heads: Vec<Range<usize>> =
            segments.iter().map(|(_, range)| range.clone()).collect();
        loop {
            let column_of = |at: usize| pattern.column_indices()[at];
            let left = heads.iter().filter(|h| !h.is_empty());
            let Some(column) = left.map(|h| column_of(h.start)).min() else { break };
            let mut step = Step { column: (column as usize - first_column) as u16, source: [0; 4] };
            let mut bits = 0;
            for (row, head) in heads.iter_mut().enumerate() {
                if head.start < head.end && pattern.column_indices()[head.start] == column {
                    step.source[row] = head.start as u32;
                    bits |= 1 << row;
                    head.start += 1;
                }
            }
            columns[bits].push(step);
        }
        Self { rows: segments.iter().map(|&(row, _)| row).collect(), columns }
    }

    /// Moves the columns beyond each pattern's limit to smaller patterns.
    fn demote(&mut self, order: &[usize], limits: &[usize; 16]) {
        for &bits in order.iter().filter(|bits| bits.count_ones() > 1) {
            if self.columns[bits].len() > limits[bits] {
                let surplus = self.columns[bits].split_off(limits[bits]);
                let (a, b) = split(bits);
                self.columns[a].extend_from_slice(&surplus);
                self.columns[b].extend(surplus);
            }
        }
        self.columns.truncate(order.len() + 1);
    }
}

impl Blocking {
    /// Whether the kernel can run it.
    pub fn is_valid(&self) -> bool {
        matches!(self.panel_rows, 1 | 2 | 4)
            && matches!(self.vectors, 1 | 2 | 4)
            && (1..=1 << 16).contains(&self.k_block)
            && self.row_block > 0
            && self.k_pass > 0
    }
}
