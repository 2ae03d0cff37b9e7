//! Sparse and dense kernels for training on ordinary CPUs.
//!
//! Everything here works on **token tiles**: activations are stored as
//! `[tile][feature][LANES tokens]`, so that one feature of one tile is one cache line, one AVX-512
//! register, and the SIMD lanes always run over tokens. No sparse kernel ever transposes an
//! activation.
//!
//! * [`isa`]: sixteen-lane vectors for AVX-512, AVX2+FMA, NEON and plain scalar code.
//! * [`sparse`]: [`SparsePattern`] (validated CSR structure), [`CsrMatrix`], masks, files, conversions.
//! * [`ops`]: the products of a linear layer, one file each, with the naive reference beside it.
//! * [`probe`]: the limits of the machine, measured; `baseline` and `bench` (with the cargo feature
//!   `baseline`): dense libraries to compare with, and whole layers in turns with them.
//! * [`precision`]: numbers of 16 bits, and the lines that they come in.
//! * [`rows`]: activations as programs outside hold them, to tiles and back.
//! * [`parallel`]: loops over blocks whose results do not depend on the thread count.
#![warn(missing_docs)]

#[cfg(feature = "baseline")]
pub mod baseline;
#[cfg(feature = "baseline")]
pub mod bench;
mod buffer;
pub mod isa;
pub mod ops;
pub mod parallel;
pub mod precision;
pub mod probe;
mod rounding;
pub mod rows;
pub mod sparse;

pub use buffer::{AlignedBuffer, Scratch};
pub use ops::LinearLayer;
pub use precision::{Lines, Precision, UnknownPrecision};
pub use rounding::{HalfTiles, InPrecision, half_words};
pub use sparse::{CsrMatrix, PatternError, SparsePattern};

/// Tokens in a tile: the SIMD lanes of every kernel, and one cache line of `f32`.
pub const LANES: usize = 16;
