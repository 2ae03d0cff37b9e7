//! A dataset folder, open for reading.

use std::path::{Path, PathBuf};

use crate::error::DatasetProblem;
use crate::manifest::{Manifest, SplitManifest};
use crate::shard::Shard;
use crate::split::Split;
use crate::{DataError, Tokenizer, tokenizer};

/// A dataset folder, opened and verified. Tokens are read from its files when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    manifest: Manifest,
    fingerprint: String,
    train: Tokens,
    validation: Tokens,
}

impl Dataset {
    /// Opens a folder made by [`prepare`](crate::prepare()), verifying every file.
    ///
    /// # Errors
    /// When a file is missing, damaged, or belongs to another dataset or tokenizer.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let (manifest, fingerprint) = Manifest::load(folder)?;
        let train = Tokens::open(folder, &manifest, &manifest.train)?;
        let validation = Tokens::open(folder, &manifest, &manifest.validation)?;
        let dataset = Self { folder: folder.to_owned(), manifest, fingerprint, train, validation };
        dataset.tokenizer()?;
        Ok(dataset)
    }

    /// Every token id is below this.
    pub fn vocab_size(&self) -> usize {
        self.manifest.vocab_size as usize
    }

    /// The id that closes every document.
    pub fn end_of_text(&self) -> u32 {
        self.manifest.end_of_text
    }

    /// Tokens in a split, end tokens included.
    pub fn tokens(&self, split: Split) -> u64 {
        self.split_tokens(split).tokens
    }

    /// Documents in a split.
    pub fn documents(&self, split: Split) -> u64 {
        self.manifest.split(split).documents
    }

    /// BLAKE3 of the tokenizer file, in hexadecimal.
    pub fn tokenizer_hash(&self) -> String {
        self.manifest.tokenizer_hash.clone()
    }

    /// BLAKE3 of the manifest, in hexadecimal: two datasets with the same one hold the same tokens.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// What the folder says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tokenizer that made the tokens.
    ///
    /// # Errors
    /// When the file is missing or not the one the dataset was made with.
    pub fn tokenizer(&self) -> Result<Tokenizer, DataError> {
        let path = self.folder.join(tokenizer::FILE_NAME);
        let tokenizer = Tokenizer::load(&path)?;
        let found = tokenizer.hash();
        if found != self.manifest.tokenizer_hash {
            let problem = DatasetProblem::OtherTokenizer { found };
            return Err(DataError::dataset(&path, problem));
        }
        Ok(tokenizer)
    }

    /// Tokens of each document of a split, end tokens included, in order.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    pub(crate) fn document_lengths(&self, split: Split) -> Result<Vec<u64>, DataError> {
        let lengths: Result<Vec<_>, _> =
            self.split_tokens(split).shards.iter().map(Shard::document_lengths).collect();
        Ok(lengths?.concat())
    }

    /// How often a token occurs in a split.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    pub fn count(&self, split: Split, id: u32) -> Result<u64, DataError> {
        let mut window = Vec::new();
        let mut count = 0;
        for shard in &self.split_tokens(split).shards {
            let tokens = shard.header().tokens;
            for start in (0..tokens).step_by(1 << 16) {
                window.clear();
                shard.read_into(start, (tokens - start).min(1 << 16) as usize, &mut window)?;
                count += window.iter().filter(|&&token| token == id).count() as u64;
            }
        }
        Ok(count)
    }

    /// `len` tokens of a split, from token `start`.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    ///
    /// # Panics
    /// When the window leaves the split.
    #[track_caller]
    pub fn window(&self, split: Split, start: u64, len: usize) -> Result<Vec<u32>, DataError> {
        let tokens = self.tokens(split);
        assert!(
            start.checked_add(len as u64).is_some_and(|end| end <= tokens),
            "window {start}+{len} leaves the {} split of {tokens} tokens",
            split.name()
        );
        let mut window = Vec::with_capacity(len);
        self.split_tokens(split).read_into(start, len, &mut window)?;
        Ok(window)
    }

    fn split_tokens(&self, split: Split) -> &Tokens {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

/// The shards of a split as one sequence of tokens.
#[derive(Debug)]
struct Tokens {
    shards: Vec<Shard>,
    /// The stream position of each shard's first token.
    starts: Vec<u64>,
    tokens: u64,
}

impl Tokens {
    fn open(folder: &Path, dataset: &Manifest, split: &SplitManifest) -> Result<Self, DataError> {
        let mut all = Self { shards: Vec::new(), starts: Vec::new(), tokens: 0 };
        for listed in &split.shards {
            let path = folder.join(&listed.file);
            let shard = Shard::open(&path)?;
            let header = shard.header();
            let same = header.tokens == listed.tokens
                && header.documents == listed.documents
                && header.payload_crc == listed.crc32
                && header.vocab_size == dataset.vocab_size
                && header.end_of_text == dataset.end_of_text
                && blake3::Hash::from(header.tokenizer_hash).to_hex().as_str()
                    == dataset.tokenizer_hash;
            if !same {
                return Err(DataError::dataset(&path, DatasetProblem::OtherShard));
            }
            all.starts.push(all.tokens);
            all.tokens += header.tokens;
            all.shards.push(shard);
        }
        if all.tokens != split.tokens {
            let problem = DatasetProblem::TokenCount { found: all.tokens, said: split.tokens };
            return Err(DataError::dataset(folder, problem));
        }
        Ok(all)
    }

    /// The caller has checked the range.
    fn read_into(&self, start: u64, len: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        let (mut at, mut left) = (start, len);
        let mut shard = self.starts.partition_point(|first| *first <= start).saturating_sub(1);
        while left > 0 {
            let within = at - self.starts[shard];
            let available = self.shards[shard].header().tokens - within;
            let take = (left as u64).min(available) as usize;
            self.shards[shard].read_into(within, take, out)?;
            at += take as u64;
            left -= take;
            shard += 1;
        }
        Ok(())
    }
}
