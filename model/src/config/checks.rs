//! Ranges that settings of pre-training and of fine-tuning have in common.

use super::tables::{ModelConfig, OptimiserConfig};
use crate::error::Error;
use std::fmt;

const POSITIVE: &str = "be a finite number above 0 in 32 bits";

/// More blocks than any model has: a number that is still safe to count to.
pub(crate) const MOST_LAYERS: usize = 4096;

/// More weights than any machine holds: below, no sum over tensors or their bytes overflows.
const MOST_WEIGHTS: f64 = (1_u64 << 56) as f64;

impl ModelConfig {
    /// Checks that extents are some, and that nothing computed from them overflows: neither tokens and
    /// indices, which have 32 bits, nor numbers of weights and bytes, which have 64.
    /// # Errors
    /// The first extent that is out of range, with what it must be.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let Self { layers, d_model, heads, context, vocabulary, .. } = *self;
        for (key, extent) in [
            ("model.layers", layers),
            ("model.d_model", d_model),
            ("model.heads", heads),
            ("model.context", context),
        ] {
            require_some(key, extent)?;
        }
        require(layers <= MOST_LAYERS, "model.layers", layers, "be at most 4096")?;
        for (key, extent) in [("model.context", context), ("model.vocabulary", vocabulary)] {
            require(extent < u32::MAX as usize, key, extent, "be below 4294967295 (32 bits)")?;
        }
        let is_index = |extent: Option<usize>| extent.is_some_and(|n| n < u32::MAX as usize);
        require_fit(is_index(d_model.checked_mul(4)), "model.d_model", || {
            format!("is {d_model}, too large for 32-bit indices")
        })?;
        require_fit(d_model.is_multiple_of(heads), "model.d_model", || {
            format!("{d_model} is not divisible by model.heads = {heads}")
        })?;
        let rows = 12.0 * layers as f64 * d_model as f64 + context as f64 + vocabulary as f64;
        let weights = rows * d_model as f64;
        require_fit(weights < MOST_WEIGHTS, "model.d_model", || {
            format!("{d_model} with {layers} layers makes {weights:.1e} weights: choose less")
        })
    }
}

impl OptimiserConfig {
    /// Checks every value. AdamW computes with 32 bits, so that is where they must make sense.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let is_finite = |value: f64| (value as f32).is_finite();
        let is_positive = |value: f64| value as f32 > 0.0;
        let is_decay = |value: f64| (0.0..1.0).contains(&(value as f32));
        let is_fraction = |value: f64| (0.0..=1.0).contains(&value);
        let Self { epsilon, clip_norm, weight_decay, beta1, beta2, .. } = *self;
        let Self { final_lr_fraction, warmup_fraction, .. } = *self;
        let has_decay = is_finite(weight_decay) && weight_decay >= 0.0;
        [
            ("epsilon", epsilon, is_finite(epsilon) && is_positive(epsilon), POSITIVE),
            // An infinite norm is how to ask for no clipping.
            (
                "clip_norm",
                clip_norm,
                is_positive(clip_norm),
                "be above 0 in 32 bits (inf never clips)",
            ),
            (
                "weight_decay",
                weight_decay,
                has_decay,
                "be a finite number of at least 0 in 32 bits",
            ),
            ("beta1", beta1, is_decay(beta1), "lie in [0, 1) in 32 bits"),
            ("beta2", beta2, is_decay(beta2), "lie in [0, 1) in 32 bits"),
            (
                "final_lr_fraction",
                final_lr_fraction,
                is_fraction(final_lr_fraction),
                "lie in [0, 1]",
            ),
            ("warmup_fraction", warmup_fraction, is_fraction(warmup_fraction), "lie in [0, 1]"),
        ]
        .into_iter()
        .try_for_each(|(key, value, holds, range)| {
            require(holds, &format!("optimiser.{key}"), format_args!("{value:?}"), range)
        })
    }

    /// Checks a peak learning rate: neither it nor the first step that AdamW makes of it,
    /// lr / (1 − β₁), may be 0 or infinite in 32 bits.
    /// # Errors
    /// If it is out of range.
    pub(crate) fn check_rate(&self, key: &str, rate: f64) -> Result<(), Error> {
        let shown = format_args!("{rate:?}");
        require(rate.is_finite() && rate as f32 > 0.0, key, shown, POSITIVE)?;
        let first = (rate / (1.0 - self.beta1)) as f32;
        require(first.is_finite(), key, shown, "leave lr / (1 - beta1) finite in 32 bits")
    }
}

/// Refuses a count of 0.
pub(crate) fn require_some(key: &str, count: usize) -> Result<(), Error> {
    require(count > 0, key, count, "be at least 1")
}

/// Refuses the value of `key` unless something `holds` that its `range` says.
pub(crate) fn require(
    holds: bool,
    key: &str,
    value: impl fmt::Display,
    range: &'static str,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::out_of_range(key, value, range)) }
}

/// Refuses settings that do not fit each other, with what is wrong with `key`.
pub(crate) fn require_fit(
    fits: bool,
    key: &str,
    problem: impl FnOnce() -> String,
) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::setting(key, problem())) }
}
