//! Test cases of the loss.

use super::super::LossCase;
use super::head::CrossEntropy;
use crate::gradcheck::numbers;
use crate::{Parameters, Shape, TokenLayout};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::{LinearLayer, Precision};

/// More tiles than a chunk holds.
pub const CASE: LossCase =
    case::<23, 5, 171, 1, 0>("cross-entropy", TokenLayout { sequences: 9, context: 19 });

/// Features that fill whole lines.
pub const WHOLE_LINES_CASE: LossCase = case::<23, 16, 19, 1, 0>(
    "cross-entropy of whole lines",
    TokenLayout { sequences: 1, context: 19 },
);

/// A vocabulary of several blocks.
pub const BLOCKS_CASE: LossCase = case::<1030, 1, 6, 1, 0>(
    "cross-entropy of several blocks of words",
    TokenLayout { sequences: 2, context: 3 },
);

/// A loss on some tokens far from each other.
pub const FEW_TOKENS_CASE: LossCase = case::<23, 5, 171, 50, 0>(
    "cross-entropy of few tokens",
    TokenLayout { sequences: 9, context: 19 },
);

/// A head of bf16.
pub const BF16_CASE: LossCase =
    case::<23, 5, 171, 50, 1>("cross-entropy of bf16", TokenLayout { sequences: 9, context: 19 });

/// A head of f16.
pub const F16_CASE: LossCase =
    case::<23, 16, 19, 1, 2>("cross-entropy of f16", TokenLayout { sequences: 1, context: 19 });

const CASE_SCALE: f32 = 0.25;

/// A test case with V words, D features and N tokens, of which a fifth of every EVERY has weight, in a
/// precision of [`Precision::ALL`].
const fn case<
    const V: usize,
    const D: usize,
    const N: usize,
    const EVERY: usize,
    const PRECISION: usize,
>(
    name: &'static str,
    layout: TokenLayout,
) -> LossCase {
    LossCase {
        name,
        layout,
        features: D,
        scale: CASE_SCALE,
        parameters: || {
            Parameters::from_tensors([("tokens", Shape::Matrix(V, D), numbers(V * D, 1))])
        },
        with_loss: |parameters, check| {
            let weight = parameters.find("tokens").expect("a parameter of this case");
            let precision = Precision::ALL[PRECISION];
            let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
            let mut layer = LinearLayer::dense(isa, precision, V, D);
            layer.refresh(&parameters[weight]);
            check(&CrossEntropy {
                weight,
                half: (precision != Precision::F32).then_some(&layer),
                vocabulary: V,
                features: D,
                targets: &std::array::from_fn::<u32, N, _>(case_target::<V>),
                weights: Some(&std::array::from_fn::<f32, N, _>(case_weight::<EVERY>)),
                scale: CASE_SCALE,
            });
        },
        reference: |_, x, parameters| {
            let losses = x[0].chunks_exact(D).enumerate().map(|(token, x)| {
                let logit = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                let logits: Vec<f64> = parameters[0].chunks_exact(D).map(logit).collect();
                let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                f64::from(case_weight::<EVERY>(token))
                    * (lse - logits[case_target::<V>(token) as usize])
            });
            losses.sum()
        },
        precision: Precision::ALL[PRECISION],
    }
}

/// Words all over the vocabulary.
pub(super) fn case_target<const V: usize>(token: usize) -> u32 {
    (701 * token % V) as u32
}

/// 0, ½, 1, 1½, 0, …, and 0 for the first four fifths of every EVERY tokens.
fn case_weight<const EVERY: usize>(token: usize) -> f32 {
    if token % EVERY < EVERY * 4 / 5 { 0.0 } else { (token % 4) as f32 / 2.0 }
}
