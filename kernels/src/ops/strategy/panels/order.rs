//! Execution plans for [`spmm`](super::spmm) and [`sddmm`](super::sddmm): the non-zeros of a matrix in
//! the order in which the kernels meet them.

use super::blocking::Blocking;
use super::panel::{Panel, panels};
use super::source::{Sources, ZERO, position};
use crate::{LANES, Scratch, SparsePattern};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// The order of execution of one sparse matrix.
///
/// **What the kernels rely on**, since they do not check again: rows are below `rows`, or [`NO_ROW`] in
/// slots without non-zeros; every place is of a column of its K block; a panel has as many places and
/// sources as its counts say, which fit 16 bits; every non-zero of the matrix is the source of exactly one
/// packed value.
/// [`PanelPlan::new`] and [`PanelPlan::of_twin`] make plans, and nothing changes one.
pub(super) struct PanelPlan {
    rows: usize,
    columns: usize,
    /// The matrix, in whose CSR order values are.
    matrix: Arc<SparsePattern>,
    /// Whether the plan is of its transpose.
    is_twin: bool,
    blocking: Blocking,
    k_blocks: usize,
    laid: Laid,
    sources: Sources,
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
    /// Place inside the K block of every column of every panel, in [units](PLACE).
    places: Vec<u16>,
}

/// Packed values of so many non-zeros, with room for what pads them.
fn room(nnz: usize) -> usize {
    nnz + nnz / 4
}

impl Laid {
    /// With room for so many non-zeros.
    fn with_room(nnz: usize) -> Self {
        Self { places: Vec::with_capacity(room(nnz)), ..Self::default() }
    }

    /// Adds a panel of that blocking, and the CSR position of every packed value of it to `source`.
    fn add_panel(&mut self, panel: &Panel, blocking: Blocking, source: &mut Vec<u32>) {
        let panel_rows = blocking.panel_rows;
        let together = blocking.together();
        let row = |slot| panel.rows.get(slot).map_or(NO_ROW, |&row| row as u32);
        self.panel_rows.extend((0..panel_rows).map(row));
        for &set in blocking.shared() {
            self.counts.push(count(panel.columns[set].len()));
            for columns in panel.columns[set].chunks(together) {
                columns.iter().for_each(|column| self.places.push(column.place * PLACE));
                for row in (0..panel_rows).filter(|row| set >> row & 1 == 1) {
                    columns.iter().for_each(|column| source.push(column.source[row]));
                }
            }
        }
        self.counts.push(count(panel.columns[1].len() * panel_rows / blocking.round()));
        for at in (0..panel.columns[1].len()).step_by(together) {
            for row in 0..panel_rows {
                for column in &panel.columns[1 << row][at..at + together] {
                    self.places.push(column.place * PLACE);
                    source.push(column.source[row]);
                }
            }
        }
    }

    /// Adds the panels of another.
    fn append(&mut self, other: &Self) {
        self.panel_rows.extend_from_slice(&other.panel_rows);
        self.counts.extend_from_slice(&other.counts);
        self.places.extend_from_slice(&other.places);
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
    columns: Range<usize>,
    pub(super) rows: &'a [u32],
    pub(super) counts: &'a [u16],
    pub(super) places: &'a [u16],
    pub(super) values: Range<usize>,
    row_sets: usize,
}

impl Block<'_> {
    /// The matrix columns of the K block.
    #[inline(always)]
    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Counts of each panel.
    #[inline(always)]
    pub(super) fn row_sets(&self) -> usize {
        self.row_sets
    }
}

/// What a place counts up by from one column to the next: [`lines_of`] is then one instruction for up to four lines a
/// column.
const PLACE: u16 = 32;

const LINE_BYTES: usize = LANES * size_of::<f32>();

/// The lines of the column at a place of a block of X that has so many lines a column.
/// # Safety
/// The block has the column.
#[inline(always)]
pub(super) unsafe fn lines_of(x: *const f32, place: usize, lines: usize) -> *const f32 {
    // SAFETY: the caller vouches for the column.
    unsafe { x.byte_add(place * (lines * LINE_BYTES / PLACE as usize)) }
}

