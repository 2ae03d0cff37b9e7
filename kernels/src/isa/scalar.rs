//! Portable code: an array of sixteen lanes, correct everywhere and fast nowhere.

use super::{Isa, Kernel};
use crate::LANES;

/// No CPU feature is needed.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

impl Scalar {
    /// The instruction set, which every CPU has.
    #[inline]
    pub fn detect() -> Option<Self> {
        Some(Self)
    }
}

type Array = [f32; LANES];

#[inline(always)]
fn zip(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// What the loops of products are made of are functions of their own: where there is no fused instruction, each lane of
// `fma` calls a function anyway, and copies for sixteen lanes in every loop would take minutes to compile.

#[inline(never)]
fn fma(a: &Array, b: &Array, c: &Array) -> Array {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}

#[inline(never)]
fn add(a: &Array, b: &Array) -> Array {
    zip(*a, *b, |a, b| a + b)
}

#[inline(never)]
fn mul(a: &Array, b: &Array) -> Array {
    zip(*a, *b, |a, b| a * b)
}

#[inline(never)]
fn sum_within_quarters(vs: &[Array; 4]) -> Array {
    // Lane 4 q + j.
    std::array::from_fn(|at| {
        let quarter = &vs[at % 4].as_chunks::<4>().0[at / 4];
        (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
    })
}

impl Isa for Scalar {
    type V = Array;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Array {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Array {
        // SAFETY: the caller guarantees sixteen readable `f32`.
        unsafe { from.cast::<Array>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Array) {
        // SAFETY: the caller guarantees sixteen writable `f32`.
        unsafe { to.cast::<Array>().write_unaligned(v) }
    }
    #[inline(always)]
    fn fma(self, a: Array, b: Array, c: Array) -> Array {
        fma(&a, &b, &c)
    }
    #[inline(always)]
    fn add(self, a: Array, b: Array) -> Array {
        add(&a, &b)
    }
    #[inline(always)]
    fn sub(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Array, b: Array) -> Array {
        mul(&a, &b)
    }
    #[inline(always)]
    fn div(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Array) -> Array {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Array) -> Array {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2_integer(self, n: Array) -> Array {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn first_lanes(self, n: usize, a: Array, b: Array) -> Array {
        std::array::from_fn(|i| if i < n { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn transpose(self, rows: [Array; LANES]) -> [Array; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
    #[inline(always)]
    fn sum_within_quarters(self, vs: [Array; 4]) -> Array {
        sum_within_quarters(&vs)
    }
    #[inline(always)]
    fn sum_over_quarters(self, vs: [Array; 4]) -> Array {
        // Lane 4 g + j.
        std::array::from_fn(|at| {
            let (v, j) = (&vs[at / 4], at % 4);
            (v[j] + v[4 + j]) + (v[8 + j] + v[12 + j])
        })
    }
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn compiled<K: Kernel>(isa: Scalar, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        compiled(self, kernel)
    }
    #[inline(always)]
    fn run_pairs<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }
    #[inline(always)]
    fn run_halves<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }
}
