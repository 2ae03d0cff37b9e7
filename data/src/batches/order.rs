//! The order of an epoch.

/// The offset and the permutation of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    windows: u64,
    /// Tokens of the split before the first window.
    pub offset: u64,
    half_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Order {
    /// Four rounds make a Feistel network a good permutation (Luby and Rackoff); six are for the
    /// small domains of small datasets.
    const ROUNDS: usize = 6;

    pub fn new(seed: u64, epoch: u64, windows: u64, context: usize) -> Self {
        let mut hasher =
            blake3::Hasher::new_derive_key("mediswift-data: order of an epoch, version 1");
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes());
        let mut drawn = [0; (Self::ROUNDS + 1) * 8];
        hasher.finalize_xof().fill(&mut drawn);
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| drawn[at * 8 + i]));
        let bits = u64::BITS - windows.saturating_sub(1).leading_zeros();
        Self {
            windows,
            offset: number(Self::ROUNDS) % context as u64,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(number),
        }
    }

    /// The window visited at step `index` of the epoch.
    pub fn window(&self, index: u64) -> u64 {
        // The network permutes the next even power of two; walking its cycle until the value is
        // in range permutes the range itself. Fewer than four steps are expected.
        let mut value = self.permute(index);
        while value >= self.windows {
            value = self.permute(value);
        }
        value
    }

    fn permute(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (scramble(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64: every input bit affects every output bit.
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_is_a_permutation(seed: u64, epoch: u64, windows in 1u64..400, context in 1usize..50) {
            let order = Order::new(seed, epoch, windows, context);
            prop_assert!(order.offset < context as u64);
            let visited: BTreeSet<u64> = (0..windows).map(|i| order.window(i)).collect();
            prop_assert_eq!(visited.len() as u64, windows);
            prop_assert!(visited.last() < Some(&windows));
        }
    }

    #[test]
    fn orders_differ_between_seeds_and_epochs_and_are_not_sorted() {
        let order = |seed, epoch| -> Vec<u64> {
            let order = Order::new(seed, epoch, 1000, 8);
            (0..1000).map(|i| order.window(i)).collect()
        };
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
        let rising = order(1, 0).windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((400..600).contains(&rising), "{rising} of 999 steps go up");
        // A domain at the end of the 64-bit range still works.
        assert!(Order::new(1, 1, u64::MAX >> 2, 8).window(12345) < u64::MAX >> 2);
    }
}
