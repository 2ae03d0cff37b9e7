//! AVX2 with FMA: two registers make one tile row.

use super::{Isa, Kernel, Scalar};
use crate::LANES;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The instruction set, if this CPU has it.
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Wraps intrinsics whose only requirement is the CPU feature.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has the feature.
        unsafe { $call }
    };
}

/// Lanes 0–7 and 8–15.
type Pair = [__m256; 2];

/// The bits of sixteen lanes.
#[inline(always)]
fn bits(v: Pair) -> [__m256i; 2] {
    bytemuck::cast(v)
}

/// Sixteen lanes of these bits.
#[inline(always)]
fn floats(v: [__m256i; 2]) -> Pair {
    bytemuck::cast(v)
}

impl Isa for Avx2 {
    type V = Pair;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        [op!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        // SAFETY: the caller guarantees sixteen readable `f32`; `self` proves the feature.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Pair) {
        // SAFETY: the caller guarantees sixteen writable `f32`; `self` proves the feature.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing that the program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        op!([_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])])
    }
    #[inline(always)]
    fn round(self, a: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        op!([_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
    }
    #[inline(always)]
    fn exp2_integer(self, n: Pair) -> Pair {
        // Not `n.map(…)`: a closure that is not inlined would lose the target features.
        op!({
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        })
    }
    #[inline(always)]
    fn first_lanes(self, n: usize, a: Pair, b: Pair) -> Pair {
        op!({
            let n = _mm256_set1_epi32(n.min(LANES) as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, low));
            let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, high));
            [_mm256_blendv_ps(b[0], a[0], low), _mm256_blendv_ps(b[1], a[1], high)]
        })
    }
    #[inline(always)]
    fn transpose(self, r: [Pair; LANES]) -> [Pair; LANES] {
        let mut out = r;
        for half in 0..2 {
            for rows in 0..2 {
                // Block (rows, half) of the input becomes block (half, rows) of the output.
                let mut block = [r[0][0]; 8];
                for (i, row) in block.iter_mut().enumerate() {
                    *row = r[rows * 8 + i][half];
                }
                for (i, row) in self.transpose8(block).into_iter().enumerate() {
                    out[half * 8 + i][rows] = row;
                }
            }
        }
        out
    }
    #[inline(always)]
    fn sum_within_quarters(self, v: [Pair; 4]) -> Pair {
        let mut sums = v[0];
        for (half, sum) in sums.iter_mut().enumerate() {
            let [a, b, c, d] = [v[0][half], v[1][half], v[2][half], v[3][half]];
            *sum = op!({
                let x = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let y = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                _mm256_add_ps(
                    _mm256_shuffle_ps::<0b01_00_01_00>(x, y),
                    _mm256_shuffle_ps::<0b11_10_11_10>(x, y),
                )
            });
        }
        sums
    }
    #[inline(always)]
    fn sum_over_quarters(self, v: [Pair; 4]) -> Pair {
        let mut sums = v[0];
        for (i, sum) in sums.iter_mut().enumerate() {
            let (x, y) = (v[2 * i], v[2 * i + 1]);
            let mut halves = x;
            for (half, of_both) in halves.iter_mut().enumerate() {
                *of_both = op!(_mm256_add_ps(
                    _mm256_permute2f128_ps::<0x20>(x[half], y[half]),
                    _mm256_permute2f128_ps::<0x31>(x[half], y[half]),
                ));
            }
            *sum = op!(_mm256_add_ps(halves[0], halves[1]));
        }
        sums
    }
    #[inline(always)]
    fn sum_each(self, vs: [Pair; LANES]) -> Pair {
        let mut halves = [[vs[0][0]; 8]; 2];
        for (j, v) in vs.into_iter().enumerate() {
            halves[j / 8][j % 8] = op!(_mm256_add_ps(v[0], v[1]));
        }
        [self.sum_each8(halves[0]), self.sum_each8(halves[1])]
    }
    #[inline(always)]
    fn interleave(self, a: Pair, b: Pair) -> (Pair, Pair) {
        let (a, b) = (bits(a), bits(b));
        op!({
            let low = [_mm256_unpacklo_epi16(a[0], b[0]), _mm256_unpacklo_epi16(a[1], b[1])];
            let high = [_mm256_unpackhi_epi16(a[0], b[0]), _mm256_unpackhi_epi16(a[1], b[1])];
            (floats(low), floats(high))
        })
    }
    #[inline(always)]
    fn narrow_bf16(self, a: Pair, b: Pair) -> Pair {
        op!(floats([
            _mm256_packus_epi32(self.upper_words(a[0]), self.upper_words(b[0])),
            _mm256_packus_epi32(self.upper_words(a[1]), self.upper_words(b[1])),
        ]))
    }
    #[inline(always)]
    fn widen_f16(self, line: Pair) -> (Pair, Pair) {
        let [first, second] = bits(line);
        op!({
            let first = _mm256_permute4x64_epi64::<0b11_01_10_00>(first);
            let second = _mm256_permute4x64_epi64::<0b11_01_10_00>(second);
            let low = [_mm256_castsi256_si128(first), _mm256_castsi256_si128(second)];
            let high =
                [_mm256_extracti128_si256::<1>(first), _mm256_extracti128_si256::<1>(second)];
            (
                [_mm256_cvtph_ps(low[0]), _mm256_cvtph_ps(low[1])],
                [_mm256_cvtph_ps(high[0]), _mm256_cvtph_ps(high[1])],
            )
        })
    }
    #[inline(always)]
    fn narrow_f16(self, a: Pair, b: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        let words = |a: __m256, b: __m256| {
            op!({
                let (a, b) = (_mm256_cvtps_ph::<NEAREST>(a), _mm256_cvtps_ph::<NEAREST>(b));
                _mm256_set_m128i(_mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(a, b))
            })
        };
        floats([words(a[0], b[0]), words(a[1], b[1])])
    }
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(self, kernel) }
    }
    #[inline(always)]
    fn run_pairs<K: Kernel>(self, kernel: K) -> K::Output {
        Scalar.run(kernel)
    }
    #[inline(always)]
    fn run_halves<K: Kernel>(self, kernel: K) -> K::Output {
        Scalar.run(kernel)
    }
}

