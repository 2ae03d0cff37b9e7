//! Sparse times dense, Y (+)= W · X: the forward product, and the input gradient with the
//! transposed twin of W.
//!
//! W is cut into K blocks, so that the block of X that a micro-kernel reads (V tiles × K block)
//! stays in L1, and into row blocks. Inside a block the rows are **sorted by their number of
//! non-zeros** and taken R at a time as *panels* ([`panel`](super::panel)). In a panel, the rows that
//! have a non-zero in a column form a set, R bits; the columns are grouped by row set and each group runs
//! through one branch-free loop that loads X once and uses it for every row of the set (after
//! SpRegTiling, PLDI 2023). All panels of a block run the same trip counts of the loops over sets of
//! several rows: their exits become predictable. Sorting does nearly the same for single rows.
//!
//! Loop nest, outside in: row blocks × tile blocks (parallel) · passes of several K blocks · groups
//! of V tiles · K blocks · panels · row sets · columns. A pass reads its part of W once per group
//! of tiles, and a group's lines of Y stay in L2 from one K block of the pass to the next. The sum of
//! one element of Y always runs in the plan's order, on one thread.

use super::blocking::{Blocking, GROUP, round};
use super::order::{NO_ROW, PanelPlan, lines_of};
use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::Initial;
use crate::ops::arithmetic::{self, Arithmetic, Multiplication, Numbers, Words};
use crate::ops::extent::{check_lines, tiles};
use crate::ops::gather::{gather_lines, gather_tiles};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Lines, Scratch};
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles per parallel task, unless that makes too few tasks for the threads: 256 tokens.
const TILE_BLOCK: usize = 16;

/// Tasks per thread that even out their differences.
const TASKS_PER_THREAD: usize = 4;

/// Panels ahead of the running one whose lines of Y are fetched.
const PREFETCH: usize = 4;

/// Y = initial + W · X with W given by a plan and its packed values: X `[tiles][columns]`,
/// Y `[tiles][rows][LANES]`. 2 · nnz · tiles · LANES FLOPs.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(super) fn spmm(
    isa: IsaKind,
    plan: &PanelPlan,
    values: &[f32],
    x: Lines<'_>,
    y: &mut [f32],
    initial: Initial<'_>,
) {
    let (rows, columns) = (plan.rows(), plan.columns());
    assert_eq!(values.len(), plan.packed_len(), "packed values and plan disagree");
    if rows == 0 {
        return;
    }
    let tiles = tiles("the result", y, rows);
    check_lines("the operand", x, tiles, columns);
    if let Initial::Bias(bias) = initial {
        assert_eq!(bias.len(), rows, "bias and rows disagree");
    }
    // How tokens are shared out changes no sum, so it may depend on the threads.
    let enough = TASKS_PER_THREAD * rayon::current_num_threads();
    let blocks_wanted = enough.div_ceil(plan.row_blocks());
    let together = plan.blocking().tiles();
    let block = (tiles / blocks_wanted).clamp(together, TILE_BLOCK).next_multiple_of(together);
    let tile_blocks = tiles.div_ceil(block);
    let shared = SharedMut::new(y);
    for_each_block(plan.row_blocks() * tile_blocks, |task| {
        let first = task % tile_blocks * block;
        let tiles = first..(first + block).min(tiles);
        let task =
            Task { plan, values, x, y: shared, initial, row_block: task / tile_blocks, tiles };
        arithmetic::run(isa, plan.blocking().words, task);
    });
}

struct Task<'a> {
    plan: &'a PanelPlan,
    values: &'a [f32],
    x: Lines<'a>,
    y: SharedMut<'a>,
    initial: Initial<'a>,
    row_block: usize,
    tiles: Range<usize>,
}

