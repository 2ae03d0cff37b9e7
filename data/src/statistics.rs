//! What is known of a split: counts, and the lengths of its documents.

use crate::{DataError, Dataset, Split};

/// Counts of a split. Tokens are counted with the one between documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitStatistics {
    /// The split.
    pub split: Split,
    /// Words of all documents, by white space.
    pub words: u64,
    /// Bytes of all documents.
    pub bytes: u64,
    /// Tokens that stand for what the vocabulary does not know.
    pub unknown: u64,
    /// Tokens of every document, in rising order.
    pub lengths: Vec<u64>,
}

impl Dataset {
    /// Describes a split, reading all of its tokens.
    /// # Errors
    /// If a shard or the tokenizer cannot be read.
    pub fn statistics(&self, split: Split) -> Result<SplitStatistics, DataError> {
        let about = match split {
            Split::Train => &self.manifest().train,
            Split::Validation => &self.manifest().validation,
        };
        let mut lengths = self.document_lengths(split)?;
        lengths.sort_unstable();
        let unknown = match self.tokenizer()?.unknown() {
            Some(id) => self.count(split, id)?,
            None => 0,
        };
        Ok(SplitStatistics { split, words: about.words, bytes: about.bytes, unknown, lengths })
    }
}

impl SplitStatistics {
    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// The length that this fraction of documents does not exceed; 0 of none.
    pub fn percentile(&self, fraction: f64) -> u64 {
        let at = ((self.lengths.len() as f64 * fraction) as usize)
            .min(self.lengths.len().saturating_sub(1));
        self.lengths.get(at).copied().unwrap_or(0)
    }

    /// Tokens for each word; those between documents are no part of words.
    pub fn tokens_per_word(&self) -> f64 {
        let tokens = self.tokens() - self.lengths.len() as u64;
        if self.words == 0 { 0.0 } else { tokens as f64 / self.words as f64 }
    }

    /// Bytes of text for each token.
    pub fn bytes_per_token(&self) -> f64 {
        let tokens = self.tokens();
        if tokens == 0 { 0.0 } else { self.bytes as f64 / tokens as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_ratios_of_few_and_no_documents() {
        let of = |lengths: &[u64], words, bytes| SplitStatistics {
            split: Split::Train,
            words,
            bytes,
            unknown: 0,
            lengths: lengths.to_vec(),
        };
        let some = of(&[2, 3, 5, 10], 8, 80);
        assert_eq!((some.percentile(0.0), some.percentile(0.5), some.percentile(1.0)), (2, 5, 10));
        assert_eq!((some.tokens(), some.tokens_per_word(), some.bytes_per_token()), (20, 2.0, 4.0));
        let none = of(&[], 0, 0);
        assert_eq!(
            (none.percentile(0.5), none.tokens_per_word(), none.bytes_per_token()),
            (0, 0.0, 0.0)
        );
    }
}
