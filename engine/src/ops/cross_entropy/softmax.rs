//! The two passes of the softmax over words.

use super::super::lines::{Line, load, store};
use mediswift_kernels::isa::{Isa, Kernel, math};

/// Largest logit and Σ exp(logit − largest) of some words, lane by lane.
pub(super) struct MaxAndSum<'a> {
    pub(super) logits: &'a [Line],
}

impl Kernel for MaxAndSum<'_> {
    type Output = (Line, Line);

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> (Line, Line) {
        let mut max = [isa.splat(f32::MIN); 4];
        for logits in self.logits.chunks(4) {
            for (max, logit) in max.iter_mut().zip(logits) {
                *max = isa.max(*max, load(isa, logit));
            }
        }
        let max = isa.max(isa.max(max[0], max[1]), isa.max(max[2], max[3]));
        let mut sum = isa.splat(0.0);
        for logit in self.logits {
            sum = isa.add(sum, math::exp(isa, isa.sub(load(isa, logit), max)));
        }
        (isa.to_array(max), isa.to_array(sum))
    }
}

/// logits ← coefficient · exp(logit − lse).
pub(super) struct Softmax<'a> {
    pub(super) logits: &'a mut [Line],
    pub(super) lse: &'a Line,
    pub(super) coefficients: &'a Line,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (lse, coefficients) = (load(isa, self.lse), load(isa, self.coefficients));
        for logit in self.logits {
            let p = math::exp(isa, isa.sub(load(isa, logit), lse));
            store(isa, logit, isa.mul(coefficients, p));
        }
    }
}
