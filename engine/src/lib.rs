//! Tensors and reverse-mode automatic differentiation on token tiles.
//!
//! * [`Tiles`]: activations `[tile][feature][LANES tokens]`.
//! * [`Flat`]: [`Parameters`] and what belongs to them, such as [`Gradients`], each in one buffer over
//!   one [`Layout`]; a sparse weight is its non-zeros.
//! * [`Op`] and [`Loss`]: what an operator is; [`ops`]: one file per operator: maths, forward, backward, one
//!   token, cost, test case.
//! * [`Tape`]: records operators in the forward pass and walks them back.
//! * [`Profile`]: where the time of a step goes.
//!
//! ```
//! use mediswift_engine::gradcheck::numbers;
//! use mediswift_engine::ops::{CrossEntropy, Embedding, Gelu};
//! use mediswift_engine::{Arena, Gradients, Layout, Parameters, Shape, Tape, TokenLayout};
//!
//! let (vocabulary, features) = (5, 4);
//! let tables = [("tokens", Shape::Matrix(vocabulary, features)), ("places", Shape::Matrix(3, features))];
//! let layout = Layout::new(tables);
//! let mut parameters = Parameters::zeros(&layout);
//! for (_, values) in parameters.iter_mut() {
//!     values.copy_from_slice(&numbers(values.len(), 1));
//! }
//! let id = |name| layout.find(name).expect("a tensor of the layout");
//! let (tokens, positions) = (id("tokens"), id("places"));
//!
//! // Forward, and back from the loss of predicting the next token.
//! let mut arena = Arena::default();
//! let mut tape = Tape::new(TokenLayout { sequences: 1, context: 3 }, &mut arena);
//! let embedding = Embedding { tokens, positions, prompt: None, ids: &[0, 1, 2], features };
//! let x = tape.apply(embedding, &[], &parameters);
//! let x = tape.apply(Gelu { features }, &[x], &parameters);
//! let targets = &[1, 2, 3];
//! let (weight, half, weights, scale) = (tokens, None, None, 1.0);
//! let loss = CrossEntropy { weight, half, vocabulary, features, targets, weights, scale };
//! let mut gradients = Gradients::zeros(&layout);
//! let loss = tape.backward(&loss, x, &parameters, &mut gradients);
//! assert!(loss.mean() > 0.0 && gradients[positions].iter().all(|gradient| *gradient != 0.0));
//! ```
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
mod value;

pub use flat::{Flat, Gradients, Parameters, Tensor};
pub use layout::{BLOCK, Layout, ParamId, Shape, TensorPlace};
pub use op::{Backward, Cost, Loss, LossSum, Need, OneToken, Op, Operand};
pub use profile::{Pass, Profile, ProfilePart};
pub use tape::{Arena, Tape, Var};
pub use tiles::{Tiles, TokenLayout};
