//! The autotuner: measures the candidates of each product on the matrix itself.
//!
//! Candidates run in turns, so that a machine whose speed drifts treats them alike, and the one with
//! the least median wins. What it finds is a [`LayerPlan`], which decides the bits of the results:
//! a run tunes once, stores the plan, and never tunes again.

use super::extent::size;
use super::list::{Prepared, prepare};
use super::plan::LayerPlan;
use super::product::Product;
use super::strategy::Strategy;
use crate::isa::IsaKind;
use crate::{AlignedBuffer, CsrMatrix, InPrecision, LANES, Precision, SparsePattern};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns of every candidate after one to warm up.
const ROUNDS: usize = 5;

impl LayerPlan {
    /// The fastest strategies for a pattern on an instruction set with the current threads, measured.
    ///
    /// `tokens` is rounded up to whole tiles; a few hundred suffice. Memory: the plans of all
    /// candidates of one product, about 9 bytes per non-zero each.
    /// # Panics
    /// If the machine lacks `isa`.
    #[track_caller]
    pub fn measured(
        precision: Precision,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        tokens: usize,
    ) -> Self {
        let best = races(precision, isa, pattern, tokens).map(|race| fastest(&race).clone());
        Self::new(precision, best).expect("every candidate can compute its product")
    }
}

/// The candidates of one product and the median time that each took.
type Race = Vec<(Strategy, Duration)>;

/// Times the candidates of each of [`Product::TRAINING`].
#[track_caller]
fn races(
    precision: Precision,
    isa: IsaKind,
    pattern: &Arc<SparsePattern>,
    tokens: usize,
) -> [Race; 3] {
    let tiles = tokens.div_ceil(LANES).max(1);
    let numbers = |len: usize| -> AlignedBuffer {
        (0..len).map(|i| (i % 127) as f32 / 127.0 - 0.5).collect()
    };
    let values = numbers(pattern.nnz()).to_vec();
    let w = CsrMatrix::new(pattern.clone(), values).expect("a value per non-zero");
    let x = numbers(size(&[pattern.columns(), tiles, LANES]));
    let dy = numbers(size(&[pattern.rows(), tiles, LANES]));
    let x = InPrecision::new(precision, &x, pattern.columns());
    let dy = InPrecision::new(precision, &dy, pattern.rows());
    Product::TRAINING.map(|product| {
        let candidates = candidates(precision, isa);
        let able: Vec<Strategy> = candidates.into_iter().filter(|s| s.can(product)).collect();
        let prepared: Vec<Prepared> =
            able.iter().map(|strategy| prepare(isa, precision, &w, strategy, product)).collect();
        let mut out = AlignedBuffer::zeros(product.output_len(&w, tiles));
        let medians = race(&prepared, |run| run(x.lines(), dy.lines(), &mut out));
        able.into_iter().zip(medians).collect()
    })
}

/// Who races: what 16 bits alone can be multiplied by, only where it is an instruction.
fn candidates(precision: Precision, isa: IsaKind) -> Vec<Strategy> {
    let all = Strategy::candidates(precision, isa.registers()).into_iter();
    all.filter(|strategy| isa.multiplies(precision) || strategy.multiplies(Precision::F32))
        .collect()
}

/// The winner; the first of equals.
fn fastest(race: &Race) -> &Strategy {
    &race.iter().min_by_key(|(_, median)| *median).expect("at least one candidate").0
}

/// Everybody's median time, running in turns.
fn race(contestants: &[Prepared], mut run: impl FnMut(&Prepared)) -> Vec<Duration> {
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
    times.iter_mut().map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::mask::uniform_random;

    #[test]
    fn all_candidates_race_and_the_fastest_win() {
        let pattern = Arc::new(uniform_random(40, 70, 0.6, 1).unwrap());
        for isa in IsaKind::available() {
            for precision in Precision::ALL {
                let candidates = candidates(precision, isa);
                let races = races(precision, isa, &pattern, 20);
                for (product, race) in Product::TRAINING.into_iter().zip(races) {
                    let able = candidates.iter().filter(|strategy| strategy.can(product));
                    assert!(race.iter().map(|(strategy, _)| strategy).eq(able));
                    let best = fastest(&race);
                    let median = race.iter().find(|(strategy, _)| strategy == best).unwrap().1;
                    assert!(race.iter().all(|(_, other)| median <= *other));
                }
                let plan = LayerPlan::measured(precision, isa, &pattern, 20);
                assert!(plan.strategies().iter().all(|strategy| candidates.contains(strategy)));
            }
        }
    }
}
