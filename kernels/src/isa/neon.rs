//! 64-bit Arm NEON: four registers make one tile row.

use super::Scalar;
use super::vector::{Isa, Kernel, imitated};
use crate::LANES;
use std::arch::aarch64::*;
use std::arch::asm;
use std::arch::is_aarch64_feature_detected as has;

/// Proof that the CPU has NEON, and extensions of it.
#[derive(Clone, Copy, Debug)]
pub struct Extended<const BY: u8>(());

const NOTHING: u8 = 0;
const FP16: u8 = 1;
const BF16: u8 = 2;

/// NEON.
pub type Neon = Extended<NOTHING>;

/// And FP16, which multiplies eight f16 at once.
pub type NeonFp16 = Extended<FP16>;

/// And FP16 and BF16, which multiplies pairs of bf16.
pub type NeonBf16 = Extended<BF16>;

impl<const BY: u8> Extended<BY> {
    /// The instruction set, if this CPU has it.
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = has!("neon") && (BY < FP16 || has!("fp16")) && (BY < BF16 || has!("bf16"));
        found.then_some(Self(()))
    }
}

/// Lanes 0–3, 4–7, 8–11, 12–15.
type Quad = [float32x4_t; 4];

/// Applies an intrinsic to each of the four registers; written out, because a closure that is not
/// inlined would lose the target features.
macro_rules! each {
    (|$i:ident| $call:expr) => {
        // SAFETY: `self` proves that the CPU has NEON, and FP16 and BF16 where `BY` says so; what is read is what the
        // caller vouches for.
        unsafe {
            [
                {
                    const $i: usize = 0;
                    $call
                },
                {
                    const $i: usize = 1;
                    $call
                },
                {
                    const $i: usize = 2;
                    $call
                },
                {
                    const $i: usize = 3;
                    $call
                },
            ]
        }
    };
}

