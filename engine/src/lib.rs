//! Tensors and reverse-mode automatic differentiation on token tiles.
//!
//! * [`Tiles`]: activations `[tile][feature][LANES tokens]`.
//! * [`Flat`]: [`Parameters`] and what belongs to them, such as [`Gradients`], each in one buffer over
//!   one [`Layout`]; a sparse weight is its non-zeros.
//! * [`Op`] and [`Loss`]: what an operator is; [`ops`]: one file per operator: maths, forward, backward, one
//!   token, cost, test case.
//! * [`Tape`]: records operators in the forward pass and walks them back.
//! * [`Profile`]: where the time of a step goes.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod flat;
pub mod gradcheck;
mod layout;
mod op;
pub mod ops;
mod profile;
mod tape;
mod tiles;

pub use flat::{Flat, Gradients, Parameters, Tensor};
pub use layout::{Layout, ParamId, Shape, TensorPlace};
pub use op::{Backward, Cost, Loss, LossSum, OneToken, Op};
pub use profile::{Pass, Profile, ProfilePart};
pub use tape::{Arena, Tape, Var};
pub use tiles::{Tiles, TokenLayout};
