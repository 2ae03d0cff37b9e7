//! Masks that stay as they are: the paper's.

use super::schedule::MaskSchedule;

/// No mask ever moves.
#[derive(Debug)]
pub struct Static;

impl MaskSchedule for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn moves(&self) -> bool {
        false
    }
}
