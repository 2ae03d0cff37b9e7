//! RigL (Evci et al., *Rigging the lottery*, 2020): the smallest weights make room for those whose gradient is largest.

use super::schedule::{Growth, MaskSchedule};

/// Drops the smallest weights of a layer and adds as many where |dL/dw| is largest.
pub(super) struct Rigl;

impl MaskSchedule for Rigl {
    fn name(&self) -> &'static str {
        "rigl"
    }

    fn growth(&self) -> Growth {
        Growth::Gradient
    }
}
