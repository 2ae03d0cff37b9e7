//! AVX-512: one register is one tile row.

use super::{Isa, Kernel, Scalar};
use crate::LANES;
use std::arch::asm;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, VL, BW and DQ (and AVX2, FMA and F16C), and an extension of them.
#[derive(Clone, Copy, Debug)]
pub struct Extended<const BY: u8>(());

const NOTHING: u8 = 0;
const BF16: u8 = 1;
const FP16: u8 = 2;

/// AVX-512 F, VL, BW and DQ.
pub type Avx512 = Extended<NOTHING>;

/// And BF16, which multiplies pairs of bf16.
pub type Avx512Bf16 = Extended<BF16>;

/// And FP16, which multiplies 32 f16 at once.
pub type Avx512Fp16 = Extended<FP16>;

/// Wraps an intrinsic whose only requirement is the CPU feature.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has the feature.
        unsafe { $call }
    };
}

/// Rounding of conversions.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl<const BY: u8> Extended<BY> {
    /// The instruction set, if this CPU has it.
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (BY != BF16 || is_x86_feature_detected!("avx512bf16"))
            && (BY != FP16 || is_x86_feature_detected!("avx512fp16"));
        found.then_some(Self(()))
    }
}

impl<const BY: u8> Extended<BY> {
    /// The bf16 nearest to each lane, ties to even, in its lower half.
    #[inline(always)]
    fn upper_words(self, v: __m512) -> __m512i {
        // SAFETY: `self` proves that the CPU has the features.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let sum = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, half), nan, quiet);
            _mm512_srli_epi32::<16>(sum)
        }
    }

    /// Zeros of the same signs in the places of subnormal numbers, which have an exponent of zero.
    #[inline(always)]
    fn flush(self, v: __m512) -> __m512 {
        op!({
            let normal =
                _mm512_test_epi32_mask(_mm512_castps_si512(v), _mm512_set1_epi32(0x7f80_0000));
            _mm512_mask_blend_ps(normal, _mm512_and_ps(v, _mm512_set1_ps(-0.0)), v)
        })
    }

    /// The 32 f16 of a vector, in the order of memory.
    #[inline(always)]
    fn widen_words(self, v: __m512) -> [__m512; 2] {
        op!({
            let v = _mm512_castps_si512(v);
            let low = _mm512_cvtph_ps(_mm512_castsi512_si256(v));
            [low, _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(v))]
        })
    }

    /// The 32 f16 nearest to numbers, ties to even.
    #[inline(always)]
    fn narrow_words(self, low: __m512, high: __m512) -> __m512 {
        op!({
            let (low, high) = (_mm512_cvtps_ph::<NEAREST>(low), _mm512_cvtps_ph::<NEAREST>(high));
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        })
    }

    /// `a · b + c` rounded to odd: towards zero, with a last bit of one if anything is left. Rounded to fewer bits, it
    /// gives what the exact sum would.
    #[inline(always)]
    fn fma_to_odd(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!({
            const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
            const UP: i32 = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
            const TOWARDS_ZERO: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
            let down = _mm512_fmadd_round_ps::<DOWN>(a, b, c);
            let up = _mm512_fmadd_round_ps::<UP>(a, b, c);
            let rest = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(down, up);
            let sum = _mm512_castps_si512(_mm512_fmadd_round_ps::<TOWARDS_ZERO>(a, b, c));
            _mm512_castsi512_ps(_mm512_mask_or_epi32(sum, rest, sum, _mm512_set1_epi32(1)))
        })
    }

    /// `a + b` of 32 f16.
    #[inline(always)]
    fn add_halves(self, a: __m512i, b: __m512i) -> __m512i {
        if BY == FP16 {
            // SAFETY: both types are 512 bits of anything; `self` proves that the CPU has the feature.
            return unsafe {
                let halves = |v| std::mem::transmute::<__m512i, __m512h>(v);
                std::mem::transmute::<__m512h, __m512i>(_mm512_add_ph(halves(a), halves(b)))
            };
        }
        op!({
            let [[a0, a1], [b0, b1]] = [a, b].map(|v| self.widen_words(_mm512_castsi512_ps(v)));
            let sums = self.narrow_words(_mm512_add_ps(a0, b0), _mm512_add_ps(a1, b1));
            _mm512_castps_si512(sums)
        })
    }
}