impl Avx2 {
    /// The bf16 nearest to each lane, ties to even, in its lower half.
    #[inline(always)]
    fn upper_words(self, v: __m256) -> __m256i {
        op!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let sum = _mm256_blendv_epi8(_mm256_add_epi32(bits, half), quiet, nan);
            _mm256_srli_epi32::<16>(sum)
        })
    }

    /// Transposes an 8 × 8 block.
    #[inline(always)]
    fn transpose8(self, r: [__m256; 8]) -> [__m256; 8] {
        op!({
            let mut t = r;
            for q in [0, 4] {
                let a = _mm256_unpacklo_ps(r[q], r[q + 1]);
                let b = _mm256_unpackhi_ps(r[q], r[q + 1]);
                let c = _mm256_unpacklo_ps(r[q + 2], r[q + 3]);
                let d = _mm256_unpackhi_ps(r[q + 2], r[q + 3]);
                t[q] = _mm256_shuffle_ps::<0b01_00_01_00>(a, c);
                t[q + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, c);
                t[q + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(b, d);
                t[q + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(b, d);
            }
            let mut out = t;
            for i in 0..4 {
                out[i] = _mm256_permute2f128_ps::<0x20>(t[i], t[i + 4]);
                out[i + 4] = _mm256_permute2f128_ps::<0x31>(t[i], t[i + 4]);
            }
            out
        })
    }

    /// Lane j of the result is the sum over the eight lanes of `v[j]` (distances 4, 2, 1).
    #[inline(always)]
    fn sum_each8(self, v: [__m256; 8]) -> __m256 {
        // Fed in this order, vector j comes out in lane j.
        const ORDER: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];
        op!({
            let mut b = [v[0]; 4];
            for (j, b) in b.iter_mut().enumerate() {
                let (x, y) = (v[ORDER[j]], v[ORDER[j + 4]]);
                *b = _mm256_add_ps(
                    _mm256_permute2f128_ps::<0x20>(x, y),
                    _mm256_permute2f128_ps::<0x31>(x, y),
                );
            }
            let mut c = [v[0]; 2];
            for (j, c) in c.iter_mut().enumerate() {
                let (x, y) = (b[j], b[j + 2]);
                *c = _mm256_add_ps(
                    _mm256_shuffle_ps::<0b01_00_01_00>(x, y),
                    _mm256_shuffle_ps::<0b11_10_11_10>(x, y),
                );
            }
            _mm256_add_ps(
                _mm256_shuffle_ps::<0b10_00_10_00>(c[0], c[1]),
                _mm256_shuffle_ps::<0b11_01_11_01>(c[0], c[1]),
            )
        })
    }
}
