//! Tensors and reverse-mode automatic differentiation on token tiles.
//!
//! * [`Tiles`]: activations `[tile][feature][LANES tokens]`.
//! * [`Parameters`] and [`Gradients`]: flat values by [`ParamId`]; a sparse weight is its non-zeros.
//! * [`Tape`]: records operators in the forward pass and walks them back.
//! * [`Profile`]: where the time of a step goes.
//! * [`ops`]: one file per operator: maths, forward, backward, cost, test case.
#![warn(missing_docs)]

pub mod gradcheck;
pub mod ops;
mod params;
mod profile;
mod tape;
mod tiles;

pub use params::{Gradients, ParamId, Parameter, Parameters, Shape};
pub use profile::{Part, Pass, Profile};
pub use tape::{Arena, Backward, Cost, Loss, LossSum, Op, Tape, Var};
pub use tiles::{Tiles, TokenLayout};
