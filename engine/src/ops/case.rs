//! What a test needs of an operator.

use crate::{Loss, Op, Parameters, TokenLayout};
use mediswift_kernels::Precision;
use mediswift_kernels::isa::IsaKind;

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
    /// What its operands are rounded to, which says how far its output may be from that ([`tolerance`]).
    pub precision: Precision,
}

/// How far an output may be from its reference, relative to the largest; gradients may be ten times as far. bf16 has
/// eight bits of significand, f16 eleven, of which sums lose more where the CPU adds up f16.
pub fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 5e-3,
        Precision::F16 if IsaKind::active().is_ok_and(|isa| isa.multiplies(precision)) => 4e-3,
        Precision::F16 => 6e-4,
    }
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
    /// As for [`OpCase`].
    pub precision: Precision,
}
