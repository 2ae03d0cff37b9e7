//! [`CrossEntropy`]: the output head, tied to the token table, and the loss, fused.
//!
//! With W the table `[V, d]`, x the hidden state of a token, y its target, w its weight:
//!
//! ```text
//! logits = W · x
//! lse    = ln Σ_v exp logits[v]
//! loss   = lse − logits[y]
//! c      = w · scale
//! g[v]   = c · (exp(logits[v] − lse) − [v = y])       gradient of scale · Σ w · loss
//! dx     = Wᵀ · g
//! dW    += g · xᵀ                                     (over tokens)
//! ```
//!
//! The logits of [`CHUNK_TILES`] tiles are computed, turned into g where they lie, used for dx and
//! dW, and overwritten by those of the next chunk: three products in all, nothing computed twice,
//! and never more than a chunk of logits in memory. Losses are summed in `f64`, in token order. Tiles
//! without a token of weight take no part: where the loss falls on a few tokens at the end of a long
//! text, the head costs next to nothing.
//!
//! FLOPs per token that takes part: forward 2 · V · d for the logits and 3 · V for the log-sum-exp; backward
//! 4 · V · d for the two products and 3 · V for g.

mod cases;
mod head;
mod loss;
mod predict;
mod softmax;

pub use self::cases::{BF16_CASE, BLOCKS_CASE, CASE, F16_CASE, FEW_TOKENS_CASE, WHOLE_LINES_CASE};
pub use self::head::{CHUNK_TILES, CrossEntropy};
pub use self::predict::Prediction;

#[cfg(test)]
mod tests;
