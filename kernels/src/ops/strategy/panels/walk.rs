//! The dot products of the weight gradient: the walk over the columns of a block, panel by panel, that multiplies lines
//! of dY, which are in registers, with those of X.
//!
//! Dot products come in groups of four, which are reduced together to one line of sixteen partial sums
//! ([`Isa::sum_within_quarters`]). With many registers, two groups are multiplied at once, and reduced while the next
//! two are: eight FMAs in a row wait for nothing, and neither do the additions and shuffles between them, so that few
//! instructions fill the queue in which a CPU keeps those that wait.

use super::blocking::{GROUP, round, whole_groups};
use super::order::lines_of;
use crate::LANES;
use crate::isa::Isa;
use crate::ops::arithmetic::Arithmetic;
use std::marker::PhantomData;

/// Walks the columns of a block.
pub(super) struct Walk<I: Isa> {
    x: *const f32,
    columns: *const u16,
    /// Partial sums of the next group.
    to: *mut f32,
    /// Products that are reduced [`later`], of a group or [two](two_at_once), and where their sums go.
    pending: [[I::V; GROUP]; 2],
    pending_to: *mut f32,
}

/// Lines that nobody reads, for the sums of no products: those that are pending at first.
pub(super) const SLACK: usize = 2 * LANES;

/// Whether groups are reduced while the next ones are multiplied.
const fn later<I: Isa>() -> bool {
    I::REGISTERS >= 32
}

/// Whether two groups are multiplied together: eight sums hide the latency of an FMA, and leave registers for
/// eight that are reduced meanwhile.
const fn two_at_once<I: Isa>(panel_rows: usize, vectors: usize) -> bool {
    later::<I>() && panel_rows * vectors <= 8
}

impl<I: Isa> Walk<I> {
    /// The walk over a block's columns, whose lines are at `x`; `partial` is [`SLACK`] and a line per group.
    #[inline(always)]
    pub(super) fn new(isa: I, x: &[f32], columns: &[u16], partial: &mut [f32]) -> Self {
        Self {
            x: x.as_ptr(),
            columns: columns.as_ptr(),
            to: partial[SLACK..].as_mut_ptr(),
            pending: [[isa.splat(0.0); GROUP]; 2],
            pending_to: partial.as_mut_ptr(),
        }
    }

