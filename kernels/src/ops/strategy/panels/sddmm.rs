//! Sampled dense–dense product, dW += (dY · Xᵀ) at the non-zeros of W: the weight gradient.
//!
//! Every non-zero (o, i) is the dot product of row o of dY with row i of X over all tokens. The plan is
//! that of the forward product: panels of R rows whose columns are grouped by row set. The lines of a
//! panel's rows of dY over V tiles stay in registers, a block of X over the same tiles stays in L1, and
//! a line of X is loaded once for all rows of its set. Dot products come in groups of four, which
//! are reduced together to one line of sixteen partial sums ([`Isa::sum_within_quarters`]). The lines of
//! a block stay in L2 until all tiles are done; then they are completed, four together
//! ([`Isa::sum_over_quarters`]).
//!
//! Of 16-bit numbers, a line holds 32 tokens in pairs of neighbours, which [`Isa::dot`] multiplies and adds up, and
//! [`Isa::fma_halves`] each for itself: the same loops on words, with half as many lines. Sums of halves are of f16 over V
//! lines and two additions more ([`Isa::sum_halves`]). In plans of numbers, lines are widened to tiles.
//!
//! Lines of X are copied side by side, block by block, and those of dY before all else: in dY, those of a row lie a
//! whole tile apart, by a multiple of a page where features are a multiple of 64, and stand in each other's way in
//! caches. With 1024 features the product took a Zen 3 a quarter longer. With AVX-512 (Cascade Lake) the copy costs about
//! what it brings, and constant distances make the loop 1 to 3 % faster.
//!
//! With many registers, a group of products is reduced while the next one is multiplied: then its instructions wait for
//! nothing, and do not fill the queue in which a CPU keeps those that do.
//!
//! Loop nest, outside in: row blocks × K blocks (parallel) · groups of V tiles · panels · row sets ·
//! columns.

use super::blocking::{GROUP, round, whole_groups};
use super::order::{Block, NO_ROW, PanelPlan};
use super::source::ZERO;
use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::arithmetic::{self, Arithmetic, Multiplication, Words};
use crate::ops::extent::{check_whole, tiles_per_line};
use crate::ops::gather::{gather_lines, tiles_side_by_side};
use crate::parallel::{SharedMut, for_each_block};
use crate::{LANES, Lines, Scratch};
use std::marker::PhantomData;

/// Panels ahead of the running one whose lines of dY are fetched.
const PREFETCH: usize = 4;

/// Groups that are completed together: a line of sums.
const PER_LINE: usize = LANES / GROUP;

/// dw += (dY · Xᵀ) at the plan's non-zeros, in CSR order: dY `[tiles][rows]`, X `[tiles][columns]`.
/// 2 · nnz · tokens FLOPs.
/// # Panics
/// If the shapes or precisions disagree or the machine lacks `isa`.
#[track_caller]
pub(super) fn sddmm(isa: IsaKind, plan: &PanelPlan, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
    assert_eq!(dw.len(), plan.nnz(), "gradient and pattern disagree");
    if plan.nnz() == 0 {
        return;
    }
    let lines = check_whole(dy, plan.rows(), x, plan.columns());
    let blocking = plan.blocking();
    // Words of two numbers are walked like numbers; lines of other plans are widened to tiles.
    let (dy, x, tiles) = match blocking.words {
        Words::Numbers => (dy, x, lines * tiles_per_line(x)),
        Words::Pairs | Words::Halves => (Lines::F32(dy.words()), Lines::F32(x.words()), lines),
    };
    let at_once = |left| blocking.at_once(left);
    let dy = &tiles_side_by_side(isa, dy, plan.rows(), tiles, at_once)[..];
    let shared = SharedMut::new(dw);
    for_each_block(plan.row_blocks() * plan.k_blocks(), |task| {
        let block = plan.block(task / plan.k_blocks(), task % plan.k_blocks());
        arithmetic::run(isa, blocking.words, Task { plan, block, dy, x, tiles, dw: shared });
    });
}

/// One block of the plan.
struct Task<'a> {
    plan: &'a PanelPlan,
    block: Block<'a>,
    /// `[group of tiles][row][tile][LANES]`.
    dy: &'a [f32],
    x: Lines<'a>,
    tiles: usize,
    dw: SharedMut<'a>,
}