impl<const BY: u8> Isa for Extended<BY> {
    type V = Quad;
    const REGISTERS: usize = 8;
    const MULTIPLIES_PAIRS: bool = BY == BF16;
    const MULTIPLIES_HALVES: bool = BY >= FP16;

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        // SAFETY: `self` proves that the CPU has NEON.
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Quad {
        // SAFETY: the caller guarantees sixteen readable `f32`.
        each!(|I| vld1q_f32(from.add(4 * I)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Quad) {
        for (i, part) in v.into_iter().enumerate() {
            // SAFETY: the caller guarantees sixteen writable `f32`; `self` proves NEON.
            unsafe { vst1q_f32(to.add(4 * i), part) }
        }
    }
    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        each!(|I| vfmaq_f32(c[I], a[I], b[I]))
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vaddq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vsubq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vmulq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vdivq_f32(a[I], b[I]))
    }
    #[inline(always)]
    fn max(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I]))
    }
    #[inline(always)]
    fn min(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I]))
    }
    #[inline(always)]
    fn sqrt(self, a: Quad) -> Quad {
        each!(|I| vsqrtq_f32(a[I]))
    }
    #[inline(always)]
    fn round(self, a: Quad) -> Quad {
        each!(|I| vrndnq_f32(a[I]))
    }
    #[inline(always)]
    fn exp2_integer(self, n: Quad) -> Quad {
        each!(|I| {
            let biased = vaddq_s32(vcvtnq_s32_f32(n[I]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }
    #[inline(always)]
    fn first_lanes(self, n: usize, a: Quad, b: Quad) -> Quad {
        const INDEX: [u32; 4] = [0, 1, 2, 3];
        each!(|I| {
            let index = vaddq_u32(vld1q_u32(INDEX.as_ptr()), vdupq_n_u32(4 * I as u32));
            vbslq_f32(vcltq_u32(index, vdupq_n_u32(n.min(LANES) as u32)), a[I], b[I])
        })
    }
    #[inline(always)]
    fn transpose(self, rows: [Quad; LANES]) -> [Quad; LANES] {
        let lanes = rows.map(|row| self.to_array(row));
        std::array::from_fn(|i| {
            let column: [f32; LANES] = std::array::from_fn(|j| lanes[j][i]);
            // SAFETY: `column` holds sixteen `f32`.
            unsafe { self.load(column.as_ptr()) }
        })
    }
    #[inline(always)]
    fn sum_each(self, vs: [Quad; LANES]) -> Quad {
        let fours = vs.as_chunks::<4>().0;
        each!(|I| sum_lanes(
            fours[I].map(|v| vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3])))
        ))
    }
    #[inline(always)]
    fn sum_within_quarters(self, v: [Quad; 4]) -> Quad {
        each!(|I| sum_lanes([v[0][I], v[1][I], v[2][I], v[3][I]]))
    }
    #[inline(always)]
    fn sum_over_quarters(self, v: [Quad; 4]) -> Quad {
        each!(|I| vaddq_f32(vaddq_f32(v[I][0], v[I][1]), vaddq_f32(v[I][2], v[I][3])))
    }
    #[inline(always)]
    fn interleave(self, a: Quad, b: Quad) -> (Quad, Quad) {
        let low = each!(|I| {
            let (a, b) = (vreinterpretq_u16_f32(a[I]), vreinterpretq_u16_f32(b[I]));
            vreinterpretq_f32_u16(vzip1q_u16(a, b))
        });
        let high = each!(|I| {
            let (a, b) = (vreinterpretq_u16_f32(a[I]), vreinterpretq_u16_f32(b[I]));
            vreinterpretq_f32_u16(vzip2q_u16(a, b))
        });
        (low, high)
    }
    #[inline(always)]
    fn narrow_bf16(self, a: Quad, b: Quad) -> Quad {
        let (a, b) = (self.rounded(a), self.rounded(b));
        each!(|I| vreinterpretq_f32_u16(vuzp2q_u16(a[I], b[I])))
    }
    #[inline(always)]
    fn pair_bf16(self, low: Quad, high: Quad) -> Quad {
        let (low, high) = (self.rounded(self.flushed(low)), self.rounded(self.flushed(high)));
        each!(|I| {
            // The upper half of `low` goes below that of `high`.
            let (low, high) = (vreinterpretq_u32_u16(low[I]), vreinterpretq_u32_u16(high[I]));
            vreinterpretq_f32_u32(vsriq_n_u32::<16>(high, low))
        })
    }
    #[inline(always)]
    fn pack_bf16(self, a: Quad, b: Quad) -> Quad {
        let (a, b) = (self.rounded(self.flushed(a)), self.rounded(self.flushed(b)));
        // SAFETY: `self` proves that the CPU has NEON.
        let words = |low, high| unsafe { vreinterpretq_f32_u16(vuzp2q_u16(low, high)) };
        [words(a[0], a[1]), words(a[2], a[3]), words(b[0], b[1]), words(b[2], b[3])]
    }
    #[inline(always)]
    fn widen_f16(self, line: Quad) -> (Quad, Quad) {
        let first = each!(|I| vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_f32(line[I]))));
        let second = each!(|I| vcvt_high_f32_f16(vreinterpretq_f16_f32(line[I])));
        (first, second)
    }
    #[inline(always)]
    fn narrow_f16(self, a: Quad, b: Quad) -> Quad {
        each!(|I| vreinterpretq_f32_f16(vcvt_high_f16_f32(vcvt_f16_f32(a[I]), b[I])))
    }
    #[inline(always)]
    fn dot(self, a: Quad, b: Quad, c: Quad) -> Quad {
        if BY == BF16 {
            return each!(|I| pair_products(a[I], b[I], c[I]));
        }
        imitated::dot(self, a, b, c)
    }
    #[inline(always)]
    fn fma_halves(self, a: Quad, b: Quad, c: Quad) -> Quad {
        if BY >= FP16 {
            return each!(|I| halves_multiplied_and_added(a[I], b[I], c[I]));
        }
        imitated::fma_halves(self, a, b, c)
    }
    #[inline(always)]
    fn sum_halves(self, v: [Quad; 4]) -> Quad {
        if BY < FP16 {
            let [a, b, c, d] = v;
            return imitated::sum_halves(self, a, b, c, d);
        }
        // Of each register, which is a quarter of a vector: the sums of its even numbers, and of its odd ones.
        let sums: [[float32x4_t; 2]; 4] = each!(|I| {
            let [a, b, c, d] = v.map(|v| vreinterpretq_f64_f32(v[I]));
            let first = (vzip1q_f64(a, b), vzip1q_f64(c, d));
            let last = (vzip2q_f64(a, b), vzip2q_f64(c, d));
            let ab = halves_added(vreinterpretq_f32_f64(first.0), vreinterpretq_f32_f64(last.0));
            let cd = halves_added(vreinterpretq_f32_f64(first.1), vreinterpretq_f32_f64(last.1));
            let sums = halves_added(vuzp1q_f32(ab, cd), vuzp2q_f32(ab, cd));
            let sums = vreinterpretq_u16_f32(sums);
            let (even, odd) = (vuzp1q_u16(sums, sums), vuzp2q_u16(sums, sums));
            let widened = |words| vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(words)));
            [widened(even), widened(odd)]
        });
        each!(|I| vaddq_f32(sums[I / 2][I % 2], sums[I / 2 + 2][I % 2]))
    }
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "neon")]
        fn compiled<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // Only kernels of pairs and of halves differ, so all others are compiled once.
        // SAFETY: `self` proves that the CPU has NEON.
        unsafe { compiled(Extended(()), kernel) }
    }
    #[inline(always)]
    fn run_pairs<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "neon,fp16,bf16")]
        fn compiled<K: Kernel>(isa: NeonBf16, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        if BY < BF16 {
            return Scalar.run(kernel);
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(Extended(()), kernel) }
    }
    #[inline(always)]
    fn run_halves<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "neon,fp16")]
        fn compiled<K: Kernel>(isa: NeonFp16, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        if BY < FP16 {
            return Scalar.run(kernel);
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(Extended(()), kernel) }
    }
}

