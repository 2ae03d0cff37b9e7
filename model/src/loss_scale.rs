//! [`LossScale`]: what the loss is multiplied with, so that its gradients fit 16 bits.
//!
//! Numbers of f16 begin at 6e−8, where many gradients of activations are smaller. So the loss is scaled by a power of
//! two S, gradients are computed S times as large as they are, and divided by S, exactly, when the optimiser
//! reads them (Micikevicius et al., arXiv 1710.03740, §3.2). A step whose gradients are not finite makes no
//! update and halves S; many good ones in a row double it. bf16 has the exponents of `f32` and needs none.

use crate::error::Error;
use mediswift_kernels::Precision;
use serde::{Deserialize, Serialize};

/// The scale that a run begins with.
const FIRST: f64 = 65_536.0;

/// Below this scale, gradients overflow for another reason.
const FLOOR: f64 = 1.0;

/// More would gain nothing: `f32` sums of gradients come near their end.
const CEILING: f64 = 16_777_216.0;

/// Good steps in a row after which the scale is doubled.
const PATIENCE: u64 = 1000;

/// The scale and how long it has been good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// A power of two.
    pub scale: f64,
    /// Steps since it was changed.
    pub good_steps: u64,
}

impl LossScale {
    /// What a run of that precision begins with; none where there is nothing to scale.
    pub(crate) fn of(precision: Precision) -> Option<Self> {
        (precision == Precision::F16).then_some(Self { scale: FIRST, good_steps: 0 })
    }

    /// After a step that made an update.
    pub(crate) fn succeeded(&mut self) {
        self.good_steps += 1;
        if self.good_steps == PATIENCE {
            *self = Self { scale: (2.0 * self.scale).min(CEILING), good_steps: 0 };
        }
    }

    /// After a step whose gradients were not finite.
    /// # Errors
    /// If the scale cannot be lowered any more.
    pub(crate) fn overflowed(&mut self) -> Result<(), Error> {
        if self.scale <= FLOOR {
            return Err(Error::LossScale);
        }
        *self = Self { scale: 0.5 * self.scale, good_steps: 0 };
        Ok(())
    }

    /// Whether it is one that a run can have.
    pub(crate) fn is_valid(&self) -> bool {
        (FLOOR..=CEILING).contains(&self.scale) && self.scale.log2().fract() == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_f16_is_scaled() {
        let of = |precision| LossScale::of(precision).is_some();
        assert_eq!(Precision::ALL.map(of), [false, false, true]);
    }

    #[test]
    fn it_falls_to_a_floor_and_rises_to_a_ceiling() {
        let mut scale = LossScale::of(Precision::F16).unwrap();
        for halved in 1..=16 {
            scale.overflowed().unwrap();
            assert_eq!(scale.scale, FIRST / f64::from(1 << halved));
            assert!(scale.is_valid());
        }
        let error = scale.overflowed().unwrap_err().to_string();
        assert!(error.contains("train.precision=bf16"), "{error}");
        for step in 1..=30 * PATIENCE {
            scale.succeeded();
            let doubled = (step / PATIENCE).min(24) as i32;
            assert_eq!(scale.scale, 2f64.powi(doubled), "step {step}");
        }
        for bad in [0.0, 0.5, 3.0, f64::NAN, f64::INFINITY, 2f64.powi(25)] {
            assert!(!LossScale { scale: bad, good_steps: 0 }.is_valid(), "{bad}");
        }
    }
}