/// What a task writes besides dW.
struct Room {
    /// Lines of X, `[column][tile]`.
    x: Scratch,
    /// A line that nobody reads, then one of unfinished sums per group.
    partial: Scratch,
}

impl Multiplication for Task<'_> {
    #[inline(always)]
    fn run<I: Isa, W: Arithmetic>(self, isa: I) {
        let blocking = self.plan.blocking();
        let values = self.block.values.len();
        let groups = (values / GROUP).next_multiple_of(PER_LINE);
        let mut room = Room {
            x: Scratch::take(blocking.k_block * blocking.vectors * LANES),
            partial: Scratch::take((1 + groups) * LANES),
        };
        room.partial.fill(0.0);
        let mut tile = 0;
        while tile < self.tiles {
            let room = &mut room;
            tile += match (blocking.panel_rows, blocking.at_once(self.tiles - tile)) {
                (1, 8) => self.strip::<I, W, 1, 8>(isa, tile, room),
                (1, 4) => self.strip::<I, W, 1, 4>(isa, tile, room),
                (1, 2) => self.strip::<I, W, 1, 2>(isa, tile, room),
                (1, _) => self.strip::<I, W, 1, 1>(isa, tile, room),
                (2, 8) => self.strip::<I, W, 2, 8>(isa, tile, room),
                (2, 4) => self.strip::<I, W, 2, 4>(isa, tile, room),
                (2, 2) => self.strip::<I, W, 2, 2>(isa, tile, room),
                (2, _) => self.strip::<I, W, 2, 1>(isa, tile, room),
                (_, 4) => self.strip::<I, W, 4, 4>(isa, tile, room),
                (_, 2) => self.strip::<I, W, 4, 2>(isa, tile, room),
                (_, _) => self.strip::<I, W, 4, 1>(isa, tile, room),
            };
        }
        let mut from = room.partial[LANES..].as_ptr();
        let mut positions = Scratch::take(values);
        for source in self.plan.positions(&self.block, &mut positions).chunks(PER_LINE * GROUP) {
            // SAFETY: partial holds a line per group, in whole lines of sums. The plan names every
            // non-zero once, so that `at` is in range and no other task has it.
            unsafe {
                let line = |at| isa.load(from.add(at * LANES));
                let sums = isa.sum_over_quarters([line(0), line(1), line(2), line(3)]);
                from = from.add(PER_LINE * LANES);
                for (&at, sum) in source.iter().zip(isa.to_array(sums)) {
                    if at != ZERO {
                        *self.dw.get(at as usize) += sum;
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// Adds the products over `V` tiles from `tile`; returns V.
    #[inline(always)]
    fn strip<I: Isa, W: Arithmetic, const R: usize, const V: usize>(
        &self,
        isa: I,
        tile: usize,
        room: &mut Room,
    ) -> usize {
        W::run_on(isa, Strip::<W, R, V> { task: self, tile, room, words: PhantomData })
    }
}

/// [`Task::strip`]: a kernel inside the kernel, so that each size is compiled for itself.
struct Strip<'a, W, const R: usize, const V: usize> {
    task: &'a Task<'a>,
    tile: usize,
    room: &'a mut Room,
    words: PhantomData<W>,
}

impl<W: Arithmetic, const R: usize, const V: usize> Kernel for Strip<'_, W, R, V> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        let Self { task, tile, room, .. } = self;
        let (plan, block) = (task.plan, &task.block);
        let features = plan.rows();
        let dy = task.dy[tile * features * LANES..(tile + V) * features * LANES].as_ptr();
        let x =
            gather_lines::<I, V>(isa, task.x, plan.columns(), tile, block.columns(), &mut room.x);
        let mut walk = Walk {
            x: x.as_ptr(),
            columns: block.places.as_ptr(),
            to: room.partial.as_mut_ptr(),
            pending: [isa.splat(0.0); GROUP],
        };
        let row_sets = block.row_sets();
        for panel in 0..block.panels() {
            let rows = &block.rows[panel * R..(panel + 1) * R];
            let counts = &block.counts[panel * row_sets..(panel + 1) * row_sets];
            let mut g = [[isa.splat(0.0); V]; R];
            // SAFETY: the plan names rows below `rows()`, columns below the block's width, and as many
            // columns and values as the counts say; tiles tile..tile + V exist, `sddmm` has checked
            // the extents of dY and X, and `partial` has a line per group.
            unsafe {
                let line = |row: u32, v: usize| dy.wrapping_add((row as usize * V + v) * LANES);
                // Rows come in the order of their counts, which no hardware prefetcher foresees.
                let ahead = block.rows.iter().skip((panel + PREFETCH) * R).take(R);
                for &row in ahead.filter(|&&row| row != NO_ROW) {
                    for v in 0..V {
                        isa.prefetch(line(row, v));
                    }
                }
                for (g, &row) in g.iter_mut().zip(rows) {
                    if row != NO_ROW {
                        for (v, g) in g.iter_mut().enumerate() {
                            *g = isa.load(line(row, v));
                        }
                    }
                }
                match R {
                    1 => {}
                    2 => walk.run::<W, R, V, 3>(isa, counts, 0, &g),
                    _ => {
                        walk.run::<W, R, V, 15>(isa, counts, 0, &g);
                        walk.run::<W, R, V, 7>(isa, counts, 1, &g);
                        walk.run::<W, R, V, 11>(isa, counts, 2, &g);
                        walk.run::<W, R, V, 13>(isa, counts, 3, &g);
                        walk.run::<W, R, V, 14>(isa, counts, 4, &g);
                        walk.run::<W, R, V, 3>(isa, counts, 5, &g);
                        walk.run::<W, R, V, 12>(isa, counts, 6, &g);
                        walk.run::<W, R, V, 5>(isa, counts, 7, &g);
                        walk.run::<W, R, V, 10>(isa, counts, 8, &g);
                        walk.run::<W, R, V, 9>(isa, counts, 9, &g);
                        walk.run::<W, R, V, 6>(isa, counts, 10, &g);
                    }
                }
                walk.run_singles::<W, R, V>(isa, counts[row_sets - 1], &g);
            }
        }
        // SAFETY: `partial` has a line per group, and one before.
        unsafe { walk.finish::<W>(isa) };
        V
    }
}

/// Walks the columns of a block.
struct Walk<I: Isa> {
    x: *const f32,
    columns: *const u16,
    /// Partial sums of the last group.
    to: *mut f32,
    /// Its products, if they are reduced [later](Walk::LATER).
    pending: [I::V; GROUP],
}

impl<I: Isa> Walk<I> {
    /// Whether a group is reduced while the next one is multiplied.
    const LATER: bool = I::REGISTERS >= 32;

    /// The columns whose non-zeros are in the rows of the bits of `SET`.
    #[inline(always)]
    unsafe fn run<W: Arithmetic, const R: usize, const V: usize, const SET: usize>(
        &mut self,
        isa: I,
        counts: &[u16],
        which: usize,
        g: &[[I::V; V]; R],
    ) {
        if SET >= 1 << R {
            return;
        }
        // SAFETY: the caller vouches for counts, columns, sums and X.
        unsafe {
            let whole =
                const { if W::PAIRS && whole_groups(SET) == 1 { 2 } else { whole_groups(SET) } };
            let rows = SET.count_ones() as usize;
            for _ in 0..usize::from(*counts.get_unchecked(which)) / whole {
                let mut columns = [self.x; GROUP];
                for (at, lines) in columns[..whole].iter_mut().enumerate() {
                    *lines = self.lines::<V>(isa, *self.columns.add(at));
                }
                self.columns = self.columns.add(whole);
                for group in 0..whole * rows / GROUP {
                    let (mut of, mut lines) = ([&g[0]; GROUP], [self.x; GROUP]);
                    for at in 0..GROUP {
                        let (row, column) = const { order(SET, W::PAIRS) }[group * GROUP + at];
                        of[at] = &g[row];
                        lines[at] = columns[column];
                    }
                    let products = products::<I, W, V>(isa, of, lines);
                    self.add::<W>(isa, products);
                }
            }
        }
    }

    /// The lines of a column.
    /// # Safety
    /// X has the column.
    #[inline(always)]
    unsafe fn lines<const V: usize>(&self, isa: I, column: u16) -> *const f32 {
        // SAFETY: the caller vouches for the column.
        unsafe { isa.address(self.x.add(usize::from(column) * V * LANES)) }
    }

    /// Every round is some columns of each single row, in groups.
    #[inline(always)]
    unsafe fn run_singles<W: Arithmetic, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        rounds: u16,
        g: &[[I::V; V]; R],
    ) {
        // SAFETY: the caller vouches for rounds, columns, sums and X.
        unsafe {
            for _ in 0..rounds {
                for group in 0..round(R, W::PAIRS) / GROUP {
                    // One load for the columns of a group, for loads are what this loop waits for.
                    let columns = self.columns.cast::<u64>().read_unaligned().to_le();
                    self.columns = self.columns.add(GROUP);
                    let (mut of, mut lines) = ([&g[0]; GROUP], [self.x; GROUP]);
                    for at in 0..GROUP {
                        let row = if W::PAIRS { (group * GROUP + at) / 2 } else { at };
                        of[at] = &g[row % R];
                        lines[at] = self.lines::<V>(isa, (columns >> (16 * at)) as u16);
                    }
                    let products = products::<I, W, V>(isa, of, lines);
                    self.add::<W>(isa, products);
                }
            }
        }
    }

    /// Takes the products of the next group.
    /// # Safety
    /// There are partial sums of another group.
    #[inline(always)]
    unsafe fn add<W: Arithmetic>(&mut self, isa: I, products: [I::V; GROUP]) {
        // SAFETY: the caller vouches for the partial sums.
        unsafe {
            if Self::LATER {
                self.reduce::<W>(isa);
            }
            self.to = self.to.add(LANES);
            self.pending = products;
            if !Self::LATER {
                self.reduce::<W>(isa);
            }
        }
    }

    /// Reduces what is left.
    /// # Safety
    /// There are partial sums of the last group.
    #[inline(always)]
    unsafe fn finish<W: Arithmetic>(&mut self, isa: I) {
        if Self::LATER {
            // SAFETY: the caller vouches for the partial sums.
            unsafe { self.reduce::<W>(isa) };
        }
    }

    /// Adds the pending products to the partial sums of their group.
    /// # Safety
    /// There are some.
    #[inline(always)]
    unsafe fn reduce<W: Arithmetic>(&mut self, isa: I) {
        // SAFETY: the caller vouches for the partial sums.
        unsafe {
            let sums = W::sum_within_quarters(isa, self.pending);
            isa.store(self.to, isa.add(isa.load(self.to), sums));
        }
    }
}