impl Multiplication for Task<'_> {
    #[inline(always)]
    fn run<I: Isa, W: Arithmetic>(self, isa: I) {
        let blocking = self.plan.blocking();
        let mut lines = Scratch::take(blocking.k_block * blocking.vectors * LANES);
        let pass = blocking.k_pass;
        for first in (0..self.plan.k_blocks()).step_by(pass) {
            let mut tile = self.tiles.start;
            while tile < self.tiles.end {
                let left = self.tiles.end - tile;
                let mut step = 0;
                for k_block in first..(first + pass).min(self.plan.k_blocks()) {
                    step = match W::WORDS {
                        Words::Numbers => self.sized(isa, k_block, tile, left, &mut lines),
                        Words::Pairs => {
                            self.sized_words::<I, W>(isa, k_block, tile, left, &mut lines)
                        }
                        Words::Halves => {
                            let left = left.div_ceil(2);
                            2 * self.sized_words::<I, W>(isa, k_block, tile, left, &mut lines)
                        }
                    };
                }
                tile += step;
            }
        }
    }
}

impl Task<'_> {
    /// One K block on as many tiles of `left` as the plan takes at once; returns how many.
    #[inline(always)]
    fn sized<I: Isa>(
        &self,
        isa: I,
        k_block: usize,
        tile: usize,
        left: usize,
        lines: &mut [f32],
    ) -> usize {
        let Blocking { panel_rows, vectors, unroll, .. } = self.plan.blocking();
        match (panel_rows, vectors.min(left), unroll) {
            (1, 8.., _) => self.group::<I, Numbers, 1, 8, 1>(isa, k_block, tile, lines),
            (2, 8.., _) => self.group::<I, Numbers, 2, 8, 1>(isa, k_block, tile, lines),
            (1, 4.., 2) => self.group::<I, Numbers, 1, 4, 2>(isa, k_block, tile, lines),
            (1, 2..4, 2) => self.group::<I, Numbers, 1, 2, 2>(isa, k_block, tile, lines),
            (1, _, 2) => self.group::<I, Numbers, 1, 1, 2>(isa, k_block, tile, lines),
            (1, 4.., _) => self.group::<I, Numbers, 1, 4, 1>(isa, k_block, tile, lines),
            (1, 2..4, _) => self.group::<I, Numbers, 1, 2, 1>(isa, k_block, tile, lines),
            (1, _, _) => self.group::<I, Numbers, 1, 1, 1>(isa, k_block, tile, lines),
            (2, 2..4, 2) => self.group::<I, Numbers, 2, 2, 2>(isa, k_block, tile, lines),
            (2, ..2, 2) => self.group::<I, Numbers, 2, 1, 2>(isa, k_block, tile, lines),
            (2, 4.., _) => self.group::<I, Numbers, 2, 4, 1>(isa, k_block, tile, lines),
            (2, 2..4, _) => self.group::<I, Numbers, 2, 2, 1>(isa, k_block, tile, lines),
            (2, _, _) => self.group::<I, Numbers, 2, 1, 1>(isa, k_block, tile, lines),
            (_, ..2, 2) => self.group::<I, Numbers, 4, 1, 2>(isa, k_block, tile, lines),
            (_, 4.., _) => self.group::<I, Numbers, 4, 4, 1>(isa, k_block, tile, lines),
            (_, 2..4, _) => self.group::<I, Numbers, 4, 2, 1>(isa, k_block, tile, lines),
            (_, _, _) => self.group::<I, Numbers, 4, 1, 1>(isa, k_block, tile, lines),
        }
    }

    /// The same with words that hold two numbers; of halves, `left` counts lines, and so does the result.
    #[inline(always)]
    fn sized_words<I: Isa, W: Arithmetic>(
        &self,
        isa: I,
        k_block: usize,
        tile: usize,
        left: usize,
        lines: &mut [f32],
    ) -> usize {
        let Blocking { panel_rows, vectors, .. } = self.plan.blocking();
        if const { !W::WORDS.is_native::<I>() } {
            return match (panel_rows, vectors.min(left)) {
                (1, 2..) => self.group::<I, W, 1, 2, 1>(isa, k_block, tile, lines),
                (1, _) => self.group::<I, W, 1, 1, 1>(isa, k_block, tile, lines),
                (2, 2..) => self.group::<I, W, 2, 2, 1>(isa, k_block, tile, lines),
                (2, _) => self.group::<I, W, 2, 1, 1>(isa, k_block, tile, lines),
                (_, 2..) => self.group::<I, W, 4, 2, 1>(isa, k_block, tile, lines),
                (_, _) => self.group::<I, W, 4, 1, 1>(isa, k_block, tile, lines),
            };
        }
        match (panel_rows, vectors.min(left)) {
            (1, 8..) => self.group::<I, W, 1, 8, 1>(isa, k_block, tile, lines),
            (2, 8..) => self.group::<I, W, 2, 8, 1>(isa, k_block, tile, lines),
            (1, 4..) => self.group::<I, W, 1, 4, 1>(isa, k_block, tile, lines),
            (1, 2..4) => self.group::<I, W, 1, 2, 1>(isa, k_block, tile, lines),
            (1, _) => self.group::<I, W, 1, 1, 1>(isa, k_block, tile, lines),
            (2, 4..) => self.group::<I, W, 2, 4, 1>(isa, k_block, tile, lines),
            (2, 2..4) => self.group::<I, W, 2, 2, 1>(isa, k_block, tile, lines),
            (2, _) => self.group::<I, W, 2, 1, 1>(isa, k_block, tile, lines),
            (_, 4..) => self.group::<I, W, 4, 4, 1>(isa, k_block, tile, lines),
            (_, 2..4) => self.group::<I, W, 4, 2, 1>(isa, k_block, tile, lines),
            (_, _) => self.group::<I, W, 4, 1, 1>(isa, k_block, tile, lines),
        }
    }

    /// All panels of this row block and K block on `V` tiles from `tile`, or lines of halves; returns V.
    #[inline(always)]
    fn group<I: Isa, W: Arithmetic, const R: usize, const V: usize, const U: usize>(
        &self,
        isa: I,
        k_block: usize,
        tile: usize,
        lines: &mut [f32],
    ) -> usize {
        W::run_on(isa, Group::<W, R, V, U> { task: self, k_block, tile, lines, words: PhantomData })
    }

    /// The lines of X's columns in `V` tiles: `[column][tile][LANES]`, of 16 bits `[column][pair of tiles]`.
    #[inline(always)]
    fn gather<'a, I: Isa, W: Arithmetic, const V: usize>(
        &'a self,
        isa: I,
        tile: usize,
        columns: Range<usize>,
        lines: &'a mut [f32],
    ) -> &'a [f32] {
        let features = self.plan.columns();
        if W::WORDS == Words::Numbers {
            return gather_lines::<I, V>(isa, self.x, features, tile, columns, lines);
        }
        let x = self.x.words();
        match V {
            _ if W::HALVES => gather_tiles::<I, V>(isa, x, features, tile / 2, columns, lines),
            8 => gather_tiles::<I, 4>(isa, x, features, tile / 2, columns, lines),
            4 => gather_tiles::<I, 2>(isa, x, features, tile / 2, columns, lines),
            _ => gather_tiles::<I, 1>(isa, x, features, tile / 2, columns, lines),
        }
    }
}