    /// The columns of the next panel: `counts` of each row set, `g` the lines of its rows of dY.
    /// # Safety
    /// The panel has so many columns, all of X, and there are partial sums of their groups.
    #[inline(always)]
    pub(super) unsafe fn panel<W: Arithmetic, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        counts: &[u16],
        g: &[[I::V; V]; R],
    ) {
        // SAFETY: the caller vouches for columns, sums and X.
        unsafe {
            match R {
                1 => {}
                2 => self.set::<W, R, V, 3>(isa, counts[0], g),
                _ => {
                    self.set::<W, R, V, 15>(isa, counts[0], g);
                    self.set::<W, R, V, 7>(isa, counts[1], g);
                    self.set::<W, R, V, 11>(isa, counts[2], g);
                    self.set::<W, R, V, 13>(isa, counts[3], g);
                    self.set::<W, R, V, 14>(isa, counts[4], g);
                    self.set::<W, R, V, 3>(isa, counts[5], g);
                    self.set::<W, R, V, 12>(isa, counts[6], g);
                    self.set::<W, R, V, 5>(isa, counts[7], g);
                    self.set::<W, R, V, 10>(isa, counts[8], g);
                    self.set::<W, R, V, 9>(isa, counts[9], g);
                    self.set::<W, R, V, 6>(isa, counts[10], g);
                }
            }
            self.run::<Singles<W, R>, W, R, V>(isa, counts[counts.len() - 1], g);
        }
    }

    /// The columns whose non-zeros are in the rows of the bits of `SET`, if a panel has such rows.
    /// # Safety
    /// See [`Self::run`].
    #[inline(always)]
    unsafe fn set<W: Arithmetic, const R: usize, const V: usize, const SET: usize>(
        &mut self,
        isa: I,
        count: u16,
        g: &[[I::V; V]; R],
    ) {
        if SET < 1 << R {
            let units = count / const { Shared::<W, SET>::COLUMNS as u16 };
            // SAFETY: the caller vouches for columns, sums and X.
            unsafe { self.run::<Shared<W, SET>, W, R, V>(isa, units, g) };
        }
    }

    /// The products of so many units.
    /// # Safety
    /// There are as many columns, all of X, and partial sums.
    #[inline(always)]
    unsafe fn run<U: Unit, W: Arithmetic, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        units: u16,
        g: &[[I::V; V]; R],
    ) {
        // SAFETY: the caller vouches for columns, sums and X.
        unsafe {
            if const { two_at_once::<I>(R, V) && U::GROUPS == 1 } {
                // Twice, so that pending products and new ones take turns with registers, and none is copied.
                for _ in 0..units / 4 {
                    self.two::<U, W, R, V>(isa, g);
                    self.two::<U, W, R, V>(isa, g);
                }
                if units & 2 != 0 {
                    self.two::<U, W, R, V>(isa, g);
                }
                if units & 1 != 0 {
                    self.one::<U, W, R, V>(isa, g, false);
                }
            } else if const { later::<I>() && !two_at_once::<I>(R, V) } {
                for _ in 0..units / 2 {
                    self.one::<U, W, R, V>(isa, g, true);
                    self.one::<U, W, R, V>(isa, g, true);
                }
                if units & 1 != 0 {
                    self.one::<U, W, R, V>(isa, g, true);
                }
            } else {
                for _ in 0..units {
                    self.one::<U, W, R, V>(isa, g, false);
                }
            }
        }
    }

    /// One unit, group by group; `later` leaves the products of each pending, and reduces those before.
    /// # Safety
    /// See [`Self::run`].
    #[inline(always)]
    unsafe fn one<U: Unit, W: Arithmetic, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        g: &[[I::V; V]; R],
        later: bool,
    ) {
        // SAFETY: the caller vouches for columns, sums and X.
        unsafe {
            let lines = self.next::<U, V>(isa);
            for group in 0..U::GROUPS {
                let (mut of, mut x) = ([&g[0]; GROUP], [self.x; GROUP]);
                for at in 0..GROUP {
                    let (row, column) = const { U::ORDER }[group * GROUP + at];
                    (of[at], x[at]) = (&g[row], lines[column]);
                }
                let products = products::<I, W, V, GROUP>(isa, of, x);
                if later {
                    self.reduce_pending::<W, 1>(isa);
                    (self.pending[0], self.pending_to) = (products, self.to);
                } else {
                    reduce::<I, W>(isa, products, self.to);
                }
                self.to = self.to.add(LANES);
            }
        }
    }

    /// Two units of a group each.
    /// # Safety
    /// See [`Self::run`].
    #[inline(always)]
    unsafe fn two<U: Unit, W: Arithmetic, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        g: &[[I::V; V]; R],
    ) {
        // SAFETY: the caller vouches for columns, sums and X.
        unsafe {
            let lines = [self.next::<U, V>(isa), self.next::<U, V>(isa)];
            let (mut of, mut x) = ([&g[0]; 2 * GROUP], [self.x; 2 * GROUP]);
            for at in 0..2 * GROUP {
                let (row, column) = const { U::ORDER }[at % GROUP];
                (of[at], x[at]) = (&g[row], lines[at / GROUP][column]);
            }
            let products = products::<I, W, V, { 2 * GROUP }>(isa, of, x);
            self.reduce_pending::<W, 2>(isa);
            self.pending = *products.as_chunks().0.as_array().expect("two groups");
            self.pending_to = self.to;
            self.to = self.to.add(2 * LANES);
        }
    }

    /// The lines of the columns of the next unit.
    /// # Safety
    /// There is one, and X has its columns.
    #[inline(always)]
    unsafe fn next<U: Unit, const V: usize>(&mut self, isa: I) -> [*const f32; 2 * GROUP] {
        let mut lines = [self.x; 2 * GROUP];
        // SAFETY: the caller vouches for the columns.
        unsafe {
            for (at, lines) in lines[..U::COLUMNS].iter_mut().enumerate() {
                let place = if const { later::<I>() || !U::COLUMNS.is_multiple_of(GROUP) } {
                    *self.columns.add(at)
                } else {
                    // One load for the columns of a group, for loads are what such loops wait for.
                    let places = self.columns.add(at / GROUP * GROUP).cast::<u64>();
                    (places.read_unaligned().to_le() >> (16 * (at % GROUP))) as u16
                };
                *lines = isa.address(lines_of(self.x, isa.index(place), V));
            }
            self.columns = self.columns.add(U::COLUMNS);
        }
        lines
    }

    /// Reduces what is left.
    /// # Safety
    /// There are partial sums of the last groups.
    #[inline(always)]
    pub(super) unsafe fn finish<W: Arithmetic, const R: usize, const V: usize>(&mut self, isa: I) {
        // SAFETY: the caller vouches for the partial sums.
        unsafe {
            if const { two_at_once::<I>(R, V) } {
                self.reduce_pending::<W, 2>(isa);
            } else if const { later::<I>() } {
                self.reduce_pending::<W, 1>(isa);
            }
        }
    }

    /// Adds the pending products of `N` groups to their partial sums.
    /// # Safety
    /// There are some.
    #[inline(always)]
    unsafe fn reduce_pending<W: Arithmetic, const N: usize>(&mut self, isa: I) {
        for group in 0..N {
            // SAFETY: the caller vouches for the partial sums.
            unsafe {
                reduce::<I, W>(isa, self.pending[group], self.pending_to.add(group * LANES));
            }
        }
    }
}

