//! What to prepare.

use std::path::PathBuf;

use crate::clean::Cleaning;
use crate::error::RequestProblem;
use crate::{DataError, tokenizer};

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// A `tokenizer.json`, or a folder that holds one.
    File(PathBuf),
    /// Train one on the training documents.
    Train {
        /// How it makes words.
        kind: tokenizer::Kind,
        /// Tokens in the vocabulary, at most.
        vocab_size: usize,
        /// How often a pair must occur to be joined.
        min_frequency: u64,
        /// The fraction of training documents to learn from, 0 < sample ≤ 1.
        sample: f64,
    },
}

/// What to make a dataset from, and how.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Files, or folders of them; see [`source`](crate::source).
    pub inputs: Vec<PathBuf>,
    /// The dataset folder to make.
    pub out: PathBuf,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// Which records to keep.
    pub cleaning: Cleaning,
    /// Stop at the first damaged place instead of reporting it and going on.
    pub strict: bool,
    /// Fraction of documents to hold out, 0 ≤ fraction < 1.
    pub validation_fraction: f64,
    /// A shard is closed when it has this many tokens.
    pub shard_tokens: u64,
    /// Replace an existing dataset folder.
    pub force: bool,
}

impl Preparation {
    /// A dataset at `out` from all that is good in `inputs`: a byte-bpe tokenizer of at most 8192
    /// tokens, 3 % of the documents held out, shards of 100 million tokens.
    pub fn new(inputs: Vec<PathBuf>, out: PathBuf) -> Self {
        Self {
            inputs,
            out,
            tokenizer: TokenizerSource::Train {
                kind: tokenizer::Kind::ByteBpe,
                vocab_size: 8192,
                min_frequency: 2,
                sample: 1.0,
            },
            cleaning: Cleaning::default(),
            strict: false,
            validation_fraction: 0.03,
            shard_tokens: 100_000_000,
            force: false,
        }
    }

    /// Says what of it is impossible.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let within = |name, value: f64, from_zero: bool, below_one: bool| {
            let good = (0.0..=1.0).contains(&value)
                && (from_zero || value > 0.0)
                && !(below_one && value >= 1.0);
            if good {
                return Ok(());
            }
            Err(RequestProblem::Fraction { name, value })
        };
        within("validation fraction", self.validation_fraction, true, true)?;
        if let Some(threshold) = self.cleaning.near_duplicates {
            within("near-duplicate threshold", threshold, false, false)?;
        }
        if let TokenizerSource::Train { sample, .. } = self.tokenizer {
            within("tokenizer sample", sample, false, false)?;
        }
        if self.shard_tokens == 0 {
            return Err(RequestProblem::EmptyShards.into());
        }
        Ok(())
    }
}
