//! Dense product C (+)= A · B whose B and C have tokens in their lanes.
//!
//! B is given as tiles `[tile][k][LANES]`; a task gathers the lines of V tiles into L1. A matrix whose
//! rows lie apart is packed into panels of `PANEL` rows (`pack`), once for many products if the caller
//! keeps the [`Packed`] form; rows and activations serve as A just as they lie. The micro-kernel
//! (`micro`) keeps `PANEL × V` accumulators,
//! reads V lines of B once per k and broadcasts A.
//!
//! Loop nest, outside in: row blocks × tile blocks (parallel) · K blocks (B panel stays in L1) ·
//! groups of V tiles · row panels · k.

mod left;
mod micro;
mod outer;
mod pack;
mod product;
mod transpose;

pub use self::left::Left;
pub use self::micro::{LeftForm, TileProduct};
pub(crate) use self::outer::outer_halves_on;
pub use self::pack::Packed;
pub(crate) use self::pack::PackedPairs;
pub use self::product::Out;
pub use self::transpose::transpose_tiles;

use self::left::Form;
use self::product::{Right, Source, run};
use crate::isa::IsaKind;

/// C (+)= A · B: A `[m, k]`, B as tiles `[tiles][k][LANES]`, C as `out` says. Overwrites C, or adds to
/// it when `accumulate`. 2 · m · k · tiles · LANES FLOPs.
/// # Panics
/// If the shapes disagree.
#[track_caller]
pub fn gemm(a: Left<'_>, b: &[f32], c: &mut [f32], out: Out, accumulate: bool) {
    gemm_on(IsaKind::active().unwrap_or_else(|e| panic!("{e}")), a, b, c, out, accumulate);
}

/// [`gemm()`] on a given instruction set.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(crate) fn gemm_on(
    isa: IsaKind,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    out: Out,
    accumulate: bool,
) {
    let source = match a.form() {
        Form::Rows => Source::Rows(a),
        Form::Columns => return a.pack_scratch().multiply_on(isa, b, c, out, accumulate),
        Form::Tiles => Source::Tiles(a),
    };
    run(isa, source, Right::Numbers(b), c, out, accumulate);
}

/// C (+)= A · B of words that each hold two bf16: A the [lines](crate::precision) of one activation, B the
/// [transposed](transpose_tiles()) ones of another, so that the sums run over tokens.
/// # Panics
/// If the shapes disagree or the machine lacks `isa`.
#[track_caller]
pub(crate) fn gemm_words_on(
    isa: IsaKind,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    out: Out,
    accumulate: bool,
) {
    run(isa, Source::Tiles(a), Right::Words(b), c, out, accumulate);
}

/// C (+)= A · B of f16: words of A hold one twice, B is [lines](crate::precision) of f16, as words. Sums are of f16
/// inside a K block.
/// # Panics
/// If the shapes disagree, the rows of A lie apart or the machine lacks `isa`.
#[track_caller]
pub(crate) fn gemm_halves_on(
    isa: IsaKind,
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    accumulate: bool,
) {
    assert!(matches!(a.form(), Form::Rows), "rows of A that lie apart");
    run(isa, Source::Rows(a), Right::Halves(b), c, Out::Tiles, accumulate);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LANES;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(next).collect()
    }

    /// C[m][token] by the definition, in f64.
    fn naive(a: &Left<'_>, b: &[f32], tiles: usize) -> Vec<Vec<f64>> {
        let element = |m, token: usize| {
            let line = |k| ((token / LANES) * a.cols + k) * LANES + token % LANES;
            (0..a.cols)
                .map(|k| {
                    f64::from(a.data[m * a.row_stride + a.column_offset(k)]) * f64::from(b[line(k)])
                })
                .sum::<f64>()
        };
        (0..a.rows).map(|m| (0..tiles * LANES).map(|t| element(m, t)).collect()).collect()
    }

    #[test]
    fn equals_the_definition_on_ragged_shapes_and_every_isa() {
        for isa in IsaKind::available() {
            for (m, k, tiles) in [(1, 1, 1), (6, 7, 4), (13, 129, 5), (200, 130, 19), (5, 0, 2)] {
                let w = numbers(m * k, 1);
                let b = numbers(k * tiles * LANES, 2);
                for a in [Left::row_major(&w, m, k), Left::transposed(&w, m, k)] {
                    let want = naive(&a, &b, tiles);
                    for accumulate in [false, true] {
                        let mut c = vec![1.0; m * tiles * LANES];
                        gemm_on(isa, a, &b, &mut c, Out::Tiles, accumulate);
                        if k == 0 {
                            assert!(c.iter().all(|&x| x == f32::from(accumulate)));
                            continue;
                        }
                        for (row, want) in want.iter().enumerate() {
                            for (token, want) in want.iter().enumerate() {
                                let at = ((token / LANES) * m + row) * LANES + token % LANES;
                                let want = want + f64::from(u8::from(accumulate));
                                let error = (f64::from(c[at]) - want).abs();
                                assert!(error < 1e-4, "{isa} {m}x{k}: {} != {want}", c[at]);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weight_gradient_form_equals_the_definition() {
        let (out, inn, tiles) = (10, 37, 3);
        let dy = numbers(out * tiles * LANES, 3);
        let x = numbers(inn * tiles * LANES, 4);
        let xt = transpose_tiles(&x, inn);
        let columns = inn.next_multiple_of(LANES);
        let mut dw = vec![0.0; out * columns];
        gemm(Left::tiles(&dy, out), &xt, &mut dw, Out::Rows, false);
        for o in 0..out {
            for i in 0..inn {
                let want: f64 = (0..tiles * LANES)
                    .map(|t| {
                        let (tile, lane) = (t / LANES, t % LANES);
                        f64::from(dy[(tile * out + o) * LANES + lane])
                            * f64::from(x[(tile * inn + i) * LANES + lane])
                    })
                    .sum();
                assert!((f64::from(dw[o * columns + i]) - want).abs() < 1e-4);
            }
        }
    }
}
