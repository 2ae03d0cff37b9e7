//! The autotuner: measures the candidates of each product on the matrix itself.
//!
//! Candidates run in turns, so that a machine whose speed drifts treats them alike, and the one with
//! the least median wins. What it finds is a [`LayerPlan`], which decides the bits of the results:
//! a run tunes once, stores the plan, and never tunes again.

use super::list::{Prepared, prepare};
use super::plan::LayerPlan;
use super::product::Product;
use super::strategy::Strategy;
use crate::isa::IsaKind;
use crate::{AlignedBuffer, CsrMatrix, LANES, SparsePattern};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns of every candidate after one to warm up.
const ROUNDS: usize = 5;

/// What a candidate took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The product.
    pub product: Product,
    /// The strategy.
    pub strategy: Strategy,
    /// Median time of one product.
    pub median: Duration,
}

/// Finds the fastest strategies for a pattern on an instruction set with the current threads.
///
/// `tokens` is rounded up to whole tiles; a few hundred suffice. Memory: the plans of all
/// candidates of one product, about 16 bytes per non-zero each.
pub fn measure(
    isa: IsaKind,
    pattern: &Arc<SparsePattern>,
    tokens: usize,
) -> (LayerPlan, Vec<Timing>) {
    let tiles = tokens.div_ceil(LANES).max(1);
    let numbers = |len: usize| -> AlignedBuffer {
        (0..len).map(|i| (i % 127) as f32 / 127.0 - 0.5).collect()
    };
    let values = numbers(pattern.nnz()).to_vec();
    let w = CsrMatrix::new(pattern.clone(), values).expect("a value per non-zero");
    let x = numbers(pattern.columns() * tiles * LANES);
    let dy = numbers(pattern.rows() * tiles * LANES);
    let mut timings = Vec::new();
    let best = Product::TRAINING.map(|product| {
        let candidates = Strategy::candidates(isa.registers());
        let able: Vec<Strategy> = candidates.into_iter().filter(|s| s.can(product)).collect();
        let prepared: Vec<Prepared> =
            able.iter().map(|strategy| prepare(isa, &w, strategy, product)).collect();
        let mut out = AlignedBuffer::zeros(product.output_len(&w, tiles));
        let (best, medians) = race(&prepared, |run| run(&x, &dy, &mut out));
        let timed = able.iter().zip(medians);
        let timing = |(strategy, median): (&Strategy, _)| Timing {
            product,
            strategy: strategy.clone(),
            median,
        };
        timings.extend(timed.map(timing));
        able[best].clone()
    });
    (LayerPlan::new(best).expect("every candidate can compute its product"), timings)
}

/// The fastest contestant and everybody's median time.
fn race(contestants: &[Prepared], mut run: impl FnMut(&Prepared)) -> (usize, Vec<Duration>) {
    let mut times = vec![Vec::with_capacity(ROUNDS); contestants.len()];
    for round in 0..=ROUNDS {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            let start = Instant::now();
            run(contestant);
            if round > 0 {
                times.push(start.elapsed());
            }
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let medians: Vec<Duration> = times.iter_mut().map(median).collect();
    let best = (0..medians.len()).min_by_key(|&i| medians[i]).expect("at least one candidate");
    (best, medians)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::mask::uniform_random;

    #[test]
    fn the_plan_is_made_of_the_fastest_of_all_candidates() {
        let pattern = Arc::new(uniform_random(40, 70, 0.6, 1).unwrap());
        for isa in IsaKind::available() {
            let (plan, timings) = measure(isa, &pattern, 20);
            for (product, strategy) in Product::TRAINING.into_iter().zip(plan.strategies()) {
                let able = Strategy::candidates(isa.registers());
                let able = able.iter().filter(|strategy| strategy.can(product));
                let of: Vec<_> = timings.iter().filter(|t| t.product == product).collect();
                assert!(of.iter().map(|timing| &timing.strategy).eq(able));
                let fastest = of.iter().min_by_key(|t| t.median).expect("timings");
                assert_eq!(*strategy, fastest.strategy);
            }
        }
    }
}