impl<const BY: u8> Isa for Extended<BY> {
    type V = __m512;
    const REGISTERS: usize = 32;
    const MULTIPLIES_PAIRS: bool = BY == BF16;
    const MULTIPLIES_HALVES: bool = BY == FP16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn splat_four(self, from: *const f32) -> [__m512; 4] {
        // One load instead of four: loads are what the loop waits for that needs them.
        // SAFETY: the caller guarantees four readable `f32`; `self` proves the feature.
        unsafe {
            let four = held(_mm512_broadcast_f32x4(_mm_loadu_ps(from)));
            [
                _mm512_permute_ps::<0x00>(four),
                _mm512_permute_ps::<0x55>(four),
                _mm512_permute_ps::<0xaa>(four),
                _mm512_permute_ps::<0xff>(four),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller guarantees sixteen readable `f32`; `self` proves the feature.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: the caller guarantees sixteen writable `f32`; `self` proves the feature.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing that the program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "what lies there is not touched")]
    fn address(self, mut at: *const f32) -> *const f32 {
        // SAFETY: no instruction at all; it leaves the register as it is.
        unsafe { asm!("/* {} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
        at
    }
    #[inline(always)]
    fn index(self, at: u16) -> usize {
        let mut at = usize::from(at);
        // SAFETY: no instruction at all; it leaves the register as it is.
        unsafe { asm!("/* {} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
        at
    }
    #[inline(always)]
    unsafe fn gather(self, base: *const f32, indices: *const u32) -> __m512 {
        // SAFETY: the caller vouches for the indices and what they point at.
        unsafe { _mm512_i32gather_ps::<4>(_mm512_loadu_si512(indices.cast()), base) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2_integer(self, n: __m512) -> __m512 {
        op!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn first_lanes(self, n: usize, a: __m512, b: __m512) -> __m512 {
        let mask = if n >= LANES { 0xffff } else { (1u16 << n) - 1 };
        op!(_mm512_mask_blend_ps(mask, b, a))
    }
    #[inline(always)]
    fn transpose(self, r: [__m512; LANES]) -> [__m512; LANES] {
        op!({
            let mut t = r;
            // 4 × 4 transposes inside each 128-bit block…
            for q in (0..LANES).step_by(4) {
                let a = _mm512_unpacklo_ps(r[q], r[q + 1]);
                let b = _mm512_unpackhi_ps(r[q], r[q + 1]);
                let c = _mm512_unpacklo_ps(r[q + 2], r[q + 3]);
                let d = _mm512_unpackhi_ps(r[q + 2], r[q + 3]);
                t[q] = _mm512_shuffle_ps::<0b01_00_01_00>(a, c);
                t[q + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, c);
                t[q + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(b, d);
                t[q + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(b, d);
            }
            // …then a 4 × 4 transpose of the blocks.
            let mut out = t;
            for i in 0..4 {
                let a = _mm512_shuffle_f32x4::<0b10_00_10_00>(t[i], t[i + 4]);
                let b = _mm512_shuffle_f32x4::<0b11_01_11_01>(t[i], t[i + 4]);
                let c = _mm512_shuffle_f32x4::<0b10_00_10_00>(t[i + 8], t[i + 12]);
                let d = _mm512_shuffle_f32x4::<0b11_01_11_01>(t[i + 8], t[i + 12]);
                out[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
                out[i + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
                out[i + 4] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
                out[i + 12] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
            }
            out
        })
    }
    #[inline(always)]
    fn sum_each(self, vs: [__m512; LANES]) -> __m512 {
        // Each level adds two halves of every vector and packs two results into one register;
        // fed in this order, vector j comes out in lane j.
        op!({
            let v = |j: usize| vs[ORDER[j]];
            let mut a = [_mm512_setzero_ps(); 8];
            for (j, a) in a.iter_mut().enumerate() {
                let (x, y) = (v(j), v(j + 8));
                *a = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(x, y),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(x, y),
                );
            }
            let mut b = [_mm512_setzero_ps(); 4];
            for j in 0..4 {
                let (x, y) = (a[j], a[j + 4]);
                b[j] = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(x, y),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(x, y),
                );
            }
            let mut c = [_mm512_setzero_ps(); 2];
            for j in 0..2 {
                let (x, y) = (b[j], b[j + 2]);
                c[j] = _mm512_add_ps(
                    _mm512_shuffle_ps::<0b01_00_01_00>(x, y),
                    _mm512_shuffle_ps::<0b11_10_11_10>(x, y),
                );
            }
            _mm512_add_ps(
                _mm512_shuffle_ps::<0b10_00_10_00>(c[0], c[1]),
                _mm512_shuffle_ps::<0b11_01_11_01>(c[0], c[1]),
            )
        })
    }
    #[inline(always)]
    fn sum_within_quarters(self, v: [__m512; 4]) -> __m512 {
        op!({
            let x = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
            let y = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
            _mm512_add_ps(
                _mm512_shuffle_ps::<0b01_00_01_00>(x, y),
                _mm512_shuffle_ps::<0b11_10_11_10>(x, y),
            )
        })
    }
    #[inline(always)]
    fn sum_over_quarters(self, v: [__m512; 4]) -> __m512 {
        op!({
            let mut halves = [v[0]; 2];
            for (i, half) in halves.iter_mut().enumerate() {
                *half = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(v[2 * i], v[2 * i + 1]),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(v[2 * i], v[2 * i + 1]),
                );
            }
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(halves[0], halves[1]),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(halves[0], halves[1]),
            )
        })
    }
    #[inline(always)]
    fn interleave(self, a: __m512, b: __m512) -> (__m512, __m512) {
        op!({
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let low = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b));
            (low, _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b)))
        })
    }
    #[inline(always)]
    fn narrow_bf16(self, a: __m512, b: __m512) -> __m512 {
        let (a, b) = (self.upper_words(a), self.upper_words(b));
        op!(_mm512_castsi512_ps(_mm512_packus_epi32(a, b)))
    }
    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512 {
        if BY == BF16 {
            // Word `j` of the first, then of the second.
            const TURNS: [u16; 32] = {
                let mut order = [0; 32];
                let mut at = 0;
                while at < 32 {
                    order[at] = (at % 2 * 16 + at / 2) as u16;
                    at += 1;
                }
                order
            };
            return op!({
                let order = _mm512_loadu_si512(TURNS.as_ptr().cast());
                let words = _mm512_castps_si512(self.pack_bf16(low, high));
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, words))
            });
        }
        let [low, high] = [low, high].map(|v| self.upper_words(self.flush(v)));
        op!(_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high))))
    }
    #[inline(always)]
    fn pack_bf16(self, a: __m512, b: __m512) -> __m512 {
        if BY == BF16 {
            // SAFETY: both types are 512 bits of anything; `self` proves that the CPU has the feature.
            return unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(b, a)) };
        }
        let [a, b] = [a, b].map(|v| self.upper_words(self.flush(v)));
        op!({
            let words = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(a));
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(words, _mm512_cvtepi32_epi16(b)))
        })
    }
    #[inline(always)]
    fn widen_f16(self, line: __m512) -> (__m512, __m512) {
        op!({
            let runs = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
            let tiles = _mm512_permutexvar_epi64(runs, _mm512_castps_si512(line));
            let a = _mm512_cvtph_ps(_mm512_castsi512_si256(tiles));
            (a, _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(tiles)))
        })
    }
    #[inline(always)]
    fn narrow_f16(self, a: __m512, b: __m512) -> __m512 {
        op!({
            let (a, b) = (_mm512_cvtps_ph::<NEAREST>(a), _mm512_cvtps_ph::<NEAREST>(b));
            let tiles = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            let runs = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
            _mm512_castsi512_ps(_mm512_permutexvar_epi64(runs, tiles))
        })
    }
    #[inline(always)]
    fn dot(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if BY == BF16 {
            // SAFETY: both types are 512 bits of anything; `self` proves that the CPU has the feature.
            return unsafe {
                let words = |v| std::mem::transmute::<__m512, __m512bh>(v);
                _mm512_dpbf16_ps(c, words(a), words(b))
            };
        }
        op!({
            let flush = |x| self.flush(x);
            let upper = |x| {
                let bits = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(!0xffff));
                flush(_mm512_castsi512_ps(bits))
            };
            let lower =
                |x| flush(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(x))));
            let odd = flush(_mm512_fmadd_ps(upper(a), upper(b), flush(c)));
            flush(_mm512_fmadd_ps(lower(a), lower(b), odd))
        })
    }
    #[inline(always)]
    fn fma_halves(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if BY == FP16 {
            // SAFETY: both types are 512 bits of anything; `self` proves that the CPU has the feature.
            return unsafe {
                let halves = |v| std::mem::transmute::<__m512, __m512h>(v);
                let sums = _mm512_fmadd_ph(halves(a), halves(b), halves(c));
                std::mem::transmute::<__m512h, __m512>(sums)
            };
        }
        let [[a0, a1], [b0, b1], [c0, c1]] = [a, b, c].map(|v| self.widen_words(v));
        self.narrow_words(self.fma_to_odd(a0, b0, c0), self.fma_to_odd(a1, b1, c1))
    }
    #[inline(always)]
    fn sum_halves(self, v: [__m512; 4]) -> __m512 {
        op!({
            let v = v.map(|v| _mm512_castps_si512(v));
            let sums =
                |a, b| self.add_halves(_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            let (a, b) = (sums(v[0], v[1]), sums(v[2], v[3]));
            let sums = self.add_halves(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let [low, high] = self.widen_words(_mm512_castsi512_ps(sums));
            _mm512_add_ps(low, high)
        })
    }
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
        fn compiled<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // Only kernels of pairs and of halves differ, so all others are compiled once.
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(Extended(()), kernel) }
    }
    #[inline(always)]
    fn run_pairs<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
        fn compiled<K: Kernel>(isa: Avx512Bf16, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        if BY != BF16 {
            return Scalar.run(kernel);
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(Extended(()), kernel) }
    }
    #[inline(always)]
    fn run_halves<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512fp16,avx2,fma,f16c")]
        fn compiled<K: Kernel>(isa: Avx512Fp16, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        if BY != FP16 {
            return Scalar.run(kernel);
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(Extended(()), kernel) }
    }
}

/// The order in which vectors enter the tree of [`Isa::sum_each`].
const ORDER: [usize; LANES] = [0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15];

/// The same vector, in a register. Otherwise compilers load its lanes one by one where each is needed.
#[inline]
#[target_feature(enable = "avx512f")]
fn held(mut v: __m512) -> __m512 {
    // SAFETY: no instruction at all; it leaves the register as it is.
    unsafe { asm!("/* {} */", inout(zmm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}
