//! Panels of one block: which rows go together, and their columns by the set of rows that have a
//! non-zero there.
//!
//! Rows of a panel share the loads of the columns that they have in common, so rows are put together
//! that share many: each panel starts with the sparsest row that is left and takes the rows, among
//! some of about as many non-zeros, that share most columns with it ([`group`]). Then the columns are made to
//! come in the same numbers in every panel of the block, so that the trip counts of the kernels' loops
//! are foreseeable: surplus columns of a set of several rows are *demoted* to two smaller sets, missing
//! ones *promoted* from a smaller one, with a zero in the place of the value that is not there.

use super::blocking::{Blocking, ZERO};
use crate::SparsePattern;
use std::ops::Range;

/// Rows that are looked at for a place in a panel.
const CANDIDATES: usize = 256;

/// A row of a block: its number, and where its non-zeros of the block lie in CSR order.
type Segment = (usize, Range<usize>);

/// The panels of some rows and a K block.
pub(super) fn panels(
    pattern: &SparsePattern,
    blocking: Blocking,
    rows: Range<usize>,
    first_column: usize,
) -> Vec<Panel> {
    let end_column = first_column + blocking.k_block;
    let mut segments: Vec<Segment> = rows
        .map(|row| {
            let all = pattern.row_range(row);
            let columns = &pattern.column_indices()[all.clone()];
            let before = |end: usize| columns.partition_point(|&c| (c as usize) < end);
            (row, all.start + before(first_column)..all.start + before(end_column))
        })
        .collect();
    // Stable, so that the plan is a function of the pattern alone.
    segments.sort_by_key(|(_, segment)| segment.len());
    let mut panels: Vec<Panel> = match blocking.panel_rows {
        1 => segments.chunks(1).map(|row| Panel::new(pattern, row, first_column)).collect(),
        rows => group(pattern, segments, rows, first_column, blocking.k_block)
            .iter()
            .map(|rows| Panel::new(pattern, rows, first_column))
            .collect(),
    };
    let targets = targets(&panels, blocking);
    for panel in &mut panels {
        panel.share(blocking.shared(), &targets);
        panel.level_singles(blocking);
    }
    panels
}

/// Puts rows together that have many columns in common.
fn group(
    pattern: &SparsePattern,
    segments: Vec<Segment>,
    panel_rows: usize,
    first_column: usize,
    k_block: usize,
) -> Vec<Vec<Segment>> {
    let words = k_block.div_ceil(64);
    let mut sets = vec![0u64; segments.len() * words];
    for (set, (_, segment)) in sets.chunks_exact_mut(words).zip(&segments) {
        for &column in &pattern.column_indices()[segment.clone()] {
            let column = column as usize - first_column;
            set[column / 64] |= 1 << (column % 64);
        }
    }
    let set = |row: usize| &sets[row * words..(row + 1) * words];
    let length = |row: usize| segments[row].1.len();
    // Rows that are left, in the order of their counts.
    let mut left: Vec<usize> = (0..segments.len()).collect();
    let mut groups = Vec::with_capacity(segments.len().div_ceil(panel_rows));
    let mut union = vec![0u64; words];
    while !left.is_empty() {
        let mut rows = vec![left.remove(0)];
        union.copy_from_slice(set(rows[0]));
        while rows.len() < panel_rows && !left.is_empty() {
            // A column in common saves a load; one that the shorter rows lack is padded in each.
            let gain = |row: usize| -> i64 {
                let both = set(row).iter().zip(&union).map(|(a, b)| (a & b).count_ones());
                i64::from(both.sum::<u32>()) - (length(row) - length(rows[0])) as i64
            };
            let candidates = left.iter().take(CANDIDATES).enumerate();
            // The first of equals: last in reverse.
            let best = candidates.rev().max_by_key(|&(_, &row)| gain(row));
            let row = left.remove(best.map_or(0, |(place, _)| place));
            union.iter_mut().zip(set(row)).for_each(|(union, set)| *union |= set);
            rows.push(row);
        }
        groups.push(rows.into_iter().map(|row| segments[row].clone()).collect());
    }
    groups
}

/// One column of a panel, or the part of it in a set of rows.
#[derive(Clone, Copy)]
pub(super) struct PanelColumn {
    /// Its place in the K block.
    pub place: u16,
    /// CSR position of each row's non-zero.
    pub source: [u32; 4],
}

impl PanelColumn {
    /// Zeros in the first column of the block.
    const PADDING: Self = Self { place: 0, source: [ZERO; 4] };

    /// The part of the column in some rows.
    fn only(self, set: usize) -> Self {
        let source = std::array::from_fn(|row| match set >> row & 1 {
            1 => self.source[row],
            _ => ZERO,
        });
        Self { source, ..self }
    }
}

/// A panel: columns by their row set, the bits of the rows that have a non-zero there.
pub(super) struct Panel {
    /// At most four rows of the matrix.
    pub rows: Vec<usize>,
    /// Those of each row set.
    pub columns: Vec<Vec<PanelColumn>>,
}

impl Panel {
    fn new(pattern: &SparsePattern, segments: &[Segment], first_column: usize) -> Self {
        let mut columns = vec![Vec::new(); 16];
        let mut heads: Vec<Range<usize>> =
            segments.iter().map(|(_, range)| range.clone()).collect();
        loop {
            let column_of = |at: usize| pattern.column_indices()[at];
            let left = heads.iter().filter(|h| !h.is_empty());
            let Some(column) = left.map(|h| column_of(h.start)).min() else { break };
            let place = (column as usize - first_column) as u16;
            let (mut source, mut set) = ([ZERO; 4], 0);
            for (row, head) in heads.iter_mut().enumerate() {
                if head.start < head.end && pattern.column_indices()[head.start] == column {
                    source[row] = head.start as u32;
                    set |= 1 << row;
                    head.start += 1;
                }
            }
            columns[set].push(PanelColumn { place, source });
        }
        Self { rows: segments.iter().map(|&(row, _)| row).collect(), columns }
    }

