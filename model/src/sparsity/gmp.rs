//! Gradual magnitude pruning (Zhu and Gupta, *To prune, or not to prune*, 2017): a dense model loses its smallest
//! weights update by update, many at first and few at the end.

use super::schedule::MaskSchedule;

/// After a fraction p of all updates a layer of target s has the sparsity s · (1 − (1 − p)³).
pub(super) struct Gmp;

impl MaskSchedule for Gmp {
    fn name(&self) -> &'static str {
        "gmp"
    }

    fn sparsity(&self, target: f64, progress: f64) -> f64 {
        target * (1.0 - (1.0 - progress).powi(3))
    }
}
