//! Activations between rows `[token][feature]`, as programs outside hold them, and tiles.
//!
//! Both ways are 16 × 16 transposes in registers, tile by tile in parallel. Rows have the precision of their
//! elements, whatever that of the products is: bf16 rows may become `f32` tiles, and `f32` rows bf16 lines.
//! [`through_tiles`] goes both ways with a product between them.

use crate::isa::{Isa, Kernel, dispatch};
use crate::ops::extent::size;
use crate::parallel::for_each_chunk;
use crate::rounding::{HalfTiles, bf16_bits, half_words, narrow, widen};
use crate::{LANES, Lines, Precision, Scratch};
use bytemuck::Pod;
use half::{bf16, f16};
use rayon::prelude::*;

/// A number that rows are made of.
pub trait RowElement: Pod + Send + Sync {
    /// The same number.
    fn widened(self) -> f32;
    /// The nearest one, ties to even.
    fn nearest(x: f32) -> Self;
}

impl RowElement for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        x
    }
}

impl RowElement for bf16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        bf16::from_bits(bf16_bits(x) as u16)
    }
}

impl RowElement for f16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        f16::from_f32(x)
    }
}

/// Activations as the products of a precision take them, made of rows.
pub enum RowTiles {
    /// `[tile][feature][LANES]`.
    F32(Scratch),
    /// Rounded.
    Half(HalfTiles),
}

impl RowTiles {
    /// Lays rows of `features` elements out; the lanes after the last token are zeros.
    /// # Panics
    /// If `rows` is not made of whole rows.
    #[track_caller]
    pub fn new<E: RowElement>(precision: Precision, rows: &[E], features: usize) -> Self {
        let tiles = tokens(rows.len(), features).div_ceil(LANES);
        let mut words = Scratch::take(words(precision, tiles, features));
        fill(precision, rows, features, &mut words);
        Self::of_words(precision, words)
    }

    /// What [`fill`] has filled.
    fn of_words(precision: Precision, words: Scratch) -> Self {
        match precision {
            Precision::F32 => Self::F32(words),
            _ => Self::Half(HalfTiles::of_words(precision, words)),
        }
    }

    /// The elements.
    pub fn lines(&self) -> Lines<'_> {
        match self {
            Self::F32(tiles) => Lines::F32(tiles),
            Self::Half(tiles) => tiles.lines(),
        }
    }
}

/// Words of 32 bits that so many tiles take.
fn words(precision: Precision, tiles: usize, features: usize) -> usize {
    match precision {
        Precision::F32 => size(&[tiles, features, LANES]),
        _ => half_words(tiles, features),
    }
}

/// Lays rows out in [`words`].
fn fill<E: RowElement>(precision: Precision, rows: &[E], features: usize, words: &mut [f32]) {
    // Of 16 bits, a pair of tiles is one.
    let (together, tile) = match precision {
        Precision::F32 => (tiles_together(features), features * LANES),
        _ => (1, 2 * features * LANES),
    };
    let chunk = together * tile;
    for_each_chunk(words, (together * features * LANES).max(1), |at, to| {
        let rows = &rows[at * chunk..rows.len().min((at + 1) * chunk)];
        match precision {
            Precision::F32 => dispatch(ToTiles { rows, features, to }),
            _ => dispatch(ToLines { precision, rows, features, to }),
        }
    });
}

/// Tiles that [`through_tiles`] takes at once, unless that makes too few tasks for the threads: 256 tokens.
const AT_ONCE: usize = 16;

