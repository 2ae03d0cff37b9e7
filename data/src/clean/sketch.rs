//! Small summaries of documents, from which duplicates are found without the texts.
//!
//! MinHash (Broder, 1997): a document is the set of its runs of five words, in lower case, without
//! punctuation. For each of 128 hash functions the least hash over the set is kept. Two documents
//! agree in a function with the probability of their Jaccard similarity. Sixteen bands of eight
//! functions find candidates (two texts of similarity 0.8 share a band with probability 0.95, of
//! 0.9 with 0.9999); eight bits of each function estimate the similarity of a candidate pair.

use std::hash::Hasher;
use std::sync::LazyLock;

use rustc_hash::FxHasher;

const FUNCTIONS: usize = 128;
const ROWS: usize = 8;

/// Bands of a sketch.
pub(crate) const BANDS: usize = FUNCTIONS / ROWS;

/// Words in a shingle.
const SHINGLE: usize = 5;

/// Hash of a text; equal only for equal texts.
pub(crate) fn exact(text: &str) -> [u64; 2] {
    let hash = blake3::hash(text.as_bytes());
    let half = |at| u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[at + i]));
    [half(0), half(8)]
}

/// What finds near duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sketch {
    /// Equal in near duplicates, in at least one band.
    pub bands: [u64; BANDS],
    /// Eight bits of every function.
    pub bits: [u8; FUNCTIONS],
}

/// Multipliers (odd) and summands of the hash functions.
static COEFFICIENTS: LazyLock<([u32; FUNCTIONS], [u32; FUNCTIONS])> = LazyLock::new(|| {
    let mut bytes = [0; FUNCTIONS * 8];
    blake3::Hasher::new_derive_key("mediswift-data: hash functions of a sketch, version 1")
        .finalize_xof()
        .fill(&mut bytes);
    let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at * 4 + i]));
    (std::array::from_fn(|f| number(f) | 1), std::array::from_fn(|f| number(FUNCTIONS + f)))
});

impl Sketch {
    /// The sketch of a text.
    pub fn of(text: &str) -> Self {
        let words: Vec<u64> = words(text).collect();
        let (factors, summands) = &*COEFFICIENTS;
        let mut least = [u32::MAX; FUNCTIONS];
        let mut add = |shingle: &[u64]| {
            let hash = shingle.iter().fold(0, |hash, word| mix(hash ^ word));
            let hash = (hash >> 32) as u32;
            for function in 0..FUNCTIONS {
                let value = hash.wrapping_mul(factors[function]).wrapping_add(summands[function]);
                least[function] = least[function].min(value);
            }
        };
        if words.len() < SHINGLE {
            add(&words);
        } else {
            words.windows(SHINGLE).for_each(add);
        }
        Self {
            bands: std::array::from_fn(|band| {
                let rows = &least[band * ROWS..(band + 1) * ROWS];
                rows.iter().fold(band as u64, |hash, row| mix(hash ^ u64::from(*row)))
            }),
            // The high bits of a multiplicative hash are the good ones, but least values have few.
            bits: std::array::from_fn(|f| (mix(u64::from(least[f])) >> 56) as u8),
        }
    }
}

/// Estimated Jaccard similarity of two texts, from the bits of their sketches.
pub(crate) fn similarity(left: &[u8; FUNCTIONS], right: &[u8; FUNCTIONS]) -> f64 {
    let equal = left.iter().zip(right).filter(|(l, r)| l == r).count() as f64;
    // One function in 256 agrees by chance.
    let by_chance = 1.0 / 256.0;
    ((equal / FUNCTIONS as f64 - by_chance) / (1.0 - by_chance)).max(0.0)
}

/// Hashes of the words of a text: runs of letters and digits, in lower case.
fn words(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(|word| {
        let mut hasher = FxHasher::default();
        if word.is_ascii() {
            let mut lower = [0; 8];
            for part in word.as_bytes().chunks(8) {
                lower[..part.len()].copy_from_slice(part);
                lower[..part.len()].make_ascii_lowercase();
                lower[part.len()..].fill(0);
                hasher.write_u64(u64::from_le_bytes(lower));
            }
        } else {
            word.chars().flat_map(char::to_lowercase).for_each(|c| hasher.write_u32(c.into()));
        }
        hasher.finish()
    })
}

/// The finaliser of SplitMix64 after a step of its sequence.
fn mix(bits: u64) -> u64 {
    let mut bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: impl Iterator<Item = usize>) -> String {
        words.map(|n| format!("Word{n}, ")).collect()
    }

    #[test]
    fn similarity_is_estimated() {
        // Runs shared by 0..n and k..n+k: (n - 4 - k) of (n - 4 + k).
        for shift in [0, 10, 30, 60, 200] {
            let (left, right) = (text(0..200), text(shift..200 + shift));
            let jaccard = 196usize.saturating_sub(shift) as f64 / (196 + shift) as f64;
            let (left, right) = (Sketch::of(&left), Sketch::of(&right));
            let estimate = similarity(&left.bits, &right.bits);
            assert!((estimate - jaccard).abs() < 0.13, "{estimate} for {jaccard}");
            let shared = left.bands.iter().zip(&right.bands).filter(|(l, r)| l == r).count();
            assert!(jaccard < 0.85 || shared > 0);
            assert!(jaccard > 0.2 || shared == 0);
        }
    }

    #[test]
    fn case_and_punctuation_do_not_matter() {
        assert_eq!(Sketch::of("The END of É-life."), Sketch::of("the end, of é life"));
        assert_ne!(Sketch::of("a b"), Sketch::of("b a"));
        assert_ne!(exact("a"), exact("b"));
    }
}
