//! Elementary functions on sixteen lanes, accurate to a few units in the last place.

use super::Isa;

/// eˣ. Relative error below 2 ulp on [−87, 88]; clamped to that range, so −∞ gives ≈ 1e−38; a NaN
/// stays a NaN.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2, and a degree-6 polynomial for eʳ (Cephes' `expf` coefficients).
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |x| isa.splat(x);
    // The second operand wins against a NaN: x, so that a NaN stays one.
    let x = isa.max(c(-87.0), isa.min(c(88.0), x));
    let n = isa.round(isa.mul(x, c(std::f32::consts::LOG2_E)));
    // ln 2 split in two, so that n · (upper part) is exact.
    let r = isa.fma(n, c(-0.693_359_4), x);
    let r = isa.fma(n, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_1e-4);
    for k in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = isa.fma(p, r, c(k));
    }
    let e = isa.add(isa.fma(isa.mul(r, r), p, r), c(1.0));
    isa.mul(e, isa.exp2_integer(n))
}

/// tanh x = 1 − 2 / (e²ˣ + 1). Absolute error below 2e−7.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::V) -> I::V {
    let one = isa.splat(1.0);
    let e = exp(isa, isa.add(x, x));
    isa.sub(one, isa.div(isa.splat(2.0), isa.add(e, one)))
}