/// [`Task::group`]: a kernel inside the kernel, so that each size is compiled for itself.
struct Group<'a, W, const R: usize, const V: usize, const U: usize> {
    task: &'a Task<'a>,
    k_block: usize,
    tile: usize,
    lines: &'a mut [f32],
    words: PhantomData<W>,
}

impl<W: Arithmetic, const R: usize, const V: usize, const U: usize> Kernel
    for Group<'_, W, R, V, U>
{
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        let Self { task, k_block, tile, lines, .. } = self;
        let block = task.plan.block(task.row_block, k_block);
        let y_tile = task.plan.rows() * LANES;
        // From here on raw pointers: the plan guarantees that columns, rows and counts are in
        // range, and `spmm` has checked the extents of X, Y and the values.
        let x = task.gather::<I, W, V>(isa, tile, block.columns(), lines).as_ptr();
        let mut columns = block.places.as_ptr();
        let words = if W::PAIRS { 2 } else { 1 };
        let Range { start, end } = block.values;
        let mut values = task.values[start / words..end / words].as_ptr();
        let fresh = k_block == 0 && !matches!(task.initial, Initial::Held);
        let tiles = if W::HALVES { (2 * V).min(task.tiles.end - tile) } else { V };
        let row_sets = block.row_sets();
        let panels = block.rows.as_chunks::<R>().0;
        let counts = block.counts.chunks_exact(row_sets);
        for (panel, (rows, counts)) in panels.iter().zip(counts).enumerate() {
            let mut acc = [[isa.splat(0.0); V]; R];
            // SAFETY: the plan names rows below `rows()`, columns below the block's width and as
            // many columns and values as the counts say; `tiles` tiles from `tile` exist. Row blocks
            // and tile blocks partition Y, so this task alone touches these lines. Slots of the
            // last panel that have no row have no non-zeros either, and are neither read nor stored.
            unsafe {
                let y = |row: u32, v: usize| task.y.get((tile + v) * y_tile + row as usize * LANES);
                // Rows come in the order of their counts, which no hardware prefetcher foresees.
                if let Some(rows) = panels.get(panel + PREFETCH) {
                    for &row in rows.iter().filter(|&&row| row != NO_ROW) {
                        for v in 0..tiles {
                            isa.prefetch(y(row, v));
                        }
                    }
                }
                for (acc, &row) in acc.iter_mut().zip(rows) {
                    // Sums of halves begin at zero, and are added to Y when they are whole.
                    if row == NO_ROW || W::HALVES {
                        continue;
                    }
                    if !fresh {
                        for (v, acc) in acc.iter_mut().enumerate() {
                            *acc = isa.load(y(row, v));
                        }
                    } else if let Initial::Bias(bias) = task.initial {
                        *acc = [isa.splat(bias[row as usize]); V];
                    }
                }
                let mut cursor = Cursor { columns, values, x };
                match R {
                    1 => {}
                    2 => cursor.run::<I, W, R, V, 3>(isa, counts, 0, &mut acc),
                    _ => {
                        cursor.run::<I, W, R, V, 15>(isa, counts, 0, &mut acc);
                        cursor.run::<I, W, R, V, 7>(isa, counts, 1, &mut acc);
                        cursor.run::<I, W, R, V, 11>(isa, counts, 2, &mut acc);
                        cursor.run::<I, W, R, V, 13>(isa, counts, 3, &mut acc);
                        cursor.run::<I, W, R, V, 14>(isa, counts, 4, &mut acc);
                        cursor.run::<I, W, R, V, 3>(isa, counts, 5, &mut acc);
                        cursor.run::<I, W, R, V, 12>(isa, counts, 6, &mut acc);
                        cursor.run::<I, W, R, V, 5>(isa, counts, 7, &mut acc);
                        cursor.run::<I, W, R, V, 10>(isa, counts, 8, &mut acc);
                        cursor.run::<I, W, R, V, 9>(isa, counts, 9, &mut acc);
                        cursor.run::<I, W, R, V, 6>(isa, counts, 10, &mut acc);
                    }
                }
                cursor.run_singles::<I, W, R, V, U>(isa, counts[row_sets - 1], &mut acc);
                (columns, values) = (cursor.columns, cursor.values);
                for (acc, &row) in acc.iter().zip(rows) {
                    if row == NO_ROW {
                        continue;
                    }
                    for (v, &acc) in acc.iter().enumerate() {
                        if !W::HALVES {
                            isa.store(y(row, v), acc);
                            continue;
                        }
                        let (first, second) = isa.widen_f16(acc);
                        for (at, sum) in [(2 * v, first), (2 * v + 1, second)] {
                            // A last line may hold one tile alone.
                            if at < tiles {
                                let held = match task.initial {
                                    _ if !fresh => isa.load(y(row, at)),
                                    Initial::Bias(bias) => isa.splat(bias[row as usize]),
                                    _ => isa.splat(0.0),
                                };
                                isa.store(y(row, at), isa.add(held, sum));
                            }
                        }
                    }
                }
            }
        }
        V
    }
}

