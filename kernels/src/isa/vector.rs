//! What an instruction set can do with a vector, and what a kernel is.

use super::half_words;
use crate::LANES;

/// An instruction set, with vectors of [`LANES`] `f32` lanes.
///
/// Holding a value proves that the running CPU supports it, so arithmetic is safe; only memory
/// access is not.
pub trait Isa: Copy + Send + Sync + 'static {
    /// Sixteen `f32` lanes.
    type V: Copy;

    /// Sixteen-lane vectors that fit in registers at once (accumulators plus operands).
    const REGISTERS: usize;
    /// Whether [`Isa::dot`] is an instruction.
    const MULTIPLIES_PAIRS: bool = false;
    /// Whether [`Isa::fma_halves`] is an instruction.
    const MULTIPLIES_HALVES: bool = false;

    /// All lanes equal to `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads sixteen lanes.
    /// # Safety
    /// `from` must be valid for reading sixteen `f32`; no alignment is needed.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes sixteen lanes.
    /// # Safety
    /// `to` must be valid for writing sixteen `f32`; no alignment is needed.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// Reads four numbers: each in all lanes.
    /// # Safety
    /// `from` must be valid for reading four `f32`; no alignment is needed.
    #[inline(always)]
    unsafe fn splat_four(self, from: *const f32) -> [Self::V; 4] {
        let mut four = [self.splat(0.0); 4];
        for (i, v) in four.iter_mut().enumerate() {
            // SAFETY: the caller vouches for four numbers.
            *v = self.splat(unsafe { *from.add(i) });
        }
        four
    }
    /// Reads a line.
    #[inline(always)]
    fn load_line(self, line: &[f32; LANES]) -> Self::V {
        // SAFETY: a line holds sixteen `f32`.
        unsafe { self.load(line.as_ptr()) }
    }
    /// Writes a line.
    #[inline(always)]
    fn store_line(self, line: &mut [f32; LANES], v: Self::V) {
        // SAFETY: a line holds sixteen `f32`.
        unsafe { self.store(line.as_mut_ptr(), v) }
    }
    /// Asks for the cache line at `at` ahead of its use. A hint: any address is allowed.
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        let _ = at;
    }
    /// The same address, but computed once and held in a register. Otherwise compilers repeat base and index in every
    /// instruction that reads beside it, and an FMA with such an operand counts twice among those that an Intel CPU can
    /// start in a cycle.
    #[inline(always)]
    fn address(self, at: *const f32) -> *const f32 {
        at
    }
    /// The same number, in a register of its own. Otherwise compilers put several into a vector, compute with that, and
    /// take it apart again.
    #[inline(always)]
    fn index(self, at: u16) -> usize {
        at.into()
    }
    /// Reads sixteen `f32` at the given indices.
    /// # Safety
    /// `indices` must be valid for reading sixteen `u32`, each below 2³¹, and `base` at each of them.
    #[inline(always)]
    unsafe fn gather(self, base: *const f32, indices: *const u32) -> Self::V {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the indices and what they point at.
            *lane = unsafe { *base.add(*indices.add(i) as usize) };
        }
        // SAFETY: `lanes` holds sixteen `f32`.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each pair of lanes; the second operand where one is NaN, as on x86.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair of lanes; the second operand where one is NaN, as on x86.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2ⁿ for integral lanes −126 ≤ n ≤ 127.
    fn exp2_integer(self, n: Self::V) -> Self::V;
    /// Lanes of `a` below index `n`, lanes of `b` from `n` on.
    fn first_lanes(self, n: usize, a: Self::V, b: Self::V) -> Self::V;
    /// Transposes a 16 × 16 block held as sixteen rows.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];
    /// Sum of each vector: lane `j` of the result is the sum over the lanes of `vs[j]`,
    /// by the same tree as [`Isa::sum`].
    fn sum_each(self, vs: [Self::V; LANES]) -> Self::V {
        let mut sums = [0.0; LANES];
        for (s, v) in sums.iter_mut().zip(vs) {
            *s = self.sum(v);
        }
        // SAFETY: `sums` holds sixteen `f32`.
        unsafe { self.load(sums.as_ptr()) }
    }
    /// Sums inside quarters of four lanes: lane `4 q + j` of the result is the sum over quarter `q` of
    /// `vs[j]`, as (lane 0 + lane 2) + (lane 1 + lane 3).
    fn sum_within_quarters(self, vs: [Self::V; 4]) -> Self::V;
    /// Sums over quarters of four lanes: lane `4 g + j` of the result is the sum of lane `j` of the
    /// quarters of `vs[g]`, as (0 + 1) + (2 + 3). After [`Isa::sum_within_quarters`] it completes the
    /// sums of sixteen vectors.
    fn sum_over_quarters(self, vs: [Self::V; 4]) -> Self::V;
    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` holds sixteen `f32`.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }
    /// Sum over the lanes, by halving: lane i + lane i+8, then +4, +2, +1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = self.to_array(v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }
    /// Takes the 32 words of 16 bits of two vectors in turn: lane `i` of the results holds word `j` of
    /// `a` below word `j` of `b`, with the words `j` that belong to lane `i` of the first tile, and of the
    /// second, of a [16-bit line](crate::precision).
    #[inline(always)]
    fn interleave(self, a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let (a, b) = (half_words::split(self.to_array(a)), half_words::split(self.to_array(b)));
        let lanes = |tile: usize| -> [f32; LANES] {
            std::array::from_fn(|i| half_words::join(a[tile][i], b[tile][i]))
        };
        (self.load_line(&lanes(0)), self.load_line(&lanes(1)))
    }
    /// The two tiles of a [line](crate::precision) of bf16.
    #[inline(always)]
    fn widen_bf16(self, line: Self::V) -> (Self::V, Self::V) {
        self.interleave(self.splat(0.0), line)
    }
    /// The [line](crate::precision) of bf16 nearest to two tiles, ties to even.
    #[inline(always)]
    fn narrow_bf16(self, a: Self::V, b: Self::V) -> Self::V {
        let words = |v| self.to_array(v).map(|x| half::bf16::from_f32(x).to_bits());
        self.load_line(&half_words::merge(words(a), words(b)))
    }
    /// Two bf16 in each lane: lane `i` of `low` in the lower half, and lane `i` of `high`. They are the nearest, ties to
    /// even, as VCVTNE2PS2BF16 finds them: of subnormal numbers, zeros.
    #[inline(always)]
    fn pair_bf16(self, low: Self::V, high: Self::V) -> Self::V {
        let [low, high] = [low, high].map(|v| self.to_array(v).map(half_words::nearest_bf16));
        self.load_line(&std::array::from_fn(|i| half_words::join(low[i], high[i])))
    }
    /// The lanes of `a`, then those of `b`, as 32 bf16 in the order of memory, rounded as by [`Isa::pair_bf16`].
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, b: Self::V) -> Self::V {
        let words = [a, b].map(|v| self.to_array(v).map(half_words::nearest_bf16));
        self.load_line(&half_words::of_words(std::array::from_fn(|at| {
            words[at / LANES][at % LANES]
        })))
    }
    /// The two tiles of a [line](crate::precision) of f16.
    #[inline(always)]
    fn widen_f16(self, line: Self::V) -> (Self::V, Self::V) {
        let tiles = half_words::split(self.to_array(line));
        let [a, b] = tiles.map(|words| words.map(|x| half::f16::from_bits(x).to_f32_const()));
        (self.load_line(&a), self.load_line(&b))
    }
    /// The [line](crate::precision) of f16 nearest to two tiles, ties to even.
    #[inline(always)]
    fn narrow_f16(self, a: Self::V, b: Self::V) -> Self::V {
        let words = |v| self.to_array(v).map(|x| half::f16::from_f32_const(x).to_bits());
        self.load_line(&half_words::merge(words(a), words(b)))
    }
    /// `c` and the products of two bf16 in each lane. Subnormal operands and results are zeros. On x86 the upper halves'
    /// product is added first, then the other, and each sum is rounded to the nearest, ties to even (VDPBF16PS); on Arm
    /// the sum of both products is added, and both sums are rounded to odd (BFDOT).
    #[inline(always)]
    fn dot(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        imitated::dot(self, a, b, c)
    }
    /// `a · b + c` of 32 f16 in the place of sixteen lanes, each rounded once, to the nearest, ties to even.
    #[inline(always)]
    fn fma_halves(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        imitated::fma_halves(self, a, b, c)
    }
    /// Of four vectors of 32 f16: lane `l` of the result is the sum of a quarter of the numbers of `vs[l % 4]`, which
    /// [`Isa::sum_over_quarters`] completes. In every quarter of a vector, number `i + 4` is added to number `i`, then
    /// the third to the first and the fourth to the second, in f16; the other additions are of `f32`.
    #[inline(always)]
    fn sum_halves(self, vs: [Self::V; 4]) -> Self::V {
        let [a, b, c, d] = vs;
        imitated::sum_halves(self, a, b, c, d)
    }
    /// Runs `kernel` compiled for this instruction set, as a function of its own. A kernel may so run parts of it in
    /// their turn: what a function is too long for takes minutes to compile.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;
    /// Runs a kernel that calls [`Isa::dot`] compiled for this instruction set; where that is no instruction, the portable
    /// code of the kernel, for imitations run for their bits alone and need no code of their own for every CPU.
    fn run_pairs<K: Kernel>(self, kernel: K) -> K::Output;
    /// Runs a kernel that calls [`Isa::fma_halves`] compiled for this instruction set, or its portable code likewise.
    fn run_halves<K: Kernel>(self, kernel: K) -> K::Output;
}

/// A piece of single-threaded vector code, generic over the instruction set.
///
/// `run` and everything it calls must be `#[inline(always)]`, so that it is compiled inside the
/// `target_feature` function of its [`Isa`]. Parallel loops stay outside: a closure handed to
/// another thread would lose the features.
pub trait Kernel {
    /// What the kernel returns.
    type Output;
    /// The code.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// Instructions imitated, each as a function of its own: copies in every loop would take minutes to compile.
pub(super) mod imitated {
    use super::{Isa, Kernel, half_words};
    use crate::LANES;

    macro_rules! imitations {
        ($($name:ident of ($($operand:ident),+) by $imitation:path, a $kernel:ident;)+) => {$(
            #[doc = concat!("[`Isa::", stringify!($name), "`] on any instruction set.")]
            #[inline(always)]
            pub(in crate::isa) fn $name<I: Isa>(isa: I, $($operand: I::V),+) -> I::V {
                isa.load_line(&isa.run($kernel([$(isa.to_array($operand)),+])))
            }

            struct $kernel<const OPERANDS: usize>([[f32; LANES]; OPERANDS]);

            impl Kernel for $kernel<{ [$(stringify!($operand)),+].len() }> {
                type Output = [f32; LANES];

                #[inline(always)]
                fn run<I: Isa>(self, _: I) -> [f32; LANES] {
                    $imitation(self.0)
                }
            }
        )+};
    }

    imitations! {
        dot of (a, b, c) by half_words::dot_lines, a Dot;
        fma_halves of (a, b, c) by half_words::fma_lines, a FmaHalves;
        sum_halves of (a, b, c, d) by half_words::sum_lines, a SumHalves;
    }
}
