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
mod case;
mod cross_entropy;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod lines;

pub use add::Add;
pub use attention::CausalAttention;
pub use case::{LossCase, OpCase, Reference, WithLoss, WithOp, tolerance};
pub use cross_entropy::{CHUNK_TILES, CrossEntropy, Prediction};
pub use embedding::Embedding;
pub use gelu::Gelu;
pub use layer_norm::{EPSILON, LayerNorm};
pub use linear::{Linear, LinearSize, Observer};

/// The test case of every operator.
pub const OPS: &[OpCase] = &[
    embedding::CASE,
    embedding::PROMPT_CASE,
    linear::DENSE_CASE,
    linear::SPARSE_CASE,
    linear::DENSE_BF16_CASE,
    linear::SPARSE_BF16_CASE,
    linear::DENSE_F16_CASE,
    linear::SPARSE_F16_CASE,
    layer_norm::CASE,
    attention::CASE,
    attention::LONG_CASE,
    attention::BF16_CASE,
    attention::LONG_BF16_CASE,
    gelu::CASE,
    add::CASE,
];

/// The test case of every loss.
pub const LOSSES: &[LossCase] = &[
    cross_entropy::CASE,
    cross_entropy::FEW_TOKENS_CASE,
    cross_entropy::WHOLE_LINES_CASE,
    cross_entropy::BLOCKS_CASE,
    cross_entropy::BF16_CASE,
    cross_entropy::F16_CASE,
];
