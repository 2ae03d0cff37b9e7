//! The tables of a configuration. The documentation of a key is also the comment that
//! `--print-config` prints above it: see [`comment`].

use super::OnNonFinite;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Declares the tables, and lists the documentation of all of them and of their keys in `COMMENTS`.
macro_rules! tables {
    ($(
        $(#[doc = $about:literal])+
        [$path:literal] $name:ident $(: $derive:ident)? {
            $($(#[doc = $comment:literal])+ $key:ident: $type:ty,)+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize $(, $derive)?)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                $($(#[doc = $comment])+ pub $key: $type,)+
            }
        )+

        /// Lines of documentation by `table` and by `table.key`.
        const COMMENTS: &[(&str, &[&str])] = &[$(
            ($path, &[$($about),+]),
            $((concat!($path, ".", stringify!($key)), &[$($comment),+]),)+
        )+];
    };
}

tables! {
    /// Size of the model.
    ["model"] ModelConfig {
        /// Preset that the defaults come from.
        preset: String,
        /// Transformer blocks; at least 1.
        layers: usize,
        /// Width of the residual stream; the MLP is four times as wide.
        d_model: usize,
        /// Attention heads; divides d_model.
        heads: usize,
        /// Learned positions: the longest sequence, in tokens.
        context: usize,
        /// Entries of the vocabulary; 0 takes that of the data, more than it has is allowed.
        vocabulary: usize,
    }

    /// Sparsity of the linear layers, in the form that Cerebras' configurations have it.
    ["sparsity"] SparsityConfig {
        /// Fraction of the weights of every linear layer that is left out, in [0, 1); 0 is dense.
        sparsity: f64,
        /// How the masks are made, once, before training: random (uniformly), or magnitude (the
        /// largest of the first weights stay).
        init_method: String,
        /// Seed of the masks.
        seed: u64,
        /// Exceptions for some layers; the last group that matches a weight decides. One of them, in
        /// place of the empty list, is
        ///     [[sparsity.groups]]
        ///     param_filter = ["blocks.*.mlp.*"]
        ///     sparsity = 0.9
        groups: Vec<SparsityGroup>,
    }

    /// Another sparsity for some of the linear layers.
    ["sparsity.groups"] SparsityGroup {
        /// Patterns of names of weights, such as blocks.0.attn.qkv.weight: * is any text, ? any
        /// character, [0-3] one of some. Each must match a linear layer's weight.
        param_filter: Vec<String>,
        /// Fraction of their weights that is left out, in [0, 1); 0 keeps them dense.
        sparsity: f64,
    }

    /// Optimisation.
    ["train"] TrainConfig {
        /// Optimiser steps of the whole run; the learning rate is planned over them.
        steps: usize,
        /// Sequences per optimiser step, over all ranks.
        batch: usize,
        /// Sequences per forward and backward pass, at most: smaller takes less memory. A batch is
        /// accumulated over such passes, the last of which takes what is left.
        micro_batch: usize,
        /// Keep only what passes between blocks, and compute their insides again in the backward
        /// pass: less memory, a third more work, the same bits. May differ when a run is resumed.
        recompute: bool,
        /// Tokens per sequence, at most model.context.
        context: usize,
        /// Seed of initial weights and of the order of the data.
        seed: u64,
        /// Peak learning rate, above 0.
        lr: f64,
        /// Learning rate at the end of the cosine, as a fraction of the peak, in [0, 1].
        final_lr_fraction: f64,
        /// Fraction of the steps over which the learning rate rises linearly, in [0, 1].
        warmup_fraction: f64,
        /// Decoupled weight decay, on matrices only; at least 0.
        weight_decay: f64,
        /// Decay of AdamW's first moment, in [0, 1).
        beta1: f64,
        /// Decay of AdamW's second moment, in [0, 1).
        beta2: f64,
        /// Added to the root of AdamW's second moment; above 0.
        epsilon: f64,
        /// Global gradient norm above which gradients are scaled down; inf never clips.
        clip_norm: f64,
        /// What to do with a step whose loss or gradient is not finite, which never makes an
        /// update: stop the run, or skip to the next step. May differ when a run is resumed.
        on_nonfinite: OnNonFinite,
    }

    /// Evaluation during training. May differ when a run is resumed.
    ["eval"] EvalConfig {
        /// Steps between evaluations; 0 evaluates only at the end.
        every: usize,
        /// Validation sequences read by each; 0 reads them all.
        sequences: usize,
    }

    /// Checkpoints. May differ when a run is resumed.
    ["checkpoint"] CheckpointConfig {
        /// Steps between checkpoints; 0 saves only at the end.
        every: usize,
        /// Newest checkpoints to keep; at least 1.
        keep: usize,
        /// Checkpoints of every so many steps, a multiple of those above, are kept for good besides
        /// the newest; 0 keeps none.
        keep_every: usize,
    }

    /// How sparse layers are computed. A plan decides the order of sums, and with it the last bits
    /// of all results: a run writes down the plans it starts with, and keeps them for good.
    ["kernels"] KernelsConfig: Default {
        /// Whether a new run measures which strategies are fastest, instead of asking the cost
        /// model.
        tune: bool,
        /// Strategies by layer, as "OUTxIN@nnz" = "forward/dx/dw"; layers without one get theirs
        /// when the run starts.
        plans: BTreeMap<String, String>,
    }
}

/// What the table or key `path` is, line by line, as in its documentation.
pub(super) fn comment(path: &str) -> Option<&'static [&'static str]> {
    COMMENTS.iter().find(|(known, _)| *known == path).map(|(_, lines)| *lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_of_the_documentation() {
        assert_eq!(comment("eval.every"), Some(&[COMMENTS_EVAL_EVERY][..]));
        assert_eq!(comment("eval.evry"), None);
    }

    const COMMENTS_EVAL_EVERY: &str = " Steps between evaluations; 0 evaluates only at the end.";
}
