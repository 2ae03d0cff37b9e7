//! Sparse evolutionary training (Mocanu et al., 2018): the smallest weights make room for others drawn by chance.

use super::schedule::{Growth, MaskSchedule};

/// Drops the smallest weights of a layer and draws as many places anew.
pub(super) struct Set;

impl MaskSchedule for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn growth(&self) -> Growth {
        Growth::Random
    }
}
