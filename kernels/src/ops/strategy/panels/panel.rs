//! Panels of one block: which rows go together, and their columns by the set of rows that have a
//! non-zero there.
//!
//! Rows of a panel share the loads of the columns that they have in common, so rows are put together
//! that share many: each panel starts with the sparsest row that is left and takes the rows, among
//! some of about as many non-zeros, that share most columns with it ([`Group`]). Then the columns are made to
//! come in the same numbers in every panel of the block, so that the trip counts of the kernels' loops
//! are foreseeable: surplus columns of a set of several rows are *demoted* to two smaller sets, missing
//! ones *promoted* from a smaller one, with a zero in the place of the value that is not there.

use super::blocking::Blocking;
use super::source::ZERO;
use crate::SparsePattern;
use crate::isa::{Isa, Kernel, dispatch};
use std::mem;
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
    let groups = match blocking.panel_rows {
        1 => segments.into_iter().map(|row| vec![row]).collect(),
        panel_rows => {
            let k_block = blocking.k_block;
            dispatch(Group { pattern, segments, panel_rows, first_column, k_block })
        }
    };
    let mut sets = vec![0; blocking.k_block.min(pattern.columns())];
    let mut panels: Vec<Panel> =
        groups.iter().map(|rows| Panel::new(pattern, rows, first_column, &mut sets)).collect();
    let targets = targets(&panels, blocking);
    for panel in &mut panels {
        panel.share(blocking.shared(), &targets);
        panel.level_singles(blocking);
    }
    panels
}

/// Puts rows together that have many columns in common. It is run as a kernel for the instructions with which
/// bits are counted.
struct Group<'a> {
    pattern: &'a SparsePattern,
    /// Rows in the order of their counts.
    segments: Vec<Segment>,
    panel_rows: usize,
    first_column: usize,
    k_block: usize,
}

impl Kernel for Group<'_> {
    type Output = Vec<Vec<Segment>>;

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> Self::Output {
        let Self { pattern, segments, panel_rows, first_column, k_block } = self;
        let words = k_block.min(pattern.columns()).div_ceil(64);
        let mut left = Left {
            rows: Vec::with_capacity(CANDIDATES),
            lengths: [0; CANDIDATES],
            sets: vec![[0; CANDIDATES]; words],
        };
        let mut groups = Vec::with_capacity(segments.len().div_ceil(panel_rows));
        let (mut union, mut gains) = (vec![0u64; words], [0; CANDIDATES]);
        let mut behind = segments.iter().enumerate();
        let mut fill = |left: &mut Left| {
            while left.rows.len() < CANDIDATES
                && let Some((row, (_, segment))) = behind.next()
            {
                left.push(row, &pattern.column_indices()[segment.clone()], first_column);
            }
        };
        fill(&mut left);
        while !left.rows.is_empty() {
            let shortest = left.lengths[0];
            union.fill(0);
            let mut rows = vec![segments[left.take(0, &mut union)].clone()];
            fill(&mut left);
            while rows.len() < panel_rows && !left.rows.is_empty() {
                let best = left.best(shortest, &union, &mut gains);
                rows.push(segments[left.take(best, &mut union)].clone());
                fill(&mut left);
            }
            groups.push(rows);
        }
        groups
    }
}

/// The first of the rows that are left, in the order of their counts. Side by side, so that they are looked at many at
/// a time.
struct Left {
    /// Their numbers.
    rows: Vec<usize>,
    /// Their counts.
    lengths: [i64; CANDIDATES],
    /// 64 columns of each: their bits.
    sets: Vec<[u64; CANDIDATES]>,
}

impl Left {
    /// Adds a row to the end.
    #[inline(always)]
    fn push(&mut self, row: usize, columns: &[u32], first_column: usize) {
        let at = self.rows.len();
        self.rows.push(row);
        self.lengths[at] = columns.len() as i64;
        self.sets.iter_mut().for_each(|word| word[at] = 0);
        for &column in columns {
            let column = column as usize - first_column;
            self.sets[column / 64][at] |= 1 << (column % 64);
        }
    }

