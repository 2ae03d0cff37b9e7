//! Sampled dense–dense product, dW += (dY · Xᵀ) at the non-zeros of W: the weight gradient.
//!
//! Every non-zero (o, i) is the dot product of row o of dY with row i of X over all tokens. Columns
//! are blocked, so that a block of X over a *strip* of V tiles stays in L1; the lines of one row of
//! dY stay in registers while the row's non-zeros in the block are visited. The V products of a
//! non-zero are summed lane-wise and folded to half a line of scratch; sixteen of them are then
//! reduced together by a shuffle tree ([`Isa::sum_each_folded`]). As in [`spmm`](super::spmm), rows
//! are visited in the order of their counts, which makes the loop exits predictable.
//!
//! Loop nest, outside in: row blocks × ranges of column blocks (parallel) · strips · column blocks ·
//! rows · non-zeros.

use super::gather::gather_tiles;
use crate::isa::{Isa, IsaKind, Kernel};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Scratch, SparsePattern};
use std::ops::Range;

/// Tile sizes of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripBlocking {
    /// Tiles of a strip: 2, 4 or 8.
    pub vectors: usize,
    /// Columns of a block.
    pub column_block: usize,
    /// Rows of a row block.
    pub row_block: usize,
}

impl StripBlocking {
    /// The default at a density on `registers` sixteen-lane registers: a quarter to a half of them
    /// hold a strip of dY. A block of X is 512 lines; sparser rows need wider blocks to be worth
    /// loading their strip.
    pub fn estimate(density: f64, registers: usize) -> Self {
        let vectors = if registers >= 32 { 8 } else { 4 };
        let (lines, row_block) = if density < 0.3 { (768, 2048) } else { (512, 1024) };
        Self { vectors, column_block: lines / vectors, row_block }
    }

    /// Whether the kernel can run it.
    pub fn is_valid(&self) -> bool {
        matches!(self.vectors, 2 | 4 | 8)
            && (1..=1 << 16).contains(&self.column_block)
            && self.row_block > 0
    }
}

/// The order in which [`sddmm`] visits the non-zeros of a pattern.
#[derive(Clone, Debug)]
pub struct StripPlan {
    rows: usize,
    columns: usize,
    blocking: StripBlocking,
    column_blocks: usize,
    /// Rows with non-zeros in a block, with their counts.
    segments: Vec<(u32, u32)>,
    /// Column inside its block of every step.
    column_steps: Vec<u16>,
    /// CSR position of every step.
    source: Vec<u32>,
    /// (segment, step) where each (row block, column block) starts, and one at the end.
    starts: Vec<(usize, usize)>,
}

impl StripPlan {
    /// Plans the products of a pattern.
    /// # Panics
    /// If `blocking` is out of range.
    #[track_caller]
    pub fn new(pattern: &SparsePattern, blocking: StripBlocking) -> Self {
        let StripBlocking { column_block, row_block, .. } = blocking;
        assert!(blocking.is_valid(), "{blocking:?}");
        let column_blocks = pattern.columns().div_ceil(column_block);
        let mut plan = Self {
            rows: pattern.rows(),
            columns: pattern.columns(),
            blocking,
            column_blocks,
            segments: Vec::new(),
            column_steps: Vec::with_capacity(pattern.nnz()),
            source: Vec::with_capacity(pattern.nnz()),
            starts: Vec::new(),
        };
        let mut next: Vec<usize> = pattern.row_offsets().iter().map(|&o| o as usize).collect();
        for first_row in (0..pattern.rows()).step_by(row_block) {
            let rows = first_row..(first_row + row_block).min(pattern.rows());
            for block in 0..column_blocks {
                plan.starts.push((plan.segments.len(), plan.source.len()));
                let first = block * column_block;
                let mut segments: Vec<(usize, Range<usize>)> = rows
                    .clone()
                    .map(|row| {
                        let from = next[row];
                        let rest = &pattern.column_indices()[from..pattern.row_range(row).end];
                        let count = rest.partition_point(|&c| (c as usize) < first + column_block);
                        next[row] = from + count;
                        (row, from..from + count)
                    })
                    .filter(|(_, range)| !range.is_empty())
                    .collect();
                segments.sort_by_key(|(_, range)| range.len());
                for (row, range) in segments {
                    plan.segments.push((row as u32, range.len() as u32));
                    for at in range {
                        let column = pattern.column_indices()[at] as usize;
                        plan.column_steps.push((column - first) as u16);
                        plan.source.push(at as u32);
                    }
                }
            }
        }
        plan.starts.push((plan.segments.len(), plan.source.len()));
        plan
    }