    /// Gives every set of several rows exactly its target of columns: surplus ones are demoted to two
    /// smaller sets, and missing ones promoted from a smaller set, with a zero for the row that has no
    /// non-zero there.
    fn share(&mut self, shared: &[usize], targets: &[usize; 16]) {
        for &set in shared {
            let kept = self.columns[set].len().min(targets[set]);
            let surplus = self.columns[set].split_off(kept);
            let (a, b) = split(set);
            for column in surplus {
                self.columns[a].push(column.only(a));
                self.columns[b].push(column.only(b));
            }
            while self.columns[set].len() < targets[set] {
                let smaller = (1..set).filter(|part| {
                    part & set == *part && part.count_ones() + 1 == set.count_ones()
                });
                // The one with most columns; the first of equals, for the plan must be a function.
                let from = smaller.rev().max_by_key(|&part| self.columns[part].len());
                let column = from.and_then(|part| self.columns[part].pop());
                self.columns[set].push(column.unwrap_or(PanelColumn::PADDING));
            }
        }
    }

    /// Pads the columns of single rows to the same number of columns, in whole rounds.
    fn level_singles(&mut self, blocking: Blocking) {
        let panel_rows = blocking.panel_rows;
        let singles = (0..panel_rows).map(|row| self.columns[1 << row].len());
        let most = singles.max().unwrap_or(0).next_multiple_of(blocking.round() / panel_rows);
        for row in 0..panel_rows {
            self.columns[1 << row].resize(most, PanelColumn::PADDING);
        }
    }
}

/// How many columns each set of several rows gets: what half of the panels have, after the demotions from
/// above, in whole groups.
fn targets(panels: &[Panel], blocking: Blocking) -> [usize; 16] {
    let mut targets = [0; 16];
    let mut counts: Vec<[usize; 16]> =
        panels.iter().map(|p| std::array::from_fn(|set| p.columns[set].len())).collect();
    for &set in blocking.shared() {
        let mut sorted: Vec<usize> = counts.iter().map(|c| c[set]).collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
        let whole = blocking.whole(set);
        // A loop of one round costs more than what it saves.
        targets[set] = if median < 2 { 0 } else { median / whole * whole };
        let (a, b) = split(set);
        for counts in &mut counts {
            let surplus = counts[set].saturating_sub(targets[set]);
            counts[a] += surplus;
            counts[b] += surplus;
        }
    }
    targets
}

/// Where the column of a set of several rows goes when it is demoted: two smaller sets.
fn split(set: usize) -> (usize, usize) {
    match set {
        15 => (3, 12),
        7 => (3, 4),
        11 => (3, 8),
        13 => (12, 1),
        14 => (12, 2),
        _ => {
            let low = set & set.wrapping_neg();
            (low, set ^ low)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::arithmetic::Words;

    /// The block that *Studying the kernels* draws: two shared columns of panel C are demoted, one of
    /// panel D is promoted, and single rows come in whole rounds.
    #[test]
    fn panels_of_a_block_get_the_same_counts() {
        let panel = |upper: &[u32], lower: &[u32]| {
            let indices = [upper, lower].concat();
            let offsets = vec![0, upper.len() as u32, indices.len() as u32];
            let pattern = SparsePattern::new(2, 9, offsets, indices).unwrap();
            Panel::new(&pattern, &[(0, pattern.row_range(0)), (1, pattern.row_range(1))], 0)
        };
        let mut panels = [
            panel(&[0, 1, 3, 4, 6], &[0, 1, 3, 4, 5]),
            panel(&[1, 2, 5, 7, 8], &[2, 4, 5, 7, 8]),
            panel(&[0, 1, 2, 3, 5, 6, 8], &[0, 2, 3, 5, 6, 7, 8]),
            panel(&[0, 1, 2, 3, 4, 6], &[0, 2, 3, 7]),
        ];
        let blocking = Blocking {
            panel_rows: 2,
            vectors: 1,
            unroll: 1,
            k_block: 9,
            row_block: 2,
            k_pass: 1,
            words: Words::Numbers,
        };
        let targets = targets(&panels, blocking);
        for panel in &mut panels {
            panel.share(blocking.shared(), &targets);
            panel.level_singles(blocking);
        }
        // Place and sources of each column; padding has place 0.
        let places = |panel: &Panel, set: usize| -> Vec<u16> {
            panel.columns[set].iter().map(|column| column.place).collect()
        };
        let [a, b, c, d] = &panels;
        assert_eq!(
            [places(a, 3), places(a, 1), places(a, 2)],
            [vec![0, 1, 3, 4], vec![6, 0], vec![5, 0]]
        );
        assert_eq!(
            [places(b, 3), places(b, 1), places(b, 2)],
            [vec![2, 5, 7, 8], vec![1, 0], vec![4, 0]]
        );
        assert_eq!(places(c, 3), [0, 2, 3, 5]);
        assert_eq!([places(c, 1), places(c, 2)], [[1, 6, 8, 0], [7, 6, 8, 0]]);
        assert_eq!(places(d, 3), [0, 2, 3, 6]);
        assert_eq!([places(d, 1), places(d, 2)], [[1, 4], [7, 0]]);
        // The promoted column has a zero in the lower row, padding in both.
        assert_eq!(d.columns[3][3].source, [5, ZERO, ZERO, ZERO]);
        assert_eq!(d.columns[2][1].source, [ZERO; 4]);
    }
}
