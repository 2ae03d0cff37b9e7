//! The autotuner: measures the candidates of each product on the matrix itself.
//!
//! Candidates run in turns, so that a machine whose speed drifts treats them alike, and the one with
//! the least median wins. What it finds is a [`LayerPlan`], which decides the bits of the results:
//! a run tunes once, stores the plan, and never tunes again.

use super::layer::SparseLayer;
use super::spmm::Start;
use super::strategy::{LayerPlan, Strategy};
use crate::isa::IsaKind;
use crate::{AlignedBuffer, LANES, SparsePattern};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns of every candidate after one to warm up.
const ROUNDS: usize = 5;

/// What a candidate took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The product: `forward`, `dx` or `dw`.
    pub product: &'static str,
    /// The strategy's name.
    pub strategy: String,
    /// Median time of one product.
    pub median: Duration,
}

/// Finds the fastest strategies for a pattern on an instruction set with the current threads.
///
/// `tokens` is rounded up to whole tiles; a few hundred suffice. Memory: the plans of all
/// candidates of one product, about 12 bytes per non-zero each.
pub fn measure(
    isa: IsaKind,
    pattern: &Arc<SparsePattern>,
    tokens: usize,
) -> (LayerPlan, Vec<Timing>) {
    let mut plan = LayerPlan::of(pattern.density(), isa);
    let mut timings = Vec::new();
    let tiles = tokens.div_ceil(LANES).max(1);
    let numbers = |len: usize| -> AlignedBuffer {
        (0..len).map(|i| (i % 127) as f32 / 127.0 - 0.5).collect()
    };
    let values = numbers(pattern.nnz());
    let x = numbers(pattern.columns() * tiles * LANES);
    let dy = numbers(pattern.rows() * tiles * LANES);
    let mut y = AlignedBuffer::zeros(dy.len());
    let mut dx = AlignedBuffer::zeros(x.len());
    let mut dw = AlignedBuffer::zeros(pattern.nnz());
    let layers = |plans: Vec<LayerPlan>| -> Vec<SparseLayer> {
        let planned = plans.into_iter().map(|plan| {
            let mut layer = SparseLayer::with_plan(isa, pattern.clone(), plan);
            layer.refresh(&values);
            layer
        });
        planned.collect()
    };
    let candidates = Strategy::candidates(isa.registers());

    let plans = candidates.iter().map(|&forward| LayerPlan { forward, ..LayerPlan::CSR }).collect();
    let (best, medians) = race(&layers(plans), |layer| layer.forward(&x, &mut y, Start::Zero));
    plan.forward = candidates[best];
    timings.extend(report("forward", &candidates, &medians));

    let plans = candidates
        .iter()
        .map(|&input_gradient| LayerPlan { input_gradient, ..LayerPlan::CSR })
        .collect();
    let (best, medians) =
        race(&layers(plans), |layer| layer.input_gradient(&dy, &mut dx, Start::Zero));
    plan.input_gradient = candidates[best];
    timings.extend(report("dx", &candidates, &medians));

    let plans = candidates
        .iter()
        .map(|&weight_gradient| LayerPlan { weight_gradient, ..LayerPlan::CSR })
        .collect();
    let (best, medians) = race(&layers(plans), |layer| layer.weight_gradient(&dy, &x, &mut dw));
    plan.weight_gradient = candidates[best];
    timings.extend(report("dw", &candidates, &medians));
    (plan, timings)
}

/// The fastest contestant and everybody's median time.
fn race(layers: &[SparseLayer], mut run: impl FnMut(&SparseLayer)) -> (usize, Vec<Duration>) {
    let mut times = vec![Vec::with_capacity(ROUNDS); layers.len()];
    for round in 0..=ROUNDS {
        for (layer, times) in layers.iter().zip(&mut times) {
            let start = Instant::now();
            run(layer);
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

fn report<S: ToString>(
    product: &'static str,
    strategies: &[S],
    medians: &[Duration],
) -> Vec<Timing> {
    let timings = strategies.iter().zip(medians).map(|(strategy, &median)| Timing {
        product,
        strategy: strategy.to_string(),
        median,
    });
    timings.collect()
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
            let fastest = |product| {
                let of = timings.iter().filter(|t| t.product == product);
                of.min_by_key(|t| t.median).expect("timings of every product").strategy.clone()
            };
            assert_eq!(plan.forward.to_string(), fastest("forward"));
            assert_eq!(plan.input_gradient.to_string(), fastest("dx"));
            assert_eq!(plan.weight_gradient.to_string(), fastest("dw"));
            let candidates = 3 * Strategy::candidates(isa.registers()).len();
            assert_eq!(timings.len(), candidates);
        }
    }
}
