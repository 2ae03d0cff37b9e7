//! Python's `random`, as far as PubMedQA's official splits need it.
//!
//! `random.seed(0)`, `shuffle` and `choice` of Python 3 over its Mersenne Twister: an integer below
//! n takes as many bits as n has, and draws again while the result is not below n.

use rand_mt::Mt;

/// The generator after `random.seed(seed)`.
pub struct PythonRandom(Mt);

impl PythonRandom {
    /// Python hands the seed to the generator as an array of 32-bit words.
    pub fn new(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1);
            items.swap(last, other);
        }
    }

    /// The place of `random.choice` in a list of `len` items, of which there must be one.
    pub fn choice(&mut self, len: usize) -> usize {
        self.below(len as u32)
    }

    fn below(&mut self, n: u32) -> usize {
        let unused = n.leading_zeros();
        loop {
            let drawn = self.0.next_u32() >> unused;
            if drawn < n {
                return drawn as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_pythons() {
        // random.seed(0); x = list(range(10)); random.shuffle(x); random.choice(range(7)), …
        let mut random = PythonRandom::new(0);
        let mut items: Vec<u32> = (0..10).collect();
        random.shuffle(&mut items);
        assert_eq!(items, [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]);
        assert_eq!([7, 7, 100, 1].map(|n| random.choice(n)), [2, 4, 27, 0]);
    }
}
