//! Words of 16 bits in lanes of 32: what the vectors of an instruction set do with [16-bit lines](crate::precision),
//! one word after the other.

use crate::LANES;
use half::{bf16, f16};

/// Words of a tile that lie together in a line.
const RUN: usize = 4;

/// The words of both tiles of a line.
#[inline(always)]
pub(super) fn split(line: [f32; LANES]) -> [[u16; LANES]; 2] {
    let word = |at: usize| (line[at / 2].to_bits() >> (at % 2 * 16)) as u16;
    let words = |tile| std::array::from_fn(|i| word(place(tile, i)));
    [words(0), words(1)]
}

/// The line of the words of two tiles.
#[inline(always)]
pub(super) fn merge(a: [u16; LANES], b: [u16; LANES]) -> [f32; LANES] {
    let mut words = [0; 2 * LANES];
    for i in 0..LANES {
        words[place(0, i)] = a[i];
        words[place(1, i)] = b[i];
    }
    std::array::from_fn(|lane| join(words[2 * lane], words[2 * lane + 1]))
}

/// Where the word of a tile's lane is in a line.
#[inline(always)]
fn place(tile: usize, lane: usize) -> usize {
    (2 * (lane / RUN) + tile) * RUN + lane % RUN
}

/// A lane of two words.
#[inline(always)]
pub(super) fn join(low: u16, high: u16) -> f32 {
    f32::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// [`Isa::dot`](super::Isa::dot) of its operands.
#[inline(always)]
pub(super) fn dot_lines([a, b, mut c]: [[f32; LANES]; 3]) -> [f32; LANES] {
    for (c, (a, b)) in c.iter_mut().zip(a.into_iter().zip(b)) {
        *c = dot(a, b, *c);
    }
    c
}

/// [`Isa::fma_halves`](super::Isa::fma_halves) of its operands.
#[inline(always)]
pub(super) fn fma_lines(operands: [[f32; LANES]; 3]) -> [f32; LANES] {
    let [a, b, mut c] = operands.map(words);
    for (c, (a, b)) in c.iter_mut().zip(a.into_iter().zip(b)) {
        *c = fma(a, b, *c);
    }
    of_words(c)
}

/// [`Isa::sum_halves`](super::Isa::sum_halves) of its operands.
#[inline(always)]
pub(super) fn sum_lines(operands: [[f32; LANES]; 4]) -> [f32; LANES] {
    let all = operands.map(words);
    let mut sums = [0.0; LANES];
    for (lane, sum) in sums.iter_mut().enumerate() {
        let words = &all[lane % 4];
        let first = lane / 8 * 8 + lane % 8 / 4;
        *sum = sum_of_four(words, first) + sum_of_four(words, LANES + first);
    }
    sums
}

/// The sum of every other of eight words, in f16.
#[inline(always)]
fn sum_of_four(words: &[u16; 2 * LANES], first: usize) -> f32 {
    let low = add(words[first], words[first + 4]);
    let high = add(words[first + 2], words[first + 6]);
    f16::from_bits(add(low, high)).to_f32_const()
}

/// One lane of [`Isa::dot`](super::Isa::dot), as CPUs of this architecture compute it.
#[inline(always)]
fn dot(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { bfdot(a, b, c) } else { vdpbf16ps(a, b, c) }
}

/// Of x86.
#[inline(always)]
fn vdpbf16ps(a: f32, b: f32, c: f32) -> f32 {
    let odd = flush(upper(a).mul_add(upper(b), flush(c)));
    flush(lower(a).mul_add(lower(b), odd))
}

/// Of Arm. Products of two bf16 are exact, but for those that are too small or too large.
#[inline(always)]
pub(super) fn bfdot(a: f32, b: f32, c: f32) -> f32 {
    let (even, odd) = (flush(lower(a) * lower(b)), flush(upper(a) * upper(b)));
    let sum = |a: f32, b: f32| flush(sum_to_odd(a.into(), b.into()));
    sum(flush(c), sum(even, odd))
}

/// The bf16 in the upper half of a lane.
#[inline(always)]
fn upper(lane: f32) -> f32 {
    flush(f32::from_bits(lane.to_bits() & 0xffff_0000))
}

/// The bf16 in the lower half of a lane.
#[inline(always)]
fn lower(lane: f32) -> f32 {
    flush(f32::from_bits(lane.to_bits() << 16))
}

/// The bf16 nearest to a number, as an instruction of [pairs](super::Isa::pair_bf16) finds it.
#[inline(always)]
pub(super) fn nearest_bf16(x: f32) -> u16 {
    bf16::from_f32(flush(x)).to_bits()
}

/// Zero of the same sign in the place of a subnormal number.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The words of a vector, in the order of memory.
#[inline(always)]
pub(super) fn words(line: [f32; LANES]) -> [u16; 2 * LANES] {
    std::array::from_fn(|at| (line[at / 2].to_bits() >> (at % 2 * 16)) as u16)
}

/// The vector of so many words.
#[inline(always)]
pub(super) fn of_words(words: [u16; 2 * LANES]) -> [f32; LANES] {
    std::array::from_fn(|lane| join(words[2 * lane], words[2 * lane + 1]))
}

/// `a · b + c` of f16, rounded once. The product is exact in `f32`; the sum is rounded to odd, from which the nearest f16
/// is that of the exact sum.
#[inline(always)]
pub(super) fn fma(a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| f64::from(f16::from_bits(x).to_f32_const()));
    f16::from_f32_const(sum_to_odd(a * b, c)).to_bits()
}

/// `a + b` rounded to odd: towards zero, with a last bit of one if anything is left. Beyond the range it is infinite.
#[inline(always)]
fn sum_to_odd(a: f64, b: f64) -> f32 {
    const BEYOND: f64 = 2.0 * (1u128 << 127) as f64;
    let sum = a + b;
    // What the sum lost (Knuth).
    let of_b = sum - a;
    let lost = (a - (sum - of_b)) + (b - of_b);
    let nearest = sum as f32;
    let off = f64::from(nearest) - sum;
    if !sum.is_finite() || sum.abs() >= BEYOND || off == 0.0 && lost == 0.0 {
        return nearest;
    }
    // Towards zero, and the last bit says that something is left.
    let beyond = if off == 0.0 { -lost } else { off };
    let is_beyond = (beyond > 0.0) == (sum > 0.0);
    f32::from_bits((nearest.to_bits() - u32::from(is_beyond)) | 1)
}

/// `a + b` of f16, rounded once: the sum in `f32` has more than twice the bits of an f16, so its rounding changes nothing.
#[inline(always)]
pub(super) fn add(a: u16, b: u16) -> u16 {
    let [a, b] = [a, b].map(|x| f16::from_bits(x).to_f32_const());
    f16::from_f32_const(a + b).to_bits()
}