    /// Splits the work into about `count` tasks, (row block, column blocks), of similar numbers of
    /// non-zeros, the column blocks of a row block as far together as that allows.
    fn tasks(&self, count: usize) -> Vec<(usize, Range<usize>)> {
        let row_blocks = self.rows.div_ceil(self.blocking.row_block);
        let fair = self.nnz().div_ceil(count.max(1));
        let mut tasks = Vec::new();
        for row_block in 0..row_blocks {
            let all = self.steps(row_block, &(0..self.column_blocks));
            let parts = all.len().div_ceil(fair).max(1);
            let mut first = 0;
            for part in 1..=parts {
                let until = all.start + all.len() * part / parts;
                let mut end = first;
                while end < self.column_blocks
                    && self.steps(row_block, &(end..end + 1)).end <= until
                {
                    end += 1;
                }
                if end > first {
                    tasks.push((row_block, first..end));
                }
                first = end;
            }
        }
        tasks
    }

    /// The steps of some column blocks of a row block.
    fn steps(&self, row_block: usize, blocks: &Range<usize>) -> Range<usize> {
        let start = row_block * self.column_blocks;
        self.starts[start + blocks.start].1..self.starts[start + blocks.end].1
    }

    /// Non-zeros of the pattern.
    pub fn nnz(&self) -> usize {
        self.source.len()
    }

    /// Tile sizes of the plan.
    pub fn blocking(&self) -> StripBlocking {
        self.blocking
    }
}

/// dw += (dY · Xᵀ) at the plan's non-zeros, in CSR order: dY `[tiles][rows][LANES]`,
/// X `[tiles][columns][LANES]`. 2 · nnz · tiles · LANES FLOPs.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub fn sddmm(isa: IsaKind, plan: &StripPlan, dy: &[f32], x: &[f32], dw: &mut [f32]) {
    assert_eq!(dw.len(), plan.nnz(), "gradient and pattern disagree");
    if plan.nnz() == 0 {
        return;
    }
    let (rows, columns) = (plan.rows, plan.columns);
    assert!(dy.len().is_multiple_of(rows * LANES), "dY is not made of tiles of {rows} lines");
    let tiles = dy.len() / (rows * LANES);
    assert_eq!(
        x.len(),
        tiles * columns * LANES,
        "X does not have {tiles} tiles of {columns} lines"
    );
    // Every sum belongs to one task and runs over the strips in their order: the split into tasks
    // changes no bit, so it may depend on the threads. One fair share of the non-zeros for each
    // copies the fewest lines; two or three shares lost 5 % on two threads.
    let tasks = plan.tasks(rayon::current_num_threads());
    let shared = SharedMut::new(dw);
    for_each_block(tasks.len(), |task| {
        let (row_block, blocks) = tasks[task].clone();
        let steps = plan.steps(row_block, &blocks);
        let mut sums = Scratch::take(steps.len());
        sums.fill(0.0);
        isa.run(Task { plan, dy, x, tiles, row_block, blocks, sums: &mut sums });
        for (&at, sum) in plan.source[steps].iter().zip(sums.iter()) {
            // SAFETY: `source` is a permutation of the non-zeros, so `at` is in range and no
            // other task has it.
            unsafe { *shared.get(at as usize) += sum };
        }
    });
}

struct Task<'a> {
    plan: &'a StripPlan,
    dy: &'a [f32],
    x: &'a [f32],
    tiles: usize,
    row_block: usize,
    blocks: Range<usize>,
    sums: &'a mut [f32],
}

/// Products of a few rows that wait to be reduced together.
const WAITING: usize = 32;

/// Elements of a waiting product.
const FOLDED: usize = LANES / 2;

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let StripBlocking { vectors, column_block, .. } = self.plan.blocking;
        let mut lines = Scratch::take(column_block * vectors * LANES);
        let mut dy_lines = Scratch::take(self.plan.blocking.row_block * vectors * LANES);
        let mut scratch = Scratch::take(WAITING * FOLDED);
        scratch.fill(0.0);
        let mut tile = 0;
        while tile < self.tiles {
            tile += match self.plan.blocking.vectors.min(self.tiles - tile) {
                8.. => self.strip::<I, 8>(isa, tile, &mut lines, &mut dy_lines, &mut scratch),
                4..8 => self.strip::<I, 4>(isa, tile, &mut lines, &mut dy_lines, &mut scratch),
                2..4 => self.strip::<I, 2>(isa, tile, &mut lines, &mut dy_lines, &mut scratch),
                _ => self.strip::<I, 1>(isa, tile, &mut lines, &mut dy_lines, &mut scratch),
            };
        }
    }
}