/// Walks the columns and values of one panel.
struct Cursor {
    columns: *const u16,
    /// Of pairs, a word holds two non-zeros of a row; of halves, one twice.
    values: *const f32,
    x: *const f32,
}

impl Cursor {
    /// The columns whose non-zeros are in the rows of the bits of `SET`.
    #[inline(always)]
    unsafe fn run<I: Isa, W: Arithmetic, const R: usize, const V: usize, const SET: usize>(
        &mut self,
        isa: I,
        counts: &[u16],
        which: usize,
        acc: &mut [[I::V; V]; R],
    ) {
        if SET >= 1 << R {
            return;
        }
        // SAFETY: the caller vouches for counts, columns, values and X.
        unsafe {
            let rounds = *counts.get_unchecked(which) / if W::PAIRS { 2 } else { 1 };
            for _ in 0..rounds {
                let x = if W::PAIRS {
                    let columns = [*self.columns, *self.columns.add(1)];
                    self.columns = self.columns.add(2);
                    self.pair(isa, columns)
                } else {
                    let lines = isa.address(lines_of(self.x, usize::from(*self.columns), V));
                    self.columns = self.columns.add(1);
                    let mut x = [isa.splat(0.0); V];
                    for (v, x) in x.iter_mut().enumerate() {
                        *x = isa.load(lines.add(v * LANES));
                    }
                    x
                };
                for (row, acc) in acc.iter_mut().enumerate() {
                    if SET >> row & 1 == 1 {
                        let w = isa.splat(*self.values);
                        self.values = self.values.add(1);
                        for (acc, x) in acc.iter_mut().zip(x) {
                            *acc = W::multiply_add(isa, w, x, *acc);
                        }
                    }
                }
            }
        }
    }

