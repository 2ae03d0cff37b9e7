//! Activations from `f32` to [16 bits](crate::precision) and back.

use crate::isa::{Isa, Kernel, dispatch};
use crate::ops::extent::tiles as tiles_of;
use crate::parallel::for_each_chunk;
use crate::{LANES, Lines, Precision, Scratch};
use std::ops::DerefMut;

/// The bits of the bf16 nearest to a number, ties to even, in the lower half: `bf16::from_f32` without a branch, so
/// that loops over it become vector code.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    if x.is_nan() { quiet } else { nearest }
}

/// Two numbers as bf16 in one word, the first in its lower half.
#[inline(always)]
pub(crate) fn bf16_pair(low: f32, high: f32) -> f32 {
    f32::from_bits(bf16_bits(high) << 16 | bf16_bits(low))
}

/// Activations rounded to 16 bits, in memory for the length of a computation or in a buffer that is handed over.
pub struct HalfTiles<B = Scratch> {
    precision: Precision,
    words: B,
}

/// Words of 32 bits that so many tiles take, rounded to 16 bits.
pub fn half_words(tiles: usize, features: usize) -> usize {
    tiles.div_ceil(2) * features * LANES
}

impl HalfTiles {
    /// Rounds tiles `[tile][feature][LANES]` to a precision of 16 bits.
    /// # Panics
    /// If the precision has more bits, or `tiles` is not made of whole tiles.
    #[track_caller]
    pub fn rounded(precision: Precision, tiles: &[f32], features: usize) -> Self {
        let count = tiles_of("the activations", tiles, features);
        Self::rounded_in(Scratch::take(half_words(count, features)), precision, tiles, features)
    }

    /// Words that are such lines already.
    pub(crate) fn of_words(precision: Precision, words: Scratch) -> Self {
        assert!(precision != Precision::F32, "f32 has more than 16 bits");
        Self { precision, words }
    }
}

impl<B: DerefMut<Target = [f32]>> HalfTiles<B> {
    /// Rounds tiles `[tile][feature][LANES]` to a precision of 16 bits, in a buffer of [`half_words`] that holds
    /// anything.
    /// # Panics
    /// If the precision has more bits, `tiles` is not made of whole tiles, or the buffer has another length.
    #[track_caller]
    pub fn rounded_in(words: B, precision: Precision, tiles: &[f32], features: usize) -> Self {
        assert!(precision != Precision::F32, "f32 has more than 16 bits");
        let mut new = Self { precision, words };
        new.round(tiles, features);
        new
    }

    /// The buffer.
    pub fn into_buffer(self) -> B {
        self.words
    }

    /// Rounds other tiles of the same extents over these.
    /// # Panics
    /// If the extents differ.
    #[track_caller]
    pub fn round(&mut self, tiles: &[f32], features: usize) {
        let count = tiles_of("the activations", tiles, features);
        assert_eq!(self.words.len(), half_words(count, features), "extents disagree");
        if self.words.is_empty() {
            return;
        }
        let (tile, precision) = (features * LANES, self.precision);
        for_each_chunk(&mut self.words, tile, |pair, to| {
            let pair = &tiles[2 * pair * tile..tiles.len().min(2 * (pair + 1) * tile)];
            dispatch(Narrow { precision, pair, to });
        });
    }

    /// The elements.
    pub fn lines(&self) -> Lines<'_> {
        Lines::of_words(self.precision, &self.words)
    }
}

/// Activations in a precision, from `f32` tiles.
pub enum InPrecision<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Rounded.
    Half(HalfTiles),
}

impl<'a> InPrecision<'a> {
    /// Rounds tiles `[tile][feature][LANES]`, if the precision is one of 16 bits.
    /// # Panics
    /// If `tiles` is not made of whole tiles.
    #[track_caller]
    pub fn new(precision: Precision, tiles: &'a [f32], features: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(tiles),
            _ => Self::Half(HalfTiles::rounded(precision, tiles, features)),
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

impl<'a, B: DerefMut<Target = [f32]>> From<&'a HalfTiles<B>> for Lines<'a> {
    fn from(data: &'a HalfTiles<B>) -> Self {
        data.lines()
    }
}

/// Activations of any precision as `f32` tiles `[tile][feature][LANES]`.
/// # Panics
/// If there are no such tiles.
#[track_caller]
pub(crate) fn widened(lines: Lines<'_>, features: usize, tiles: usize) -> Scratch {
    let tile = features * LANES;
    let mut out = Scratch::take(tiles * tile);
    let words = lines.words();
    match lines {
        Lines::F32(data) => out.copy_from_slice(data),
        _ => {
            assert_eq!(words.len(), tiles.div_ceil(2) * tile, "extents disagree");
            let precision = lines.precision();
            for_each_chunk(&mut out, 2 * tile, |pair, to| {
                dispatch(Widen { precision, words: &words[pair * tile..][..tile], to });
            });
        }
    }
    out
}

/// Rounds one pair of tiles, or a last single one, to lines of 16-bit numbers.
struct Narrow<'a> {
    precision: Precision,
    pair: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (a, b) = self.pair.split_at(self.to.len());
        let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
        let zero = [0.0; LANES];
        for (at, to) in self.to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let (a, b) = (isa.load_line(&a[at]), isa.load_line(b.get(at).unwrap_or(&zero)));
            isa.store_line(to, narrow(isa, self.precision, a, b));
        }
    }
}

