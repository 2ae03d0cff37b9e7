//! Applying the merges of a byte-pair encoding to a word.
//!
//! The merge of lowest rank is applied first, the leftmost of equals, until none applies: the
//! definition of GPT-2 and of fastBPE. A heap of candidate pairs over a linked list of symbols does
//! it in O(n log n), so a megabyte without a blank is slow for nobody.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

/// A symbol no merge mentions: a character outside the vocabulary.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// The merges of a vocabulary.
#[derive(Default)]
pub(crate) struct Merges {
    /// (left, right) → (rank, what they join to).
    ranked: FxHashMap<(u32, u32), (u32, u32)>,
}

/// Memory that [`Merges::apply`] uses again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    candidates: BinaryHeap<Reverse<Candidate>>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

/// Two neighbours that a merge joins. The order of fields is the order of merging: by rank, then
/// from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    /// Place of the left symbol.
    at: u32,
    left: u32,
    right: u32,
    joined: u32,
}

const NONE: u32 = u32::MAX;

impl Merges {
    /// Merges in order of rank. A pair listed twice keeps its first rank.
    pub fn new(pairs: impl Iterator<Item = (u32, u32, u32)>) -> Self {
        let mut ranked = FxHashMap::default();
        for (rank, (left, right, joined)) in (0..).zip(pairs) {
            ranked.entry((left, right)).or_insert((rank, joined));
        }
        Self { ranked }
    }

    /// Joins the symbols of one word as far as they go.
    pub fn apply(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let Scratch { candidates, next, previous } = scratch;
        let count = symbols.len() as u32;
        candidates.clear();
        next.clear();
        next.extend((1..count).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..count.saturating_sub(1)));
        let candidate = |symbols: &[u32], at: u32, after: u32| {
            let (left, right) = (symbols[at as usize], symbols[after as usize]);
            let (rank, joined) = *self.ranked.get(&(left, right))?;
            Some(Reverse(Candidate { rank, at, left, right, joined }))
        };
        candidates.extend((1..count).filter_map(|after| candidate(symbols, after - 1, after)));
        while let Some(Reverse(Candidate { at, left, right, joined, .. })) = candidates.pop() {
            let after = next[at as usize];
            // Stale: one of the two has been joined to something else since.
            if after == NONE || symbols[at as usize] != left || symbols[after as usize] != right {
                continue;
            }
            symbols[at as usize] = joined;
            symbols[after as usize] = UNKNOWN;
            let beyond = next[after as usize];
            next[at as usize] = beyond;
            next[after as usize] = NONE;
            if beyond != NONE {
                previous[beyond as usize] = at;
                candidates.extend(candidate(symbols, at, beyond));
            }
            let before = previous[at as usize];
            if before != NONE {
                candidates.extend(candidate(symbols, before, at));
            }
        }
        // Compact in place: the walk never overtakes itself.
        let (mut at, mut kept) = (0, 0);
        while at != NONE && count > 0 {
            symbols[kept] = symbols[at as usize];
            kept += 1;
            at = next[at as usize];
        }
        symbols.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: find the pair of lowest rank, join its leftmost occurrence, again.
    fn apply_naively(merges: &Merges, symbols: &mut Vec<u32>) {
        while let Some((_, at, joined)) = (1..symbols.len())
            .filter_map(|right| {
                let (rank, joined) = *merges.ranked.get(&(symbols[right - 1], symbols[right]))?;
                Some((rank, right - 1, joined))
            })
            .min()
        {
            symbols[at] = joined;
            symbols.remove(at + 1);
        }
    }

    proptest! {
        #[test]
        fn the_heap_agrees_with_the_definition(
            pairs in proptest::collection::vec((0u32..12, 0u32..12), 0..30),
            word in proptest::collection::vec(prop_oneof![0u32..6, Just(UNKNOWN)], 0..40),
        ) {
            let merges = Merges::new((6..).zip(&pairs).map(|(joined, pair)| (pair.0, pair.1, joined)));
            let (mut fast, mut slow) = (word.clone(), word);
            merges.apply(&mut fast, &mut Scratch::default());
            apply_naively(&merges, &mut slow);
            prop_assert_eq!(fast, slow);
        }
    }
}