    /// Two columns of `V` tiles, in pairs.
    /// # Safety
    /// X has the columns.
    #[inline(always)]
    unsafe fn pair<I: Isa, const V: usize>(&self, isa: I, columns: [u16; 2]) -> [I::V; V] {
        let pairs = V.div_ceil(2);
        // SAFETY: the caller vouches for the columns, which have so many lines.
        let [a, b] = columns.map(|column| unsafe { lines_of(self.x, column.into(), pairs) });
        let mut x = [isa.splat(0.0); V];
        for pair in 0..pairs {
            // SAFETY: the caller vouches for the columns, which have so many lines.
            let (low, high) = unsafe {
                isa.interleave(isa.load(a.add(pair * LANES)), isa.load(b.add(pair * LANES)))
            };
            x[2 * pair] = low;
            if 2 * pair + 1 < V {
                x[2 * pair + 1] = high;
            }
        }
        x
    }

    /// Every round is some columns of each single row; `U` sums of each row take turns.
    #[inline(always)]
    unsafe fn run_singles<I: Isa, W: Arithmetic, const R: usize, const V: usize, const U: usize>(
        &mut self,
        isa: I,
        rounds: u16,
        acc: &mut [[I::V; V]; R],
    ) {
        let mut sums = [[[isa.splat(0.0); V]; R]; U];
        sums[0] = *acc;
        // SAFETY: the caller vouches for rounds, columns, values and X.
        unsafe {
            for _ in 0..rounds {
                for group in 0..round(R, W::PAIRS) / GROUP {
                    // One load for the columns of a group, for loads are what this loop waits for.
                    let columns = self.columns.cast::<u64>().read_unaligned().to_le();
                    let column = |at: usize| (columns >> (16 * at)) as u16;
                    if W::PAIRS {
                        for at in 0..GROUP / 2 {
                            let w = isa.splat(*self.values.add(at));
                            let x: [I::V; V] = self.pair(isa, [column(2 * at), column(2 * at + 1)]);
                            let sums = &mut sums[0][(group * GROUP / 2 + at) % R];
                            for (sum, x) in sums.iter_mut().zip(x) {
                                *sum = W::multiply_add(isa, w, x, *sum);
                            }
                        }
                        self.values = self.values.add(GROUP / 2);
                    } else {
                        let values = isa.splat_four(self.values);
                        for (at, &w) in values.iter().enumerate() {
                            let line = isa.address(lines_of(self.x, column(at).into(), V));
                            for (v, sum) in sums[at / R % U][at % R].iter_mut().enumerate() {
                                *sum = W::multiply_add(isa, w, isa.load(line.add(v * LANES)), *sum);
                            }
                        }
                        self.values = self.values.add(GROUP);
                    }
                    self.columns = self.columns.add(GROUP);
                }
            }
        }
        *acc = sums[0];
        for other in &sums[1..] {
            for (acc, other) in acc.iter_mut().zip(other) {
                for (acc, &other) in acc.iter_mut().zip(other) {
                    *acc = isa.add(*acc, other);
                }
            }
        }
    }
}