/// Rows of x through a product: they become tiles, of which `product` makes those of y, which become rows again.
/// x is `[token][inputs]`, y `[token][outputs]`; the product is called with some tiles of x, and as many of y, which hold
/// anything and which it must fill. Returns all tiles of x.
///
/// Some tokens go all the way before the next ones do, each on one thread if there are many: what one step has written
/// is in a cache when the next one reads it.
/// # Panics
/// If `x` or `y` is not made of whole rows, or they have different numbers of tokens.
#[track_caller]
pub fn through_tiles<E: RowElement, F: RowElement>(
    precision: Precision,
    x: &[E],
    inputs: usize,
    y: &mut [F],
    outputs: usize,
    product: impl Fn(Lines<'_>, &mut [f32]) + Sync,
) -> RowTiles {
    let (of_x, of_y) = (tokens(x.len(), inputs), tokens(y.len(), outputs));
    let tiles = of_x.max(of_y).div_ceil(LANES);
    if inputs == 0 || outputs == 0 {
        let x = RowTiles::new(precision, x, inputs);
        let mut out = Scratch::take(size(&[tiles, outputs, LANES]));
        product(x.lines(), &mut out);
        tiles_to_rows(&out, outputs, y);
        return x;
    }
    assert_eq!(of_x, of_y, "both sides of a product have the same tokens");
    // An even number: lines of 16 bits are of pairs of tiles.
    let tasks = 4 * rayon::current_num_threads();
    let block = (tiles / tasks).clamp(AT_ONCE / 2, AT_ONCE).next_multiple_of(2);
    let mut of_tiles = Scratch::take(words(precision, tiles, inputs));
    let blocks = x.par_chunks(block * LANES * inputs).zip_eq(
        of_tiles
            .par_chunks_mut(words(precision, block, inputs))
            .zip_eq(y.par_chunks_mut(block * LANES * outputs)),
    );
    blocks.with_max_len(1).for_each(|(x, (of_tiles, y))| {
        fill(precision, x, inputs, of_tiles);
        let tiles = (y.len() / outputs).div_ceil(LANES);
        let mut out = Scratch::take(size(&[tiles, outputs, LANES]));
        product(Lines::of_words(precision, of_tiles), &mut out);
        tiles_to_rows(&out, outputs, y);
    });
    RowTiles::of_words(precision, of_tiles)
}

/// Gathers the rows of the first tokens of tiles `[tile][feature][LANES]`, as many as `rows` has room for.
/// # Panics
/// If `rows` is not made of whole rows, or `tiles` does not hold as many tiles as they take.
#[track_caller]
pub fn tiles_to_rows<E: RowElement>(tiles: &[f32], features: usize, rows: &mut [E]) {
    let needed = tokens(rows.len(), features).div_ceil(LANES);
    assert_eq!(tiles.len(), size(&[needed, features, LANES]), "tiles and rows disagree");
    let chunk = tiles_together(features) * LANES * features;
    let task = |at: usize, rows: &mut [E]| {
        let tiles = &tiles[at * chunk..tiles.len().min((at + 1) * chunk)];
        dispatch(ToRows { tiles, features, rows });
    };
    match rows.len() {
        0 => {}
        all if all <= chunk => task(0, rows),
        _ => {
            let chunks = rows.par_chunks_mut(chunk).with_max_len(1).enumerate();
            chunks.for_each(|(at, rows)| task(at, rows));
        }
    }
}

/// Sums of every feature of tiles over all of their lanes, of which those after the last token are zeros.
/// # Panics
/// If `tiles` is not made of whole tiles of so many features.
#[track_caller]
pub fn sum_tokens(tiles: Lines<'_>, sums: &mut [f32]) {
    let features = sums.len();
    assert!(tiles.len().is_multiple_of(size(&[features.max(1), tiles.line()])), "tiles are whole");
    for_each_chunk(sums, SUM_BLOCK, |block, sums| {
        dispatch(SumTokens { tiles, features, first: block * SUM_BLOCK, sums });
    });
}

/// Rows that `elements` make.
#[track_caller]
fn tokens(elements: usize, features: usize) -> usize {
    assert!(elements.is_multiple_of(features), "not made of rows of {features}: {elements}");
    elements.checked_div(features).unwrap_or(0)
}

/// Tiles that one task takes: small ones are not worth a task each.
fn tiles_together(features: usize) -> usize {
    (1024 / features.max(1)).max(1)
}

/// `width` columns from `first` on of up to sixteen rows, transposed: a line per column.
#[inline(always)]
fn columns<I: Isa, E: RowElement>(
    isa: I,
    rows: &[E],
    features: usize,
    first: usize,
    width: usize,
) -> [I::V; LANES] {
    let mut block = [isa.splat(0.0); LANES];
    if width == LANES && rows.len() == LANES * features {
        for (token, v) in block.iter_mut().enumerate() {
            *v = load(isa, &rows[token * features + first..][..LANES]);
        }
    } else {
        for (v, row) in block.iter_mut().zip(rows.chunks_exact(features)) {
            *v = load(isa, &row[first..first + width]);
        }
    }
    isa.transpose(block)
}

/// Asks for what the block after the next one reads or writes: sixteen rows are more streams than CPUs foresee
/// (a tenth of the time of both ways when measured).
#[inline(always)]
fn prefetch<I: Isa, E: RowElement>(isa: I, rows: &[E], features: usize, block: usize) {
    for row in rows.chunks_exact(features) {
        isa.prefetch(row.as_ptr().wrapping_add((block + 2) * LANES).cast());
    }
}

/// Up to sixteen numbers, and zeros after them.
#[inline(always)]
fn load<I: Isa, E: RowElement>(isa: I, from: &[E]) -> I::V {
    let mut line = [0.0; LANES];
    for (to, from) in line.iter_mut().zip(from) {
        *to = from.widened();
    }
    isa.load_line(&line)
}

struct ToTiles<'a, E> {
    rows: &'a [E],
    features: usize,
    to: &'a mut [f32],
}

