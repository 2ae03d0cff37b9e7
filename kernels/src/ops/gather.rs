//! Copies in another order: values in that of a product, and lines of several tiles side by side.

use crate::isa::{Isa, IsaKind, Kernel, dispatch};
use crate::parallel::for_each_part;
use crate::rounding::{Nearest, Rounding, bf16_pair, widen};
use crate::{LANES, Lines, Scratch};
use std::ops::Range;

/// packed[i] = values[source[i]], or 0 where `source` names no value.
pub(super) fn gather_values(values: &[f32], source: &[u32], packed: &mut [f32]) {
    assert_eq!(packed.len(), source.len(), "one source per value is needed");
    let value = |at: u32| values.get(at as usize).copied().unwrap_or(0.0);
    packed.iter_mut().zip(source).for_each(|(to, &at)| *to = value(at));
}

/// The same rounded.
pub(super) fn gather_rounded(values: &[f32], source: &[u32], to: Nearest, packed: &mut [f32]) {
    for (packed, source) in packed.chunks_mut(BLOCK).zip(source.chunks(BLOCK)) {
        gather_values(values, source, packed);
        dispatch(Rounding { to, numbers: packed });
    }
}

/// Values that are gathered before they are rounded: they stay in L1.
const BLOCK: usize = 1 << 10;

/// The same as pairs of bf16, a word each.
pub(super) fn gather_pairs(values: &[f32], source: &[u32], packed: &mut [f32]) {
    assert_eq!(2 * packed.len(), source.len(), "two sources per pair are needed");
    let value = |at: u32| values.get(at as usize).copied().unwrap_or(0.0);
    for (to, &[low, high]) in packed.iter_mut().zip(source.as_chunks::<2>().0) {
        *to = bf16_pair(value(low), value(high));
    }
}

/// How micro-kernels get their operand into L1: the lines of `columns` in `V` tiles from `tile`, as
/// `[column][tile][LANES]`, one tile as it lies, several gathered into `lines`. Side by side they need
/// one address, and power-of-two strides between tiles cannot make them fight for the same sets of L1.
#[inline(always)]
pub(super) fn gather_tiles<'a, I: Isa, const V: usize>(
    isa: I,
    x: &'a [f32],
    features: usize,
    tile: usize,
    columns: Range<usize>,
    lines: &'a mut [f32],
) -> &'a [f32] {
    let of = |v: usize| {
        let from = ((tile + v) * features + columns.start) * LANES;
        &x[from..from + columns.len() * LANES]
    };
    if V == 1 {
        return of(0);
    }
    let lines = &mut lines[..columns.len() * V * LANES];
    for v in 0..V {
        for (from, to) in of(v).chunks_exact(LANES).zip(lines.chunks_exact_mut(V * LANES)) {
            // SAFETY: `from` holds one line and `to` V of them, v < V.
            unsafe { isa.store(to.as_mut_ptr().add(v * LANES), isa.load(from.as_ptr())) };
        }
    }
    lines
}

/// [`gather_tiles`] of tiles in any precision, as `f32`.
#[inline(always)]
pub(super) fn gather_lines<'a, I: Isa, const V: usize>(
    isa: I,
    x: Lines<'a>,
    features: usize,
    tile: usize,
    columns: Range<usize>,
    lines: &'a mut [f32],
) -> &'a [f32] {
    if let Lines::F32(x) = x {
        return gather_tiles::<I, V>(isa, x, features, tile, columns, lines);
    }
    let lines = &mut lines[..columns.len() * V * LANES];
    for (v, pair) in pairs_of_tiles::<V>(tile) {
        let words = lines_of(x.words(), features, pair, columns.clone());
        for (line, to) in words.iter().zip(lines.chunks_exact_mut(V * LANES)) {
            let both = widen(isa, x.precision(), isa.load_line(line));
            store_both(isa, both, tile + v, &mut to[v * LANES..]);
        }
    }
    lines
}

