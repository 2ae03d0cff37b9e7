//! 64-bit Arm NEON: four registers make one tile row.

use super::{Isa, Kernel};
use crate::LANES;
use std::arch::aarch64::*;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The instruction set, if this CPU has it.
    #[inline]
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// Lanes 0–3, 4–7, 8–11, 12–15.
type Quad = [float32x4_t; 4];

/// Applies an intrinsic to each of the four registers.
macro_rules! each {
    (|$i:ident| $call:expr) => {
        // SAFETY: `self` proves that the CPU has NEON.
        std::array::from_fn(|$i| unsafe { $call })
    };
}

impl Isa for Neon {
    type V = Quad;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        each!(|_i| vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Quad {
        // SAFETY: the caller guarantees sixteen readable `f32`.
        each!(|i| vld1q_f32(from.add(4 * i)))
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
        each!(|i| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: Quad) -> Quad {
        each!(|i| vsqrtq_f32(a[i]))
    }
    #[inline(always)]
    fn round(self, a: Quad) -> Quad {
        each!(|i| vrndnq_f32(a[i]))
    }
    #[inline(always)]
    fn exp2_integer(self, n: Quad) -> Quad {
        each!(|i| {
            let biased = vaddq_s32(vcvtnq_s32_f32(n[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }
    #[inline(always)]
    fn first_lanes(self, n: usize, a: Quad, b: Quad) -> Quad {
        const INDEX: [u32; 4] = [0, 1, 2, 3];
        each!(|i| {
            let index = vaddq_u32(vld1q_u32(INDEX.as_ptr()), vdupq_n_u32(4 * i as u32));
            vbslq_f32(vcltq_u32(index, vdupq_n_u32(n.min(LANES) as u32)), a[i], b[i])
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
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn compiled<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` proves that the CPU has NEON.
        unsafe { compiled(self, kernel) }
    }
}