/// Columns of the widest K block that is run as one, so that every place and every count of a panel fits 16 bits.
/// Loops of the kernels count in 16 bits too: with 32, the compiler unrolls them, at the cost of a tenth of their
/// speed.
const WIDEST: usize = (1 << 16) / PLACE as usize;

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
    pub(super) fn new(pattern: &Arc<SparsePattern>, blocking: Blocking) -> Self {
        Self::planned(pattern, pattern, None, blocking)
    }

    /// Plans the products with the transpose of a matrix, whose values are taken from the matrix.
    /// # Panics
    /// If `blocking` is out of range.
    #[track_caller]
    pub(super) fn of_twin(pattern: &Arc<SparsePattern>, blocking: Blocking) -> Self {
        let (twin, positions) = pattern.transpose();
        Self::planned(&twin, pattern, Some(&positions), blocking)
    }

    /// Plans the products with a pattern whose values are those of a matrix, at the `positions` if it is another.
    #[track_caller]
    fn planned(
        pattern: &SparsePattern,
        matrix: &Arc<SparsePattern>,
        positions: Option<&[u32]>,
        blocking: Blocking,
    ) -> Self {
        assert!(blocking.is_valid(), "{blocking:?}");
        let blocking = Blocking { k_block: blocking.k_block.min(WIDEST), ..blocking };
        let Blocking { k_block, row_block, .. } = blocking;
        let k_blocks = pattern.columns().div_ceil(k_block).max(1);
        let longest = (0..matrix.rows()).map(|row| matrix.row_range(row).len()).max().unwrap_or(0);
        let sources = |nnz| Sources::with_room(longest, room(nnz));
        let mut plan = Self {
            rows: pattern.rows(),
            columns: pattern.columns(),
            matrix: matrix.clone(),
            is_twin: positions.is_some(),
            blocking,
            k_blocks,
            laid: Laid::with_room(pattern.nnz()),
            sources: sources(pattern.nnz()),
            starts: Vec::new(),
        };
        let area = (pattern.rows() * pattern.columns()).max(1);
        let width = k_block.min(pattern.columns());
        for first_row in (0..pattern.rows()).step_by(row_block) {
            let rows = first_row..(first_row + row_block).min(pattern.rows());
            // Panels are large, and gone as soon as they are laid.
            let laid = |k: usize| {
                let panels = panels(pattern, blocking, rows.clone(), k * k_block);
                let nnz = rows.len() * width * pattern.nnz() / area;
                let (mut laid, mut source) = (Laid::with_room(nnz), Vec::with_capacity(room(nnz)));
                panels.iter().for_each(|panel| laid.add_panel(panel, blocking, &mut source));
                if let Some(positions) = positions {
                    for at in source.iter_mut().filter(|at| **at != ZERO) {
                        *at = positions[*at as usize];
                    }
                }
                // A value that is no step behind the head of its row is the head.
                let (none, mut heads) = (vec![0; source.len()], vec![0; source.len()]);
                let Laid { panel_rows, counts, places } = &laid;
                plan.find(panel_rows, counts, places, k * k_block, &none, &mut heads);
                let mut near = sources(nnz);
                near.extend(&source, &heads);
                (laid, near)
            };
            let blocks: Vec<_> = (0..k_blocks).into_par_iter().map(laid).collect();
            for (laid, sources) in &blocks {
                plan.starts.push(plan.here());
                plan.laid.append(laid);
                plan.sources.append(sources);
            }
        }
        plan.starts.push(plan.here());
        plan.laid.places.shrink_to_fit();
        plan.sources.shrink_to_fit();
        plan
    }

    fn here(&self) -> BlockStart {
        BlockStart {
            panel: self.laid.panel_rows.len() / self.blocking.panel_rows,
            column: self.laid.places.len(),
            value: self.sources.len(),
        }
    }

    /// The CSR position of every packed value of a block, or [`ZERO`], in the order of execution.
    pub(super) fn positions<'a>(&'a self, block: &Block<'_>, room: &'a mut Scratch) -> &'a [u32] {
        let near = match &self.sources {
            Sources::Near(near) => &near[block.values.clone()],
            Sources::Far(all) => return &all[block.values.clone()],
        };
        let to = bytemuck::cast_slice_mut(room);
        self.find(block.rows, block.counts, block.places, block.columns.start, near, to);
        to
    }

    /// The CSR position of every packed value of the panels of a block, from how far it is behind the first non-zero
    /// of its matrix row.
    fn find(
        &self,
        rows: &[u32],
        counts: &[u16],
        places: &[u16],
        first_column: usize,
        near: &[u16],
        to: &mut [u32],
    ) {
        let blocking = self.blocking;
        let heads = self.matrix.row_offsets();
        let heads = if self.is_twin { &heads[first_column..] } else { heads };
        let all = Positions { blocking, rows, counts, places, heads, near };
        match (blocking.panel_rows, blocking.pairs()) {
            (1, false) => all.write::<1, 1>(self.is_twin, to),
            (1, true) => all.write::<1, 2>(self.is_twin, to),
            (2, false) => all.write::<2, 1>(self.is_twin, to),
            (2, true) => all.write::<2, 2>(self.is_twin, to),
            (_, false) => all.write::<4, 1>(self.is_twin, to),
            (_, true) => all.write::<4, 2>(self.is_twin, to),
        }
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
        self.matrix.nnz()
    }

    /// Words of packed values, the non-zeros of the matrix and the zeros that pad row sets: one each, or
    /// one for a pair.
    pub(super) fn packed_len(&self) -> usize {
        self.sources.len() / self.blocking.together()
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
        let first = k_block * self.blocking.k_block;
        Block {
            columns: first..(first + self.blocking.k_block).min(self.columns),
            rows: &self.laid.panel_rows[from.panel * r..to.panel * r],
            counts: &self.laid.counts[from.panel * row_sets..to.panel * row_sets],
            places: &self.laid.places[from.column..to.column],
            values: from.value..to.value,
            row_sets,
        }
    }

    /// The blocks, each with its part of packed values.
    pub(super) fn split<'a>(&self, mut packed: &'a mut [f32]) -> Vec<(Block<'_>, &'a mut [f32])> {
        let mut part = |at: usize| {
            let block = self.block(at / self.k_blocks, at % self.k_blocks);
            let len = block.values.len() / self.blocking.together();
            let part = packed.split_off_mut(..len).expect("a word for each");
            (block, part)
        };
        (0..self.row_blocks() * self.k_blocks).map(&mut part).collect()
    }
}