    /// Takes a row away: its number. Its columns are added to `union`.
    #[inline(always)]
    fn take(&mut self, at: usize, union: &mut [u64]) -> usize {
        let count = self.rows.len();
        self.lengths.copy_within(at + 1..count, at);
        for (word, union) in self.sets.iter_mut().zip(union) {
            *union |= word[at];
            word.copy_within(at + 1..count, at);
        }
        self.rows.remove(at)
    }

    /// The row that shares most columns with `union`; the first of equals. A column in common saves a load; one
    /// that the `shortest` row lacks is padded in each.
    #[inline(always)]
    fn best(&self, shortest: i64, union: &[u64], gains: &mut [i64; CANDIDATES]) -> usize {
        let gains = &mut gains[..self.rows.len()];
        for (gain, length) in gains.iter_mut().zip(&self.lengths) {
            *gain = shortest - length;
        }
        for (word, &union) in self.sets.iter().zip(union) {
            for (gain, set) in gains.iter_mut().zip(word) {
                *gain += i64::from((set & union).count_ones());
            }
        }
        let most = gains.iter().fold(i64::MIN, |most, &gain| most.max(gain));
        gains.iter().position(|&gain| gain == most).unwrap_or(0)
    }
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
    pub columns: [Vec<PanelColumn>; 16],
}

impl Panel {
    /// The panel of some rows; `sets` is room for one number for each column of the K block, all 0 before and after.
    fn new(
        pattern: &SparsePattern,
        segments: &[Segment],
        first_column: usize,
        sets: &mut [u8],
    ) -> Self {
        let mut heads = [0; 4];
        for (row, (_, segment)) in segments.iter().enumerate() {
            heads[row] = segment.start as u32;
            for &column in &pattern.column_indices()[segment.clone()] {
                sets[column as usize - first_column] |= 1 << row;
            }
        }
        let mut counts = [0; 16];
        sets.iter().for_each(|&set| counts[usize::from(set)] += 1);
        // Room for those that other sets give away; the first is for columns of no row, which are dropped.
        let room = |set: usize| match set {
            0 => counts[0],
            _ if set >> segments.len() != 0 => 0,
            _ => counts[set] + counts[set] / 2 + 4,
        };
        let mut columns: [Vec<PanelColumn>; 16] =
            std::array::from_fn(|set| Vec::with_capacity(room(set)));
        // Without a branch that depends on a set, for they are random: `ZERO` is all ones.
        for (place, set) in sets.iter_mut().enumerate() {
            let set = usize::from(mem::take(set));
            let source = std::array::from_fn(|row| {
                let has_one = (set >> row & 1) as u32;
                let source = heads[row] | has_one.wrapping_sub(1);
                heads[row] += has_one;
                source
            });
            columns[set].push(PanelColumn { place: place as u16, source });
        }
        columns[0] = Vec::new();
        Self { rows: segments.iter().map(|&(row, _)| row).collect(), columns }
    }

    /// Gives every set of several rows exactly its target of columns: surplus ones are demoted to two
    /// smaller sets, and missing ones promoted from a smaller set, with a zero for the row that has no
    /// non-zero there.
    fn share(&mut self, shared: &[usize], targets: &[usize; 16]) {
        for &set in shared {
            let mut columns = mem::take(&mut self.columns[set]);
            let (a, b) = split(set);
            for column in columns.drain(columns.len().min(targets[set])..) {
                self.columns[a].push(column.only(a));
                self.columns[b].push(column.only(b));
            }
            self.columns[set] = columns;
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
        let mut all: Vec<usize> = counts.iter().map(|c| c[set]).collect();
        let middle = all.len() / 2;
        let median = if all.is_empty() { 0 } else { *all.select_nth_unstable(middle).1 };
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
            let rows = [(0, pattern.row_range(0)), (1, pattern.row_range(1))];
            Panel::new(&pattern, &rows, 0, &mut [0; 9])
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