impl<E: RowElement> Kernel for ToTiles<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let features = self.features;
        let tiles = self.to.chunks_exact_mut(features * LANES);
        for (rows, tile) in self.rows.chunks(features * LANES).zip(tiles) {
            for (block, lines) in tile.chunks_mut(LANES * LANES).enumerate() {
                let lines = lines.as_chunks_mut().0;
                prefetch(isa, rows, features, block);
                let columns = columns(isa, rows, features, block * LANES, lines.len());
                for (to, line) in lines.iter_mut().zip(columns) {
                    isa.store_line(to, line);
                }
            }
        }
    }
}

/// One pair of tiles.
struct ToLines<'a, E> {
    precision: Precision,
    rows: &'a [E],
    features: usize,
    to: &'a mut [f32],
}

impl<E: RowElement> Kernel for ToLines<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let features = self.features;
        let (first, second) = self.rows.split_at(self.rows.len().min(features * LANES));
        for (block, lines) in self.to.chunks_mut(LANES * LANES).enumerate() {
            let lines = lines.as_chunks_mut().0;
            let a = columns(isa, first, features, block * LANES, lines.len());
            let b = columns(isa, second, features, block * LANES, lines.len());
            for (to, (a, b)) in lines.iter_mut().zip(a.into_iter().zip(b)) {
                isa.store_line(to, narrow(isa, self.precision, a, b));
            }
        }
    }
}

struct ToRows<'a, E> {
    tiles: &'a [f32],
    features: usize,
    rows: &'a mut [E],
}

impl<E: RowElement> Kernel for ToRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let features = self.features;
        let tiles = self.tiles.chunks_exact(features * LANES);
        for (tile, rows) in tiles.zip(self.rows.chunks_mut(features * LANES)) {
            for (block, lines) in tile.chunks(LANES * LANES).enumerate() {
                let lines = lines.as_chunks().0;
                prefetch(isa, rows, features, block);
                let mut columns = [isa.splat(0.0); LANES];
                for (v, line) in columns.iter_mut().zip(lines) {
                    *v = isa.load_line(line);
                }
                let tokens = isa.transpose(columns);
                for (row, token) in rows.chunks_exact_mut(features).zip(tokens) {
                    let (to, token) = (&mut row[block * LANES..], isa.to_array(token));
                    // Whole blocks are stored as such.
                    match to.first_chunk_mut::<LANES>() {
                        Some(to) => *to = token.map(E::nearest),
                        None => to.iter_mut().zip(token).for_each(|(to, x)| *to = E::nearest(x)),
                    }
                }
            }
        }
    }
}

/// Features per parallel task of a sum over tokens.
const SUM_BLOCK: usize = 64;

