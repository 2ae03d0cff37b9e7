//! Ranges that settings of pre-training and of fine-tuning have in common.

use super::tables::OptimiserConfig;
use crate::error::Error;

impl OptimiserConfig {
    /// Checks every value. AdamW computes with 32 bits, so that is where they must make sense.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let single = |value: f64| value as f32;
        let is_positive = |value: f32| value.is_finite() && value > 0.0;
        require(is_positive(single(self.epsilon)), "optimiser.epsilon", || {
            format!("is {:?}, but must be a finite number above 0, in 32 bits", self.epsilon)
        })?;
        // An infinite norm is how to ask for no clipping.
        require(single(self.clip_norm) > 0.0, "optimiser.clip_norm", || {
            format!("is {:?}, but must be above 0, in 32 bits (inf never clips)", self.clip_norm)
        })?;
        let decay = single(self.weight_decay);
        require(decay.is_finite() && decay >= 0.0, "optimiser.weight_decay", || {
            let value = self.weight_decay;
            format!("is {value:?}, but must be a finite number of at least 0, in 32 bits")
        })?;
        for (key, beta) in [("optimiser.beta1", self.beta1), ("optimiser.beta2", self.beta2)] {
            require((0.0..1.0).contains(&single(beta)), key, || {
                format!("is {beta:?}, but must lie in [0, 1), in 32 bits")
            })?;
        }
        for (key, fraction) in [
            ("optimiser.final_lr_fraction", self.final_lr_fraction),
            ("optimiser.warmup_fraction", self.warmup_fraction),
        ] {
            require((0.0..=1.0).contains(&fraction), key, || {
                format!("is {fraction:?}, but must lie in [0, 1]")
            })?;
        }
        Ok(())
    }

    /// Checks a peak learning rate: neither it nor the first step that AdamW makes of it,
    /// lr / (1 − β₁), may be 0 or infinite in 32 bits.
    /// # Errors
    /// If it is out of range.
    pub(crate) fn check_rate(&self, key: &str, rate: f64) -> Result<(), Error> {
        require(rate.is_finite() && rate as f32 > 0.0, key, || {
            format!("is {rate:?}, but must be a finite number above 0, in 32 bits")
        })?;
        require(((rate / (1.0 - self.beta1)) as f32).is_finite(), key, || {
            format!("is {rate:?}, too large for 32 bits: the first step is {rate:?} / (1 - beta1)")
        })
    }
}

/// Refuses a count of 0.
pub(crate) fn require_some(key: &str, count: usize) -> Result<(), Error> {
    require(count > 0, key, || "is 0, but must be at least 1".into())
}

/// An error about `key` unless something `holds`.
pub(crate) fn require(
    holds: bool,
    key: &str,
    problem: impl FnOnce() -> String,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::config(key, problem())) }
}