/// The reverse of [`Narrow`].
struct Widen<'a> {
    precision: Precision,
    words: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (a, b) = self.to.split_at_mut(self.words.len());
        let (a, b) = (a.as_chunks_mut::<LANES>().0, b.as_chunks_mut::<LANES>().0);
        for (at, line) in self.words.as_chunks::<LANES>().0.iter().enumerate() {
            let (first, second) = widen(isa, self.precision, isa.load_line(line));
            isa.store_line(&mut a[at], first);
            if let Some(to) = b.get_mut(at) {
                isa.store_line(to, second);
            }
        }
    }
}

/// What [`Rounding`] puts in the place of a number.
#[derive(Clone, Copy)]
pub(crate) enum Nearest {
    /// The nearest number of this precision, as `f32`.
    Number(Precision),
    /// The nearest f16, twice in its word.
    TwiceF16,
}

/// Rounds numbers where they are.
pub(crate) struct Rounding<'a> {
    pub to: Nearest,
    pub numbers: &'a mut [f32],
}

impl Kernel for Rounding<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (lines, rest) = self.numbers.as_chunks_mut::<LANES>();
        for line in lines {
            isa.store_line(line, nearest(isa, self.to, isa.load_line(line)));
        }
        let mut line = [0.0; LANES];
        line[..rest.len()].copy_from_slice(rest);
        let last = nearest(isa, self.to, isa.load_line(&line));
        isa.store_line(&mut line, last);
        rest.copy_from_slice(&line[..rest.len()]);
    }
}

#[inline(always)]
fn nearest<I: Isa>(isa: I, to: Nearest, v: I::V) -> I::V {
    match to {
        Nearest::Number(Precision::F32) => v,
        Nearest::Number(precision) => widen(isa, precision, narrow(isa, precision, v, v)).0,
        Nearest::TwiceF16 => {
            let halves = isa.narrow_f16(v, v);
            isa.interleave(halves, halves).0
        }
    }
}

/// The line of 16-bit numbers nearest to two tiles.
#[inline(always)]
pub(crate) fn narrow<I: Isa>(isa: I, precision: Precision, a: I::V, b: I::V) -> I::V {
    match precision {
        Precision::Bf16 => isa.narrow_bf16(a, b),
        Precision::F16 => isa.narrow_f16(a, b),
        Precision::F32 => unreachable!("a line of f32 is a tile"),
    }
}

/// The two tiles of a line of 16-bit numbers.
#[inline(always)]
pub(crate) fn widen<I: Isa>(isa: I, precision: Precision, line: I::V) -> (I::V, I::V) {
    match precision {
        Precision::Bf16 => isa.widen_bf16(line),
        Precision::F16 => isa.widen_f16(line),
        Precision::F32 => unreachable!("a line of f32 is a tile"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::IsaKind;

    #[test]
    fn numbers_are_rounded_where_they_are_on_every_isa() {
        let mut numbers =
            vec![3e-39, 1e-42, -3e-6, f32::INFINITY, f32::NAN, 70_000.0, -0.0, 6.5e-5];
        numbers.extend((0..99).map(|at| (at as f32 - 40.0) * 1.000_977));
        for isa in IsaKind::available() {
            for length in [0, 1, LANES - 1, LANES, numbers.len()] {
                let numbers = &numbers[..length];
                let in_place = |to| {
                    let mut rounded = numbers.to_vec();
                    isa.run(Rounding { to, numbers: &mut rounded });
                    rounded.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                for precision in Precision::ALL {
                    let expected = numbers.iter().map(|&x| precision.round(x).to_bits());
                    assert!(in_place(Nearest::Number(precision)).into_iter().eq(expected), "{isa}");
                }
                let twice = |&x| u32::from(half::f16::from_f32(x).to_bits()) * 0x1_0001;
                assert!(
                    in_place(Nearest::TwiceF16).into_iter().eq(numbers.iter().map(twice)),
                    "{isa}"
                );
            }
        }
    }

    #[test]
    fn rounding_without_branches_is_rounding() {
        // Every upper half, with lower halves at and around the ties.
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(upper << 16 | lower);
                let expected = u32::from(half::bf16::from_f32(x).to_bits());
                assert_eq!(bf16_bits(x), expected, "{:08x}", x.to_bits());
            }
        }
        assert_eq!(bf16_pair(1.0, -2.0).to_bits(), 0xc000_3f80);
    }
}