/// All tiles in groups, as `f32`, those of a feature side by side: `[group][feature][tile][LANES]`. A group begins where
/// the one before ends, and has as many tiles as `at_once` says for those that are left: 1, 2, 4 or 8.
pub(super) fn tiles_side_by_side(
    isa: IsaKind,
    x: Lines<'_>,
    features: usize,
    tiles: usize,
    at_once: impl Fn(usize) -> usize,
) -> Scratch {
    let mut all = Scratch::take(tiles * features * LANES);
    let (mut groups, mut rest, mut tile) = (Vec::new(), &mut all[..], 0);
    while tile < tiles {
        let vectors = at_once(tiles - tile);
        let (lines, others) = rest.split_at_mut(vectors * features * LANES);
        groups.push(TileGroup { x, features, tile, vectors, lines });
        (rest, tile) = (others, tile + vectors);
    }
    for_each_part(groups, |group| isa.run(group));
    all
}

/// Some tiles and the place for their lines.
struct TileGroup<'a> {
    x: Lines<'a>,
    features: usize,
    tile: usize,
    vectors: usize,
    lines: &'a mut [f32],
}

impl TileGroup<'_> {
    #[inline(always)]
    fn fill<I: Isa, const V: usize>(self, isa: I) {
        let Self { x, features, tile, lines, .. } = self;
        match x {
            Lines::F32(x) if V == 1 => {
                lines.copy_from_slice(&x[tile * features * LANES..(tile + 1) * features * LANES]);
            }
            _ => {
                gather_lines::<I, V>(isa, x, features, tile, 0..features, lines);
            }
        }
    }
}

impl Kernel for TileGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.vectors {
            8 => self.fill::<I, 8>(isa),
            4 => self.fill::<I, 4>(isa),
            2 => self.fill::<I, 2>(isa),
            _ => self.fill::<I, 1>(isa),
        }
    }
}

/// The words of pairs of neighbouring features of lines of bf16 in `V` tiles from `tile`, as
/// `[pair][tile][LANES]`; zeros beside a last feature.
#[inline(always)]
pub(super) fn gather_pairs_of_lines<'a, I: Isa, const V: usize>(
    isa: I,
    x: &[f32],
    features: usize,
    tile: usize,
    pairs: Range<usize>,
    lines: &'a mut [f32],
) -> &'a [f32] {
    let lines = &mut lines[..pairs.len() * V * LANES];
    let columns = 2 * pairs.start..(2 * pairs.end).min(features);
    for (v, pair) in pairs_of_tiles::<V>(tile) {
        let words = lines_of(x, features, pair, columns.clone());
        for (line, to) in words.chunks(2).zip(lines.chunks_exact_mut(V * LANES)) {
            let beside = line.get(1).map_or(isa.splat(0.0), |line| isa.load_line(line));
            let both = isa.interleave(isa.load_line(&line[0]), beside);
            store_both(isa, both, tile + v, &mut to[v * LANES..]);
        }
    }
    lines
}

/// The pairs of tiles that hold `V` tiles from `tile`, each with the first of the `V` that it holds.
#[inline(always)]
fn pairs_of_tiles<const V: usize>(tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let begins = move |v: &usize| *v == 0 || (tile + v).is_multiple_of(2);
    (0..V).filter(begins).map(move |v| (v, (tile + v) / 2))
}

/// The lines of some columns of a pair of tiles, as words.
#[inline(always)]
fn lines_of(x: &[f32], features: usize, pair: usize, columns: Range<usize>) -> &[[f32; LANES]] {
    let from = (pair * features + columns.start) * LANES;
    x[from..from + columns.len() * LANES].as_chunks().0
}

/// Stores what belongs to `tile` of both tiles of its pair, and to the next one if that is there and wanted.
#[inline(always)]
fn store_both<I: Isa>(isa: I, (a, b): (I::V, I::V), tile: usize, to: &mut [f32]) {
    let to = to.as_chunks_mut().0;
    if !tile.is_multiple_of(2) {
        return isa.store_line(&mut to[0], b);
    }
    isa.store_line(&mut to[0], a);
    if let Some(to) = to.get_mut(1) {
        isa.store_line(to, b);
    }
}