/// Adds the products of a group to its partial sums.
/// # Safety
/// They are at `to`.
#[inline(always)]
unsafe fn reduce<I: Isa, W: Arithmetic>(isa: I, products: [I::V; GROUP], to: *mut f32) {
    let sums = W::sum_within_quarters(isa, products);
    // SAFETY: the caller vouches for the partial sums.
    unsafe { isa.store(to, isa.add(isa.load(to), sums)) };
}

/// What a count of a panel counts: some columns whose values make whole groups.
trait Unit {
    /// So many columns: at most two groups.
    const COLUMNS: usize;
    /// So many groups.
    const GROUPS: usize;
    /// The row of each value, and the column among those of the unit.
    const ORDER: [(usize, usize); 3 * GROUP];
}

/// Columns whose non-zeros are in the rows of the bits of `SET`.
struct Shared<W, const SET: usize>(PhantomData<W>);

impl<W: Arithmetic, const SET: usize> Unit for Shared<W, SET> {
    const COLUMNS: usize = if W::PAIRS && whole_groups(SET) == 1 { 2 } else { whole_groups(SET) };
    const GROUPS: usize = Self::COLUMNS * SET.count_ones() as usize / GROUP;
    const ORDER: [(usize, usize); 3 * GROUP] = order(SET, W::PAIRS);
}

/// A round: columns of each single row.
struct Singles<W, const R: usize>(PhantomData<W>);

impl<W: Arithmetic, const R: usize> Unit for Singles<W, R> {
    const COLUMNS: usize = round(R, W::PAIRS);
    const GROUPS: usize = Self::COLUMNS / GROUP;
    const ORDER: [(usize, usize); 3 * GROUP] = {
        let (mut order, mut at) = ([(0, 0); 3 * GROUP], 0);
        while at < Self::COLUMNS {
            order[at] = ((if W::PAIRS { at / 2 } else { at }) % R, at);
            at += 1;
        }
        order
    };
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

/// Some Σ g · x, lane by lane.
/// # Safety
/// There are `V` lines at each of `x`.
#[inline(always)]
unsafe fn products<I: Isa, W: Arithmetic, const V: usize, const N: usize>(
    isa: I,
    g: [&[I::V; V]; N],
    x: [*const f32; N],
) -> [I::V; N] {
    let mut products = [g[0][0]; N];
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
            // Unfinished products and the lines of dY do not fit: one after the other.
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