/// The walk over the panels of a block that finds the CSR position of every packed value.
struct Positions<'a> {
    blocking: Blocking,
    rows: &'a [u32],
    counts: &'a [u16],
    places: &'a [u16],
    /// Where each matrix row begins, of a twin those of the K block.
    heads: &'a [u32],
    /// How far every packed value is behind that.
    near: &'a [u16],
}

impl Positions<'_> {
    fn write<const R: usize, const TOGETHER: usize>(self, is_twin: bool, to: &mut [u32]) {
        let heads = self.heads;
        if is_twin {
            self.write_of::<R, TOGETHER>(|_| 0, |place| heads[usize::from(place / PLACE)], to);
        } else {
            let of_row = |row| if row == NO_ROW { 0 } else { heads[row as usize] };
            self.write_of::<R, TOGETHER>(of_row, |_| 0, to);
        }
    }

    /// Of `R` rows a panel, with so many non-zeros of a row together. A matrix row is one of the panel's, or of a twin
    /// one of the places; the head of the other is 0.
    #[inline(always)]
    fn write_of<const R: usize, const TOGETHER: usize>(
        self,
        of_row: impl Fn(u32) -> u32,
        of_place: impl Fn(u16) -> u32,
        mut to: &mut [u32],
    ) {
        let (mut places, mut near) = (self.places, self.near);
        assert_eq!(near.len(), to.len(), "a position of each value");
        let sets = self.blocking.shared();
        let counts = self.counts.chunks_exact(sets.len() + 1);
        for (rows, counts) in self.rows.as_chunks::<R>().0.iter().zip(counts) {
            let heads = rows.map(&of_row);
            for (&set, &count) in sets.iter().zip(counts) {
                let shared = places.split_off(..count.into()).expect("columns of the set");
                let values = shared.len() * set.count_ones() as usize;
                let near = near.split_off(..values).expect("a value of each row");
                let to = to.split_off_mut(..values).expect("a value of each row");
                match set.count_ones() {
                    2 => of_set::<2, TOGETHER>(heads_of(&heads, set), &of_place, shared, near, to),
                    3 => of_set::<3, TOGETHER>(heads_of(&heads, set), &of_place, shared, near, to),
                    _ => of_set::<4, TOGETHER>(heads_of(&heads, set), &of_place, shared, near, to),
                }
            }
            let singles = usize::from(counts[sets.len()]) * self.blocking.round();
            let of_singles = places.split_off(..singles).expect("columns of single rows");
            let near = near.split_off(..singles).expect("a value of each");
            let to = to.split_off_mut(..singles).expect("a value of each");
            let turns = of_singles.chunks_exact(R * TOGETHER).zip(near.chunks_exact(R * TOGETHER));
            for ((places, near), to) in turns.zip(to.chunks_exact_mut(R * TOGETHER)) {
                for at in 0..R * TOGETHER {
                    let head = heads[at / TOGETHER] + of_place(places[at]);
                    to[at] = position(head, near[at]);
                }
            }
        }
    }
}

