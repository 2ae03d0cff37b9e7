//! Drawing at random.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws whose mapping from random bits is fixed here, so that no library update can change the
/// corpus of a seed.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    /// One of the streams of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self(random)
    }

    /// 0..`n`, evenly.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// `low..=high`, evenly.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of `from`, evenly.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// 0..`n`, rank `r` with a weight proportional to `1 / (r + 1)`, in whole numbers so that all
    /// machines agree.
    pub fn zipf(&mut self, n: usize) -> usize {
        let weight = |rank: usize| 1_000_000 / (rank as u64 + 1);
        let mut left = self.below((0..n).map(weight).sum());
        (0..n)
            .find(|&rank| match left.checked_sub(weight(rank)) {
                Some(rest) => {
                    left = rest;
                    false
                }
                None => true,
            })
            .unwrap_or(n - 1)
    }

    /// A random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