/// Row and column, among those of a set that come together, of its values in their order: column by column, of
/// pairs two columns of a row and then of the next.
const fn order(set: usize, pairs: bool) -> [(usize, usize); 3 * GROUP] {
    let (mut order, mut filled, mut column) = ([(0, 0); 3 * GROUP], 0, 0);
    let together = if pairs { 2 } else { 1 };
    while column < GROUP {
        let mut row = 0;
        while row < 4 {
            let mut beside = 0;
            while set >> row & 1 == 1 && beside < together && filled < 3 * GROUP {
                order[filled] = (row, column + beside);
                (filled, beside) = (filled + 1, beside + 1);
            }
            row += 1;
        }
        column += together;
    }
    order
}

/// Four times Σ g · x, lane by lane.
/// # Safety
/// There are `V` lines at each of `x`.
#[inline(always)]
unsafe fn products<I: Isa, W: Arithmetic, const V: usize>(
    isa: I,
    g: [&[I::V; V]; GROUP],
    x: [*const f32; GROUP],
) -> [I::V; GROUP] {
    let mut products = [g[0][0]; GROUP];
    // SAFETY: the caller vouches for the lines.
    unsafe {
        if const { I::REGISTERS >= 32 } {
            // Neighbouring FMAs belong to different products: none waits for the one before.
            for v in 0..V {
                for (at, product) in products.iter_mut().enumerate() {
                    *product = next::<I, W, V>(isa, g[at], x[at], v, *product);
                }
            }
        } else {
            // Four unfinished products and the lines of dY do not fit: one after the other.
            for (at, product) in products.iter_mut().enumerate() {
                for v in 0..V {
                    *product = next::<I, W, V>(isa, g[at], x[at], v, *product);
                }
            }
        }
    }
    products
}

/// The sum with its `v`-th product, which is the first if `v` is 0.
/// # Safety
/// There are `V` lines at `x`, and `v` is below.
#[inline(always)]
unsafe fn next<I: Isa, W: Arithmetic, const V: usize>(
    isa: I,
    g: &[I::V; V],
    x: *const f32,
    v: usize,
    sum: I::V,
) -> I::V {
    // SAFETY: the caller vouches for the line.
    let x = unsafe { isa.load(x.add(v * LANES)) };
    match v {
        0 => W::multiply(isa, g[v], x),
        _ => W::multiply_add(isa, g[v], x, sum),
    }
}
