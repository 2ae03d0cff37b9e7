//! Sampled dense–dense product, dW += (dY · Xᵀ) at the non-zeros of W: the weight gradient.
//!
//! Every non-zero (o, i) is the dot product of row o of dY with row i of X over all tokens. The plan is
//! that of the forward product: panels of R rows whose columns are grouped by row set. The lines of a
//! panel's rows of dY over V tiles stay in registers, a block of X over the same tiles stays in L1, and
//! a line of X is loaded once for all rows of its set. Dot products come in groups of four, of which each
//! leaves one line of sixteen partial sums ([`Walk`]). The lines of a block stay in L2 until all tiles are
//! done; then they are completed, four together ([`Isa::sum_over_quarters`]).
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
//! Loop nest, outside in: row blocks × K blocks (parallel) · groups of V tiles · panels · row sets ·
//! columns.

use super::blocking::GROUP;
use super::order::{Block, NO_ROW, PanelPlan};
use super::source::ZERO;
use super::walk::{SLACK, Walk};
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
    /// [`SLACK`], then a line of unfinished sums per group.
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
            partial: Scratch::take(SLACK + groups * LANES),
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
        let mut from = room.partial[SLACK..].as_ptr();
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
        let mut walk = Walk::new(isa, x, block.places, &mut room.partial);
        let row_sets = block.row_sets();
        let panels = block.rows.as_chunks::<R>().0;
        let counts = block.counts.chunks_exact(row_sets);
        for (panel, (rows, counts)) in panels.iter().zip(counts).enumerate() {
            let mut g = [[isa.splat(0.0); V]; R];
            // SAFETY: the plan names rows below `rows()`, columns below the block's width, and as many
            // columns and values as the counts say; tiles tile..tile + V exist, `sddmm` has checked
            // the extents of dY and X, and `partial` has a line per group.
            unsafe {
                let line = |row: u32, v: usize| dy.wrapping_add((row as usize * V + v) * LANES);
                // Rows come in the order of their counts, which no hardware prefetcher foresees.
                if let Some(rows) = panels.get(panel + PREFETCH) {
                    for &row in rows {
                        for v in 0..V {
                            isa.prefetch(line(row, v));
                        }
                    }
                }
                for (g, &row) in g.iter_mut().zip(rows) {
                    if row != NO_ROW {
                        for (v, g) in g.iter_mut().enumerate() {
                            *g = isa.load(line(row, v));
                        }
                    }
                }
                walk.panel::<W, R, V>(isa, counts, &g);
            }
        }
        // SAFETY: `partial` has a line per group, and two before.
        unsafe { walk.finish::<W, R, V>(isa) };
        V
    }
}
