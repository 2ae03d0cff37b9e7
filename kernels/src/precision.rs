//! Numbers of 16 bits: what activations and weights are rounded to before they are multiplied.
//!
//! Sums stay `f32`. A **line** of 16-bit numbers is one feature of two neighbouring tiles, 32 tokens, and
//! again one cache line: four tokens of the first tile, the same four of the second, and so on, which is what
//! the unpack, zip and pack instructions of all CPUs make of two registers. Activations are
//! `[pair of tiles][feature][2 · LANES]`; where the number of tiles is odd, the last second tile is zeros.

use crate::{AlignedBuffer, LANES};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Elements of a 16-bit line.
pub const LINE: usize = 2 * LANES;

/// What activations and weights are rounded to before they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// Eight bits of exponent, as `f32`, and eight of significand.
    Bf16,
    /// Five bits of exponent and eleven of significand: 6e−8 to 65,504.
    F16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// The nearest number of this precision, ties to even.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no precision's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision '{0}': choose f32, bf16 or f16")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| UnknownPrecision(name.into()))
    }
}

/// Activations of some features, in one of the precisions.
#[derive(Clone, Copy, Debug)]
pub enum Lines<'a> {
    /// Tiles `[tile][feature][LANES]`.
    F32(&'a [f32]),
    /// Pairs of tiles `[pair][feature][2 · LANES]`.
    Bf16(&'a [bf16]),
    /// Pairs of tiles `[pair][feature][2 · LANES]`.
    F16(&'a [f16]),
}

impl<'a> Lines<'a> {
    /// The precision of the elements.
    pub fn precision(self) -> Precision {
        match self {
            Lines::F32(_) => Precision::F32,
            Lines::Bf16(_) => Precision::Bf16,
            Lines::F16(_) => Precision::F16,
        }
    }

    /// The elements.
    pub fn len(self) -> usize {
        match self {
            Lines::F32(data) => data.len(),
            Lines::Bf16(data) => data.len(),
            Lines::F16(data) => data.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Elements of a line.
    pub(crate) fn line(self) -> usize {
        match self {
            Lines::F32(_) => LANES,
            Lines::Bf16(_) | Lines::F16(_) => LINE,
        }
    }

    /// What is in words of 32 bits, two numbers of 16 bits a word.
    pub(crate) fn of_words(precision: Precision, words: &'a [f32]) -> Self {
        match precision {
            Precision::F32 => Lines::F32(words),
            Precision::Bf16 => Lines::Bf16(bytemuck::cast_slice(words)),
            Precision::F16 => Lines::F16(bytemuck::cast_slice(words)),
        }
    }

    /// The elements as words of 32 bits, two numbers of 16 bits a word.
    /// # Panics
    /// If they do not lie at a multiple of four bytes.
    #[track_caller]
    pub(crate) fn words(self) -> &'a [f32] {
        let words = match self {
            Lines::F32(data) => Ok(data),
            Lines::Bf16(data) => bytemuck::try_cast_slice(data),
            Lines::F16(data) => bytemuck::try_cast_slice(data),
        };
        words.expect("lines of 16-bit numbers that lie at a multiple of four bytes")
    }

    /// `f32` tiles.
    /// # Panics
    /// If the elements have 16 bits.
    #[track_caller]
    pub(crate) fn f32(self) -> &'a [f32] {
        match self {
            Lines::F32(data) => data,
            _ => panic!("{} lines where f32 is multiplied", self.precision()),
        }
    }
}

impl<'a> From<&'a [f32]> for Lines<'a> {
    fn from(data: &'a [f32]) -> Self {
        Lines::F32(data)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Lines<'a> {
    fn from(data: &'a [f32; N]) -> Self {
        Lines::F32(data)
    }
}

impl<'a> From<&'a Vec<f32>> for Lines<'a> {
    fn from(data: &'a Vec<f32>) -> Self {
        Lines::F32(data)
    }
}

impl<'a> From<&'a AlignedBuffer> for Lines<'a> {
    fn from(data: &'a AlignedBuffer) -> Self {
        Lines::F32(data)
    }
}
