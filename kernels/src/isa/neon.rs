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

/// Applies an intrinsic to each of the four registers; written out, because a closure that is not
/// inlined would lose the target features.
macro_rules! each {
    (|$i:ident| $call:expr) => {
        // SAFETY: `self` proves that the CPU has NEON; what is read is what the caller vouches for.
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

impl Isa for Neon {
    type V = Quad;
    const REGISTERS: usize = 8;

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
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "neon")]
        fn compiled<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` proves that the CPU has NEON.
        unsafe { compiled(self, kernel) }
    }
}

impl Neon {
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
