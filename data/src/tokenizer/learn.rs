//! Learning the merges of a byte-pair encoding.
//!
//! Byte-pair encoding starts from single symbols, bytes or characters, and repeatedly joins the most
//! frequent adjacent pair into a new token (Sennrich et al., 2016). The trainer of the `tokenizers`
//! crate counts pairs in 32 bits and breaks ties by the iteration order of a randomly seeded hash
//! map. Here counts are 64-bit, ties go to the smaller pair, and words are taken in a fixed order, so
//! that a corpus has exactly one tokenizer, and a dataset can be made again bit for bit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use rustc_hash::FxHashMap;

use super::merge::UNKNOWN;

/// A vocabulary and the merges that build it, in the order learned.
pub(crate) struct Learned {
    /// Token strings; the index is the id.
    pub tokens: Vec<String>,
    /// Pairs of token strings to join, most frequent first.
    pub merges: Vec<(String, String)>,
}

type Pair = (u32, u32);

/// Learns merges until `tokens` (already holding reserved tokens and single symbols) has `vocab_size`
/// entries, or no pair occurs `min_frequency` times any more.
///
/// `words` are sequences of token ids with how often each occurs; [`UNKNOWN`] joins with nothing.
pub(crate) fn learn(
    mut tokens: Vec<String>,
    words: Vec<(Vec<u32>, u64)>,
    vocab_size: usize,
    min_frequency: u64,
) -> Learned {
    let mut ids: HashMap<String, u32> =
        tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
    let mut corpus = Corpus::new(words);
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        corpus.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();

    let mut merges = Vec::new();
    let mut merged_before = HashSet::new();
    while tokens.len() < vocab_size {
        let Some((count, Reverse(pair))) = queue.pop() else { break };
        // A pair that lost occurrences since it was queued returns with its true count.
        let current = corpus.counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            if current > 0 && current < count {
                queue.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_frequency.max(1) {
            break;
        }
        let (left, right) = (&tokens[pair.0 as usize], &tokens[pair.1 as usize]);
        let joined = format!("{left}{right}");
        // A token that a second merge spells can form a pair again that was merged before.
        if merged_before.insert(pair) {
            merges.push((left.clone(), right.clone()));
        }
        // Different merges can spell the same token ("a"+"bc", "ab"+"c"); it keeps one id.
        let id = *ids.entry(joined.clone()).or_insert_with(|| {
            tokens.push(joined);
            tokens.len() as u32 - 1
        });
        for grown in corpus.merge(pair, id) {
            queue.push((corpus.counts[&grown], Reverse(grown)));
        }
    }
    Learned { tokens, merges }
}

/// The words as sequences of ids, with the pairs counted.
struct Corpus {
    words: Vec<(Vec<u32>, u64)>,
    counts: FxHashMap<Pair, u64>,
    /// Words in which a pair occurs, or once occurred.
    places: FxHashMap<Pair, Vec<u32>>,
}

impl Corpus {
    fn new(words: Vec<(Vec<u32>, u64)>) -> Self {
        let mut corpus = Self { words, counts: FxHashMap::default(), places: FxHashMap::default() };
        for (place, (symbols, count)) in (0..).zip(&corpus.words) {
            for pair in pairs(symbols) {
                *corpus.counts.entry(pair).or_default() += count;
                let places = corpus.places.entry(pair).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        corpus
    }

    /// Replaces `pair` by `joined` everywhere; returns the pairs that now occur more often, sorted.
    fn merge(&mut self, pair: Pair, joined: u32) -> Vec<Pair> {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown = Vec::new();
        for place in places {
            let (symbols, count) = &mut self.words[place as usize];
            let merged = replace(symbols, pair, joined);
            if merged.len() == symbols.len() {
                continue;
            }
            for old in pairs(symbols) {
                if let Some(total) = self.counts.get_mut(&old) {
                    *total -= *count;
                }
            }
            for new in pairs(&merged) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == joined || new.1 == joined {
                    self.places.entry(new).or_default().push(place);
                    grown.push(new);
                }
            }
            *symbols = merged;
        }
        self.counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        // A pair can be made in one word and consumed by the same merge in another.
        grown.retain(|pair| self.counts.contains_key(pair));
        grown
    }
}

fn pairs(symbols: &[u32]) -> impl Iterator<Item = Pair> {
    symbols
        .windows(2)
        .map(|pair| (pair[0], pair[1]))
        .filter(|pair| pair.0 != UNKNOWN && pair.1 != UNKNOWN)
}

/// `symbols` with each non-overlapping occurrence of `pair`, from the left, replaced.
fn replace(symbols: &[u32], pair: Pair, joined: u32) -> Vec<u32> {
    let mut replaced = Vec::with_capacity(symbols.len());
    let mut at = 0;
    while at < symbols.len() {
        if at + 1 < symbols.len() && (symbols[at], symbols[at + 1]) == pair {
            replaced.push(joined);
            at += 2;
        } else {
            replaced.push(symbols[at]);
            at += 1;
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Ids of letters; '?' stands for an unknown character.
    fn spelt(words: &BTreeMap<String, u64>) -> Vec<(Vec<u32>, u64)> {
        let id = |letter| if letter == b'?' { UNKNOWN } else { u32::from(letter - b'a') };
        words.iter().map(|(word, &count)| (word.bytes().map(id).collect(), count)).collect()
    }

    fn letters() -> Vec<String> {
        ('a'..='e').map(String::from).collect()
    }

    /// Counts everything afresh for every merge: the definition, with no book-keeping to get wrong.
    fn learn_naively(words: &BTreeMap<String, u64>, vocab_size: usize) -> Vec<(String, String)> {
        let mut split: Vec<(Vec<String>, u64)> = words
            .iter()
            .map(|(word, &count)| (word.chars().map(String::from).collect(), count))
            .collect();
        let mut tokens = letters();
        let mut merges = Vec::new();
        while tokens.len() < vocab_size {
            let id = |token: &String| tokens.iter().position(|t| t == token).expect("known");
            let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
            for (word, count) in &split {
                for pair in word.windows(2) {
                    *counts.entry((id(&pair[0]), id(&pair[1]))).or_default() += count;
                }
            }
            let Some((&(left, right), _)) =
                counts.iter().max_by_key(|(pair, count)| (**count, Reverse(**pair)))
            else {
                break;
            };
            let (left, right) = (tokens[left].clone(), tokens[right].clone());
            let joined = format!("{left}{right}");
            for (word, _) in &mut split {
                let mut at = 0;
                while at + 1 < word.len() {
                    if word[at] == left && word[at + 1] == right {
                        word[at] = joined.clone();
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
            if !merges.contains(&(left.clone(), right.clone())) {
                merges.push((left, right));
            }
        }
        merges
    }

    proptest! {
        #[test]
        fn incremental_counts_agree_with_counting_afresh(
            words in proptest::collection::btree_map("[a-e]{1,9}", 1u64..20, 1..25),
        ) {
            let learned = learn(letters(), spelt(&words), 30, 1);
            prop_assert_eq!(learned.merges, learn_naively(&words, 30));
        }
    }

    #[test]
    fn rare_pairs_are_left_alone() {
        let words =
            BTreeMap::from([("ab".to_owned(), 5), ("cd".to_owned(), 1), ("c?c?c".to_owned(), 9)]);
        assert_eq!(
            learn(letters(), spelt(&words), 100, 2).merges,
            [("a".to_owned(), "b".to_owned())]
        );
    }
}
