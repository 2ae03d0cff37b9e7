//! [`Op`] and [`Loss`]: what an operator is.

use crate::{Gradients, Parameters, Profile, Tiles, TokenLayout};
use mediswift_kernels::{AlignedBuffer, HalfTiles, Precision};

/// Exact work of an operator on one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations of the forward pass.
    pub forward_flops: u64,
    /// Floating-point operations of the backward pass.
    pub backward_flops: u64,
    /// Bytes that both passes read and write at least once: operands, results and their gradients.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            forward_flops: self.forward_flops + other.forward_flops,
            backward_flops: self.backward_flops + other.backward_flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |a, b| a + b)
    }
}

/// What a backward pass reads of a value of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Its numbers, rounded to this precision of 16 bits.
    Rounded(Precision),
    /// Its numbers.
    Exact,
}

impl Need {
    /// Of an operand that is rounded to a precision before it is multiplied.
    pub fn of_operand(precision: Precision) -> Need {
        match precision {
            Precision::F32 => Need::Exact,
            precision => Need::Rounded(precision),
        }
    }

    /// What serves two readers.
    #[must_use]
    pub fn and(self, other: Need) -> Need {
        match (self, other) {
            (Need::Nothing, need) | (need, Need::Nothing) => need,
            (one, other) if one == other => one,
            _ => Need::Exact,
        }
    }
}

/// A value of the forward pass, as far as anybody needs it.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// Not at all.
    Gone,
    /// In 16 bits.
    Rounded(&'a HalfTiles<AlignedBuffer>),
    /// As it was computed.
    Exact(&'a Tiles),
}

impl<'a> Operand<'a> {
    /// Its numbers.
    /// # Panics
    /// If the operator did not say that it needs them.
    #[track_caller]
    pub fn exact(self) -> &'a Tiles {
        match self {
            Operand::Exact(tiles) => tiles,
            _ => panic!("an operator reads a value that it said it does not need"),
        }
    }
}

/// What an operator's backward pass reads and writes.
pub struct Backward<'a> {
    /// Inputs of the forward pass, at least as exact as [`Op::needs_input`] says.
    pub x: &'a [Operand<'a>],
    /// Output of the forward pass, at least as exact as [`Op::needs_output`] says.
    pub y: Operand<'a>,
    /// What the forward pass saved.
    pub saved: &'a Tiles,
    /// Gradient of the output.
    pub dy: &'a Tiles,
    /// Gradients of the inputs, one for each: **add** to those whose `accumulate` is set,
    /// overwrite the others (they hold garbage).
    pub dx: &'a mut [Tiles],
    /// Which of `dx` already hold a part of their gradient.
    pub accumulate: &'a [bool],
    /// The model's parameters.
    pub parameters: &'a Parameters,
    /// Gradients of the parameters: always **add**.
    pub gradients: &'a mut Gradients,
}

/// What an operator reads and writes when it goes on by one token.
pub struct OneToken<'a> {
    /// Inputs, `[features]` each.
    pub x: &'a [&'a [f32]],
    /// Output; holds garbage before.
    pub y: &'a mut [f32],
    /// The model's parameters.
    pub parameters: &'a Parameters,
    /// The token's place in its sequence, from 0.
    pub position: usize,
    /// What the earlier tokens of the sequence left ([`Op::cached_features`]).
    pub cache: &'a mut [f32],
}

/// A differentiable operator on token tiles.
pub trait Op: Sync {
    /// Name in profiles and test reports.
    fn name(&self) -> &'static str;

    /// Features of the output.
    fn out_features(&self) -> usize;

    /// Values per token that the forward pass saves for the backward pass.
    fn saved_features(&self) -> usize {
        0
    }

    /// Computes `y` from `x`; both `y` and `saved` hold garbage before.
    /// Padding lanes must be written too, with finite values.
    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, saved: &mut Tiles);

    /// Propagates `dy` to the inputs and to the parameters.
    fn backward(&self, pass: Backward<'_>);

    /// What the backward pass reads of an input.
    fn needs_input(&self, _input: usize) -> Need {
        Need::Exact
    }

    /// What the backward pass reads of the output.
    fn needs_output(&self) -> Need {
        Need::Nothing
    }

    /// Computes the output of one token after those before it: up to rounding what
    /// [`Op::forward`] gives for it in a batch of that one sequence.
    fn one_token(&self, token: OneToken<'_>);

    /// Values per token that later tokens of a sequence need: an operator that has some gets a cache
    /// with room for as many positions as a sequence can have, and lays it out itself.
    fn cached_features(&self) -> usize {
        0
    }

    /// Leaves in `cache` what [`Op::one_token`] would have left for each token of `x`, one sequence.
    fn fill_cache(&self, _x: &[&Tiles], _cache: &mut [f32]) {}

    /// Exact work on a batch of that layout, padding not counted.
    fn cost(&self, layout: TokenLayout) -> Cost;
}

/// A sum of token losses and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Σ weight · loss, in nats.
    pub sum: f64,
    /// Σ weight.
    pub weight: f64,
}

impl LossSum {
    /// The weighted mean loss, in nats per token; NaN without any weight.
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

impl std::ops::Add for LossSum {
    type Output = LossSum;
    fn add(self, other: LossSum) -> LossSum {
        LossSum { sum: self.sum + other.sum, weight: self.weight + other.weight }
    }
}

/// The end of a tape: where differentiation starts.
pub trait Loss {
    /// Name in profiles and test reports.
    fn name(&self) -> &'static str;

    /// The loss of hidden states `x`.
    fn evaluate(&self, x: &Tiles, parameters: &Parameters) -> LossSum;

    /// The loss and, in the same pass, its gradient: overwrites `dx`, adds to `gradients`. Tells
    /// `profile` how long each of the two takes.
    fn differentiate(
        &self,
        x: &Tiles,
        parameters: &Parameters,
        dx: &mut Tiles,
        gradients: &mut Gradients,
        profile: &mut Profile,
    ) -> LossSum;

    /// Exact work of value and gradient.
    fn cost(&self, layout: TokenLayout) -> Cost;
}
