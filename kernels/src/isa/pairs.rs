//! Whether the CPU multiplies pairs of bf16 in less time than it takes for numbers.

use super::vector::{Isa, Kernel};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Turns of [`are_fast`].
const ROUNDS: usize = 20;

/// Whether a multiplication of pairs takes less time than the two FMAs that it replaces, by far: they take
/// as long as two, or as half a one, so that no noise can hide which.
pub(super) fn are_fast<I: Isa>(isa: I) -> bool {
    let time = |pairs: bool| {
        let start = Instant::now();
        black_box(isa.run_pairs(Chains { pairs }));
        start.elapsed()
    };
    // In turns, the shortest of each: about a millisecond in all.
    let [pairs, fma] = (0..ROUNDS)
        .map(|_| [time(true), time(false)])
        .fold([Duration::MAX; 2], |least, now| [least[0].min(now[0]), least[1].min(now[1])]);
    pairs < 3 * fma / 2
}

/// Sums that hide each other's latency, of pairs or of numbers.
struct Chains {
    pairs: bool,
}

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        let (a, b) = (black_box(isa.splat(0.75)), black_box(isa.splat(0.5)));
        let mut sums = [isa.splat(0.0); 12];
        for _ in 0..1500 {
            for sum in &mut sums {
                *sum = if self.pairs { isa.dot(a, b, *sum) } else { isa.fma(a, b, *sum) };
            }
        }
        sums.into_iter().map(|sum| isa.sum(sum)).sum()
    }
}
