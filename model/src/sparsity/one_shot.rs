//! One-shot magnitude pruning during training: a dense model loses its smallest weights at once.

use super::schedule::MaskSchedule;

/// Prunes to the target at the first update, and never again.
pub(super) struct OneShot;

impl MaskSchedule for OneShot {
    fn name(&self) -> &'static str {
        "one-shot"
    }

    fn is_once(&self) -> bool {
        true
    }

    fn sparsity(&self, target: f64, progress: f64) -> f64 {
        if progress < 1.0 { 0.0 } else { target }
    }
}
