//! The tables of a configuration. The documentation of a key is also the comment that
//! `--print-config` prints above it.

use super::text::{Comment, Section};
use super::value::{Setting, wrong_type};
use crate::error::{Error, Place};
use crate::named::named;
use crate::presets::Preset;
use crate::sparsity::{Distribution, DropShape, MaskPolicy, MaskSchedule};
use mediswift_kernels::Precision;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::BTreeMap;
use toml::Value;

/// Declares tables of settings, and lists the documentation of all of them and of their keys in
/// `COMMENTS`.
macro_rules! tables {
    ($(
        $(#[doc = $about:literal])+
        [$path:literal] $name:ident $(: $derive:ident)? {
            $($(#[doc = $comment:literal])+ $key:ident: $type:ty,)+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq, Serialize $(, $derive)?)]
            pub struct $name {
                $($(#[doc = $comment])+ pub $key: $type,)+
            }

            impl Section for $name {
                fn keys(&self) -> &'static [&'static str] {
                    const KEYS: &[&str] = &[$($crate::config::text::key_name(stringify!($key))),+];
                    KEYS
                }

                fn set(
                    &mut self,
                    key: &str,
                    value: Value,
                    path: &str,
                    place: &Place,
                ) -> Result<(), Error> {
                    $(if key == $crate::config::text::key_name(stringify!($key)) {
                        return self.$key.change(value, path, place);
                    })+
                    panic!("[{}] has no key '{key}'", $path)
                }

                fn comment(path: &str) -> Option<Comment> {
                    let known = COMMENTS.iter().find(|(table, key, _)| match *key {
                        "" => path == *table,
                        key => path.strip_prefix(table).and_then(|p| p.strip_prefix('.')) == Some(key),
                    });
                    known.map(|(_, _, lines)| *lines)
                }
            }

            /// A whole table: every key is there, and no other.
            impl Setting for $name {
                fn read(value: Value, path: &str, place: &Place) -> Result<Self, Error> {
                    let Value::Table(mut keys) = value else {
                        return Err(wrong_type(place, path, "table", &value));
                    };
                    let missing = |key: &str| {
                        Error::setting(place.clone(), format!("{path}.{key} is missing"))
                    };
                    let read = Self {
                        $($key: {
                            let key = $crate::config::text::key_name(stringify!($key));
                            let value = keys.remove(key).ok_or_else(|| missing(key))?;
                            Setting::read(value, &format!("{path}.{key}"), place)?
                        },)+
                    };
                    match keys.keys().next() {
                        Some(key) => {
                            let known = read.keys().iter().copied();
                            Err(Error::unknown(place.within(path), "key", key, known))
                        }
                        None => Ok(read),
                    }
                }

                fn change(&mut self, value: Value, path: &str, place: &Place) -> Result<(), Error> {
                    let Value::Table(keys) = value else {
                        return Err(wrong_type(place, path, "table", &value));
                    };
                    for (key, value) in keys {
                        let known = self.keys();
                        if !known.contains(&&*key) {
                            let place = place.within(&format!("[{path}]"));
                            return Err(Error::unknown(place, "key", &key, known.iter().copied()));
                        }
                        Section::set(self, &key, value, &format!("{path}.{key}"), place)?;
                    }
                    Ok(())
                }
            }

            /// Reads a whole table from JSON.
            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let table = Value::deserialize(deserializer)?;
                    Setting::read(table, $path, &Place::from("settings")).map_err(de::Error::custom)
                }
            }
        )+

        /// Lines of documentation by table and key, which is empty for a table's own.
        const COMMENTS: &[(&str, &str, Comment)] = &[$(
            ($path, "", &[$($about),+]),
            $(($path, $crate::config::text::key_name(stringify!($key)), &[$($comment),+]),)+
        )+];
    };
}
pub(crate) use tables;

/// Declares all tables that decide a run.
macro_rules! settings {
    ($(#[$about:meta])* pub struct $name:ident { $($table:ident: $type:ident,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $name {
            $(#[doc = concat!("`[", stringify!($table), "]`.")] pub $table: $type,)+
        }

        impl Tables for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($table)),+];

            fn section(&mut self, name: &str) -> Option<&mut dyn Section> {
                $(if name == stringify!($table) {
                    return Some(&mut self.$table);
                })+
                None
            }

            fn comment(path: &str) -> Option<Comment> {
                [$(<$type as Section>::comment(path)),+].into_iter().find_map(|comment| comment)
            }
        }
    };
}
pub(crate) use settings;

named! {
    /// What to do with a step whose loss or gradient is not finite. It never changes a weight.
    pub enum OnNonFinite: "value" {
        /// End the run with an error.
        Stop = "stop",
        /// Go on with the next step, unless a weight of the model is to blame.
        Skip = "skip",
    }
}

tables! {
    /// Size of the model.
    ["model"] ModelConfig {
        /// Preset that the defaults come from.
        preset: &'static Preset,
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
        /// How that is shared out among the layers: uniform (the same in all), or er or erk (small ones denser
        /// than large ones, as many weights in all; the two are the same here).
        distribution: Distribution,
        /// How the masks are made, once, before training: random (uniformly), magnitude (the largest of
        /// the first weights stay), or for studies any other that bench layer --mask draws.
        init_method: &'static dyn MaskPolicy,
        /// Seed of the masks.
        seed: u64,
        /// Whether and how masks move during training: static (never), set (the smallest weights make room for
        /// random ones), rigl (for those of largest gradient), gmp (a dense model loses its smallest weights, update
        /// by update), or one-shot (all at once, at the first update).
        algorithm: &'static dyn MaskSchedule,
        /// Fraction of a layer's weights that make room, in an update of set or rigl.
        drop_fraction: DropFractionConfig,
        /// When masks move.
        update: UpdateConfig,
        /// Exceptions for some layers; the last group that matches a weight decides. One of them, in
        /// place of the empty list, is
        ///     [[sparsity.groups]]
        ///     param_filter = ["blocks.*.mlp.*"]
        ///     sparsity = 0.9
        groups: Vec<SparsityGroup>,
    }

    /// Fraction of a layer's weights that make room for others.
    ["sparsity.drop_fraction"] DropFractionConfig {
        /// How it changes with the step: cosine (from init along half a cosine to 0), or constant.
        r#type: DropShape,
        /// At the beginning of the run, in [0, 1].
        init: f64,
        /// Steps until a cosine is 0; 0 is update.stop.
        half_period: usize,
    }

    /// When masks move: after the optimiser's steps start, start + freq, start + 2 freq and so on before stop, counted
    /// from 1.
    ["sparsity.update"] UpdateConfig {
        /// The first step with an update; 0 is freq.
        start: usize,
        /// Steps from one update to the next; at least 1.
        freq: usize,
        /// The step before which updates end; 0 is three quarters of train.steps.
        stop: usize,
    }

    /// Another sparsity for some of the linear layers.
    ["sparsity.groups"] SparsityGroup {
        /// Patterns of names of weights, such as blocks.0.attn.qkv.weight: * is any text, ? any
        /// character, [0-3] one of some. Each must match a linear layer's weight.
        param_filter: Vec<String>,
        /// Fraction of their weights that is left out, in [0, 1); 0 keeps them dense.
        sparsity: f64,
    }

    /// What is trained on, and for how long.
    ["train"] TrainConfig {
        /// Optimiser steps of the whole run; the learning rate is planned over them.
        steps: usize,
        /// Sequences per optimiser step, over all ranks.
        batch: usize,
        /// Sequences per forward and backward pass, at most: smaller takes less memory. A batch is
        /// accumulated over such passes, the last of which takes what is left.
        micro_batch: usize,
        /// Parts of a step's micro-batches whose gradients are added up apart, at most; a power of two.
        /// Ranks share them, so there cannot be more ranks; every doubling costs the memory of a
        /// gradient, shared by the ranks.
        leaves: usize,
        /// Keep only what passes between blocks, and compute their insides again in the backward
        /// pass: less memory, a third more work, the same bits. May differ when a run is resumed.
        recompute: bool,
        /// What activations and weights are rounded to before they are multiplied: f32, bf16, or f16.
        /// Sums, weights, their gradients and moments stay f32.
        precision: Precision,
        /// Tokens per sequence, at most model.context.
        context: usize,
        /// Seed of initial weights and of the order of the data.
        seed: u64,
        /// Peak learning rate, above 0.
        lr: f64,
        /// What to do with a step whose loss or gradient is not finite, which never makes an
        /// update: stop the run, or skip to the next step. May differ when a run is resumed.
        on_nonfinite: OnNonFinite,
    }

    /// The optimiser and its learning rate, between the peak and the ends.
    ["optimiser"] OptimiserConfig {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_of_the_documentation() {
        assert_eq!(EvalConfig::comment("eval.every"), Some(&[COMMENTS_EVAL_EVERY][..]));
        assert_eq!(EvalConfig::comment("eval.evry"), None);
    }

    const COMMENTS_EVAL_EVERY: &str = " Steps between evaluations; 0 evaluates only at the end.";
}
