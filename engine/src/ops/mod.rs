//! One file per operator: its maths, forward, backward and cost, a naive reference and a test case.
//!
//! [`OPS`] and [`LOSSES`] list the test cases; the tests walk the lists and check every case against
//! its `f64` reference, its gradients against finite differences, and that results do not depend on
//! the number of threads or the instruction set.
//!
//! **FLOP counts** are those of the formulas in the modules' documentation, padding excluded:
//! a multiply-add of a matrix product counts two, any other +, −, ·, ÷, √, exp or tanh counts one,
//! and a softmax counts three per score, as in the paper's accounting.
//!
//! **Padding**: gradients are zero in padding lanes. Losses start them so, and every operator keeps
//! them so; sums over tokens may therefore run over whole tiles.

mod add;
mod attention;
mod cross_entropy;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod lines;

pub use add::Add;
pub use attention::CausalAttention;
pub use cross_entropy::{CHUNK_TILES, CrossEntropy, Prediction};
pub use embedding::Embedding;
pub use gelu::Gelu;
pub use layer_norm::{EPSILON, LayerNorm};
pub use linear::Linear;

use crate::{Loss, Op, Parameters, TokenLayout};

/// Makes an operator for the parameters and hands it to the caller's check.
pub type WithOp = fn(&Parameters, &mut dyn FnMut(&dyn Op));

/// Makes a loss for the parameters and hands it to the caller's check.
pub type WithLoss = fn(&Parameters, &mut dyn FnMut(&dyn Loss));

/// The definition, in `f64`: takes the inputs as rows `[sequence][token][feature]` and the
/// parameters in their order.
pub type Reference<R> = fn(TokenLayout, &[Vec<f64>], &[Vec<f64>]) -> R;

/// One operator on one small batch: what every test of an operator needs.
pub struct OpCase {
    /// Name in test reports.
    pub name: &'static str,
    /// The batch.
    pub layout: TokenLayout,
    /// Features of each input.
    pub input_features: &'static [usize],
    /// Parameters with values of their own.
    pub parameters: fn() -> Parameters,
    /// The operator.
    pub with_op: WithOp,
    /// Its output, as rows.
    pub reference: Reference<Vec<f64>>,
}

/// One loss on one small batch.
pub struct LossCase {
    /// Name in test reports.
    pub name: &'static str,
    /// The batch.
    pub layout: TokenLayout,
    /// Features of the hidden states.
    pub features: usize,
    /// What gradients are multiplied with.
    pub scale: f32,
    /// Parameters with values of their own.
    pub parameters: fn() -> Parameters,
    /// The loss.
    pub with_loss: WithLoss,
    /// Σ weight · loss of the hidden states, its one input.
    pub reference: Reference<f64>,
}

/// The test case of every operator.
pub const OPS: &[OpCase] = &[
    embedding::CASE,
    embedding::PROMPT_CASE,
    linear::DENSE_CASE,
    linear::SPARSE_CASE,
    layer_norm::CASE,
    attention::CASE,
    attention::LONG_CASE,
    gelu::CASE,
    add::CASE,
];

/// The test case of every loss.
pub const LOSSES: &[LossCase] = &[
    cross_entropy::CASE,
    cross_entropy::FEW_TOKENS_CASE,
    cross_entropy::WHOLE_LINES_CASE,
    cross_entropy::BLOCKS_CASE,
];