struct SumTokens<'a> {
    tiles: Lines<'a>,
    features: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for SumTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let precision = self.tiles.precision();
        let mut sums = [isa.splat(0.0); SUM_BLOCK];
        for tile in self.tiles.words().chunks_exact(self.features * LANES) {
            let lines = &tile.as_chunks().0[self.first..];
            for (sum, line) in sums[..self.sums.len()].iter_mut().zip(lines) {
                let line = isa.load_line(line);
                if precision == Precision::F32 {
                    *sum = isa.add(*sum, line);
                } else {
                    let (a, b) = widen(isa, precision, line);
                    *sum = isa.add(isa.add(*sum, a), b);
                }
            }
        }
        for (to, sum) in self.sums.iter_mut().zip(sums) {
            *to = isa.sum(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::widened;

    const SHAPES: [(usize, usize); 9] =
        [(0, 5), (1, 1), (3, 0), (15, 16), (16, 17), (17, 31), (33, 48), (70, 100), (40, 1)];

    fn rows<E: RowElement>(tokens: usize, features: usize) -> Vec<E> {
        (0..tokens * features).map(|at| E::nearest((at % 251) as f32 - 99.0)).collect()
    }

    fn there_and_back<E: RowElement + PartialEq + std::fmt::Debug>() {
        for (tokens, features) in SHAPES {
            let rows = rows::<E>(tokens, features);
            let RowTiles::F32(tiles) = RowTiles::new(Precision::F32, &rows, features) else {
                panic!("tiles of f32 were asked for");
            };
            for (at, &x) in tiles.iter().enumerate() {
                let (line, lane) = (at / LANES, at % LANES);
                let (token, feature) = (line / features * LANES + lane, line % features);
                let row = rows.get(token * features + feature).filter(|_| token < tokens);
                assert_eq!(x, row.map_or(0.0, |x| x.widened()), "{tokens} × {features}: {at}");
            }
            let mut back = vec![E::nearest(-1.0); rows.len()];
            tiles_to_rows(&tiles, features, &mut back);
            assert_eq!(back, rows, "{tokens} × {features}");
        }
    }

    #[test]
    fn rows_of_every_element_become_tiles_and_come_back() {
        there_and_back::<f32>();
        there_and_back::<bf16>();
        there_and_back::<f16>();
    }

    #[test]
    fn rows_become_the_lines_that_their_tiles_are_rounded_to() {
        for precision in [Precision::Bf16, Precision::F16] {
            for (tokens, features) in SHAPES.into_iter().filter(|shape| shape.1 > 0) {
                let rows: Vec<f32> = rows(tokens, features).iter().map(|x: &f32| x / 7.0).collect();
                let of = |precision| RowTiles::new(precision, &rows, features);
                let (tiles, lines) = (of(Precision::F32), of(precision));
                let rounded = HalfTiles::rounded(precision, tiles.lines().f32(), features);
                let bits = |lines: Lines<'_>| lines.words().iter().map(|x| x.to_bits()).collect();
                let (found, expected): (Vec<_>, Vec<_>) =
                    (bits(lines.lines()), bits(rounded.lines()));
                assert_eq!(found, expected, "{precision}, {tokens} × {features}");
            }
        }
    }

    #[test]
    fn a_product_between_rows_is_that_of_all_of_their_tiles() {
        /// Output `o` is input `o % inputs` and a constant: 1, if there are no inputs.
        fn product(tiles: usize, x: &[f32], inputs: usize, y: &mut [f32], outputs: usize) {
            for at in 0..tiles * outputs {
                let (tile, output) = (at / outputs, at % outputs);
                for lane in 0..LANES {
                    let from = (tile * inputs + output.checked_rem(inputs).unwrap_or(0)) * LANES;
                    y[at * LANES + lane] = 1.0 + x.get(from + lane).copied().unwrap_or(0.0);
                }
            }
        }
        let shapes = [(0, 3, 2), (1, 1, 1), (40, 0, 5), (40, 5, 0), (300, 17, 33), (700, 40, 8)];
        for precision in Precision::ALL {
            for (tokens, inputs, outputs) in shapes {
                let x = rows::<f32>(tokens, inputs);
                let mut y = vec![f16::from_f32(-1.0); tokens * outputs];
                let kept = through_tiles(precision, &x, inputs, &mut y, outputs, |x, y| {
                    let tiles = y.len().checked_div(outputs * LANES).unwrap_or(0);
                    if tiles > 0 {
                        let x = widened(x, inputs, tiles);
                        product(tiles, &x, inputs, y, outputs);
                    }
                });
                for (at, y) in y.iter().enumerate() {
                    let (token, output) = (at / outputs, at % outputs);
                    let x = output.checked_rem(inputs).map_or(0.0, |i| x[token * inputs + i]);
                    assert_eq!(y.to_f32(), 1.0 + x, "{precision}, {tokens}: {inputs} → {outputs}");
                }
                let bits = |lines: Lines<'_>| -> Vec<u32> {
                    lines.words().iter().map(|x| x.to_bits()).collect()
                };
                let all = RowTiles::new(precision, &x, inputs);
                assert_eq!(
                    bits(kept.lines()),
                    bits(all.lines()),
                    "{precision}, {tokens} × {inputs}"
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "same tokens")]
    fn a_product_between_different_numbers_of_rows_is_refused() {
        through_tiles(Precision::F32, &[0.0f32; 4], 2, &mut [0.0f32; 9], 3, |_, _| {});
    }

    #[test]
    fn sums_run_over_the_tokens_of_a_feature() {
        for precision in Precision::ALL {
            for (tokens, features) in SHAPES {
                let rows = rows::<f32>(tokens, features);
                let tiles = RowTiles::new(precision, &rows, features);
                let mut sums = vec![f32::NAN; features];
                sum_tokens(tiles.lines(), &mut sums);
                for (feature, sum) in sums.into_iter().enumerate() {
                    // Small whole numbers: exact in any order and precision.
                    let expected: f32 = rows.iter().skip(feature).step_by(features).sum();
                    assert_eq!(sum, expected, "{precision}, {tokens} × {features}: {feature}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "tiles and rows disagree")]
    fn tiles_of_another_number_of_tokens_are_refused() {
        tiles_to_rows(&[0.0; 16], 1, &mut [0.0f32; 17]);
    }
}