/// (lane 0 + lane 2) + (lane 1 + lane 3) of each.
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn sum_lanes(v: [float32x4_t; 4]) -> float32x4_t {
    // SAFETY: the caller vouches for NEON.
    unsafe {
        let [a, b, c, d] = v.map(|v| vreinterpretq_f64_f32(v));
        let halves = |a, b| {
            let (low, high) = (vzip1q_f64(a, b), vzip2q_f64(a, b));
            vaddq_f32(vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
        };
        vpaddq_f32(halves(a, b), halves(c, d))
    }
}

/// BFDOT: `c` and the products of two bf16 in each lane, for which there is no intrinsic.
/// # Safety
/// The CPU must have BF16.
#[inline(always)]
unsafe fn pair_products(a: float32x4_t, b: float32x4_t, mut c: float32x4_t) -> float32x4_t {
    // SAFETY: the caller vouches for the instruction, which touches nothing but the registers.
    unsafe {
        asm!(
            "bfdot {c:v}.4s, {a:v}.8h, {b:v}.8h",
            c = inout(vreg) c, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    c
}

/// FMLA: `a · b + c` of eight f16. Intrinsics of FP16 cannot be inlined where its feature is known only to a caller.
/// # Safety
/// The CPU must have FP16.
#[inline(always)]
unsafe fn halves_multiplied_and_added(
    a: float32x4_t,
    b: float32x4_t,
    mut c: float32x4_t,
) -> float32x4_t {
    // SAFETY: the caller vouches for the instruction, which touches nothing but the registers.
    unsafe {
        asm!(
            "fmla {c:v}.8h, {a:v}.8h, {b:v}.8h",
            c = inout(vreg) c, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    c
}

/// FADD: `a + b` of eight f16.
/// # Safety
/// The CPU must have FP16.
#[inline(always)]
unsafe fn halves_added(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    let sum;
    // SAFETY: the caller vouches for the instruction, which touches nothing but the registers.
    unsafe {
        asm!(
            "fadd {sum:v}.8h, {a:v}.8h, {b:v}.8h",
            sum = lateout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl<const BY: u8> Extended<BY> {
    /// Zeros of the same signs in the places of subnormal numbers, which have an exponent of zero.
    #[inline(always)]
    fn flushed(self, v: Quad) -> Quad {
        each!(|I| {
            let bits = vreinterpretq_u32_f32(v[I]);
            let normal = vtstq_u32(bits, vdupq_n_u32(0x7f80_0000));
            let sign = vandq_u32(bits, vdupq_n_u32(0x8000_0000));
            vbslq_f32(normal, v[I], vreinterpretq_f32_u32(sign))
        })
    }

    /// The bf16 nearest to each lane, ties to even, in its upper half.
    #[inline(always)]
    fn rounded(self, v: Quad) -> [uint16x8_t; 4] {
        each!(|I| {
            let bits = vreinterpretq_u32_f32(v[I]);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            vreinterpretq_u16_u32(vbslq_u32(vceqq_f32(v[I], v[I]), sum, quiet))
        })
    }
}