impl Task<'_> {
    /// All non-zeros of this row block over `V` tiles from `tile`; returns V.
    #[inline(always)]
    fn strip<I: Isa, const V: usize>(
        &mut self,
        isa: I,
        tile: usize,
        lines: &mut [f32],
        dy_lines: &mut [f32],
        scratch: &mut [f32],
    ) -> usize {
        let plan = self.plan;
        let first_row = self.row_block * plan.blocking.row_block;
        let end_row = (first_row + plan.blocking.row_block).min(plan.rows);
        let dy = gather_tiles::<I, V>(isa, self.dy, plan.rows, tile, first_row..end_row, dy_lines);
        let dy = dy.as_ptr();
        let first_step = plan.steps(self.row_block, &self.blocks).start;
        for block in self.blocks.clone() {
            let start = self.row_block * plan.column_blocks + block;
            let (segments, steps) = (plan.starts[start], plan.starts[start + 1]);
            let first = block * plan.blocking.column_block;
            let end = (first + plan.blocking.column_block).min(plan.columns);
            let x = gather_tiles::<I, V>(isa, self.x, plan.columns, tile, first..end, lines);
            let x = x.as_ptr();
            let mut columns = plan.column_steps[segments.1..steps.1].as_ptr();
            let sums = &mut self.sums[segments.1 - first_step..steps.1 - first_step];
            let mut reduced = 0;
            let mut waiting = 0;
            let segments = &plan.segments[segments.0..steps.0];
            for (at, &(row, count)) in segments.iter().enumerate() {
                if let Some(&(row, _)) = segments.get(at + 2) {
                    for v in 0..V {
                        isa.prefetch(dy.wrapping_add(((row as usize - first_row) * V + v) * LANES));
                    }
                }
                let mut left = count as usize;
                let mut g = [isa.splat(0.0); V];
                // SAFETY: rows, columns and counts come from a validated pattern and lie inside
                // dY and X, whose extents `sddmm` has checked; scratch holds WAITING products
                // and `waiting` never passes it.
                unsafe {
                    for (v, g) in g.iter_mut().enumerate() {
                        *g = isa.load(dy.add(((row as usize - first_row) * V + v) * LANES));
                    }
                    while left > 0 {
                        if waiting == WAITING {
                            reduce(isa, scratch, &mut sums[reduced..reduced + waiting]);
                            reduced += waiting;
                            waiting = 0;
                        }
                        let now = left.min(WAITING - waiting);
                        let mut to = scratch.as_mut_ptr().add(waiting * FOLDED);
                        for _ in 0..now {
                            let line = x.add(usize::from(*columns) * V * LANES);
                            columns = columns.add(1);
                            // Two chains halve the latency of a dot product.
                            let mut even = isa.mul(g[0], isa.load(line));
                            let mut odd = isa.splat(0.0);
                            for (v, g) in g.iter().enumerate().skip(1) {
                                let chain = if v % 2 == 0 { &mut even } else { &mut odd };
                                *chain = isa.fma(*g, isa.load(line.add(v * LANES)), *chain);
                            }
                            isa.store_folded(to, isa.add(even, odd));
                            to = to.add(FOLDED);
                        }
                        waiting += now;
                        left -= now;
                    }
                }
            }
            // SAFETY: `waiting` products of scratch are filled.
            unsafe { reduce(isa, scratch, &mut sums[reduced..reduced + waiting]) };
        }
        V
    }
}

/// Adds the sum over each product in scratch to its element of `sums`.
/// # Safety
/// Scratch holds `sums.len()` products, rounded up to whole groups of sixteen.
#[inline(always)]
unsafe fn reduce<I: Isa>(isa: I, scratch: &[f32], sums: &mut [f32]) {
    let mut from = scratch.as_ptr();
    for sums in sums.chunks_mut(LANES) {
        // SAFETY: the caller vouches for the scratch; `sums` or the array holds sixteen elements.
        unsafe {
            let total = isa.sum_each_folded(from);
            from = from.add(LANES * FOLDED);
            if sums.len() == LANES {
                isa.store(sums.as_mut_ptr(), isa.add(isa.load(sums.as_ptr()), total));
            } else {
                for (sum, total) in sums.iter_mut().zip(isa.to_array(total)) {
                    *sum += total;
                }
            }
        }
    }
}

/// The gradient by the definition, on `[feature][token]` matrices in f64: the reference.
pub fn naive(pattern: &SparsePattern, dy: &[f64], x: &[f64], tokens: usize) -> Vec<f64> {
    let mut dw = Vec::with_capacity(pattern.nnz());
    for row in 0..pattern.rows() {
        for &column in pattern.row(row) {
            let dy = &dy[row * tokens..(row + 1) * tokens];
            let x = &x[column as usize * tokens..];
            dw.push(dy.iter().zip(x).map(|(a, b)| a * b).sum());
        }
    }
    dw
}