/// The heads of the rows of a set.
#[inline(always)]
fn heads_of<const R: usize, const ROWS: usize>(heads: &[u32; R], set: usize) -> [u32; ROWS] {
    let mut rows = (0..R).filter(|row| set >> row & 1 == 1);
    std::array::from_fn(|_| heads[rows.next().expect("as many rows as the set has")])
}

/// The positions of values in columns that `ROWS` rows share.
#[inline(always)]
fn of_set<const ROWS: usize, const TOGETHER: usize>(
    heads: [u32; ROWS],
    of_place: impl Fn(u16) -> u32,
    places: &[u16],
    near: &[u16],
    to: &mut [u32],
) {
    let values = near.chunks_exact(ROWS * TOGETHER).zip(to.chunks_exact_mut(ROWS * TOGETHER));
    for (places, (near, to)) in places.as_chunks::<TOGETHER>().0.iter().zip(values) {
        let of_places = places.map(&of_place);
        for at in 0..ROWS * TOGETHER {
            to[at] = position(heads[at / TOGETHER] + of_places[at % TOGETHER], near[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::arithmetic::Words;
    use crate::sparse::mask::uniform_random;

    /// Every non-zero is the source of one packed value, of its block; with rows that two bytes are enough for, and without.
    #[test]
    fn every_value_has_one_place_in_its_block() {
        let random = uniform_random(37, 300, 0.6, 1).unwrap();
        let wide = SparsePattern::full(2, 70_000).unwrap();
        for (pattern, k_block, is_near) in [(random, 64, true), (wide, 9_000, false)] {
            let pattern = Arc::new(pattern);
            let places: Vec<(usize, usize)> = (0..pattern.rows())
                .flat_map(|row| pattern.row(row).iter().map(move |&column| (row, column as usize)))
                .collect();
            let sizes = [1, 2, 4].map(|r| [(r, Words::Numbers), (r, Words::Pairs)]).into_iter();
            for (panel_rows, words) in sizes.flatten() {
                let (vectors, unroll, row_block, k_pass) = (2, 1, 20, 1);
                let blocking =
                    Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass, words };
                let plans =
                    [PanelPlan::new(&pattern, blocking), PanelPlan::of_twin(&pattern, blocking)];
                for plan in plans {
                    assert_eq!(matches!(plan.sources, Sources::Near(_)), is_near);
                    let mut packed = vec![0.0; plan.packed_len()];
                    let mut found = Vec::new();
                    for (nth, (block, _)) in plan.split(&mut packed).into_iter().enumerate() {
                        let mut room = Scratch::take(block.values.len());
                        let positions = plan.positions(&block, &mut room).iter().copied();
                        for at in positions.filter(|&at| at != ZERO) {
                            let (row, column) = places[at as usize];
                            let (row, column) =
                                if plan.is_twin { (column, row) } else { (row, column) };
                            assert_eq!(row / row_block, nth / plan.k_blocks(), "{blocking:?}");
                            assert!(block.columns().contains(&column), "{blocking:?}");
                            found.push(at);
                        }
                    }
                    found.sort_unstable();
                    assert!(found.into_iter().eq(0..pattern.nnz() as u32), "{blocking:?}");
                }
            }
        }
    }
}
