//! A dataset folder → context windows, shuffled for training or in order for evaluation.
//!
//! A split is one stream of tokens: all its shards in order, every document closed by the end
//! token. An epoch of training cuts the stream, taken as a circle, into `tokens / context` windows
//! that begin at a random offset and visits them in a random order. Offset and order are functions
//! of (seed, epoch): the order is a permutation computed index by index (a Feistel network with
//! cycle walking), so nothing is stored, any [`Position`] is reached in constant time, and a run
//! that resumes sees exactly the sequences it would have seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::manifest::{Manifest, SplitManifest};
use crate::shard::Shard;
use crate::{DataError, Tokenizer, tokenizer};

/// The two parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What to train on.
    Train,
    /// What to measure on.
    Validation,
}

impl Split {
    /// The split's name, as in its shards' file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// A dataset folder, opened and verified. Tokens are read from its files when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    manifest: Manifest,
    fingerprint: blake3::Hash,
    train: Stream,
    validation: Stream,
}

impl Dataset {
    /// Opens a folder made by [`prepare`](crate::prepare()), verifying every file.
    ///
    /// # Errors
    /// When a file is missing, damaged, or belongs to another dataset or tokenizer.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let (manifest, fingerprint) = Manifest::load(folder)?;
        let train = Stream::open(folder, &manifest, &manifest.train)?;
        let validation = Stream::open(folder, &manifest, &manifest.validation)?;
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
        self.stream(split).tokens
    }

    /// Documents in a split.
    pub fn documents(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.manifest.train.documents,
            Split::Validation => self.manifest.validation.documents,
        }
    }

    /// BLAKE3 of the tokenizer file, in hexadecimal.
    pub fn tokenizer_hash(&self) -> String {
        self.manifest.tokenizer_hash.clone()
    }

    /// BLAKE3 of the manifest, in hexadecimal: two datasets with the same one hold the same tokens.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.to_hex().to_string()
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
        let found = tokenizer.hash().to_hex();
        if found.as_str() != self.manifest.tokenizer_hash {
            let problem = format!("not the tokenizer of this dataset (BLAKE3 {found})");
            return Err(DataError::file(
                &path,
                problem,
                "restore the file, or prepare the data again",
            ));
        }
        Ok(tokenizer)
    }

    /// Tokens of each document of a split, end tokens included, in order.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    pub fn document_lengths(&self, split: Split) -> Result<Vec<u64>, DataError> {
        let lengths: Result<Vec<_>, _> =
            self.stream(split).shards.iter().map(Shard::document_lengths).collect();
        Ok(lengths?.concat())
    }

    /// How often a token occurs in a split.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    pub fn count(&self, split: Split, id: u32) -> Result<u64, DataError> {
        let mut window = Vec::new();
        let mut count = 0;
        for shard in &self.stream(split).shards {
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
        self.stream(split).read_into(start, len, &mut window)?;
        Ok(window)
    }

    fn stream(&self, split: Split) -> &Stream {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

/// The shards of a split as one sequence of tokens.
#[derive(Debug)]
struct Stream {
    shards: Vec<Shard>,
    /// The stream position of each shard's first token.
    starts: Vec<u64>,
    tokens: u64,
}

impl Stream {
    fn open(folder: &Path, dataset: &Manifest, split: &SplitManifest) -> Result<Self, DataError> {
        let mut stream = Self { shards: Vec::new(), starts: Vec::new(), tokens: 0 };
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
                let problem = "a valid shard, but of another dataset than the manifest beside it";
                return Err(DataError::file(&path, problem, "do not mix files of two datasets"));
            }
            stream.starts.push(stream.tokens);
            stream.tokens += header.tokens;
            stream.shards.push(shard);
        }
        if stream.tokens != split.tokens {
            let problem = format!(
                "the shards hold {} tokens, the manifest says {}",
                stream.tokens, split.tokens
            );
            return Err(DataError::file(folder, problem, "prepare the data again"));
        }
        Ok(stream)
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

/// A training example: `targets[i]` is the token that follows `inputs[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// `context` consecutive tokens.
    pub inputs: Vec<u32>,
    /// The same, one token later.
    pub targets: Vec<u32>,
}

impl Sequence {
    /// Splits `context + 1` consecutive tokens.
    fn from_window(mut window: Vec<u32>) -> Self {
        let targets = window[1..].to_vec();
        window.pop();
        Self { inputs: window, targets }
    }
}

/// How far a run has come through its data: the next sequence is number `index` of `epoch`.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Completed passes over the split.
    pub epoch: u64,
    /// Sequences taken in the current pass.
    pub index: u64,
}

/// An endless supply of shuffled sequences.
#[derive(Clone, Debug)]
pub struct Batches {
    dataset: Arc<Dataset>,
    split: Split,
    context: usize,
    seed: u64,
    windows: u64,
    position: Position,
    order: Order,
}

impl Batches {
    /// Sequences of `context` tokens from a split, in an order that `seed` determines.
    ///
    /// # Errors
    /// When `context` is 0 or the split holds fewer than `context + 1` tokens.
    pub fn new(
        dataset: Arc<Dataset>,
        split: Split,
        context: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        if context == 0 {
            return Err(DataError::request(
                "a context of 0 tokens is impossible",
                "choose 1 or more",
            ));
        }
        let tokens = dataset.tokens(split);
        if tokens <= context as u64 {
            return Err(DataError::request(
                format!(
                    "the {} split holds {tokens} tokens, too few for a context of {context}",
                    split.name()
                ),
                "choose a shorter context or prepare more data",
            ));
        }
        let windows = tokens / context as u64;
        let position = Position { epoch: 0, index: 0 };
        let order = Order::new(seed, 0, windows, context);
        Ok(Self { dataset, split, context, seed, windows, position, order })
    }

    /// Sequences in one pass over the split.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Where [`next_sequence`](Self::next_sequence) will read.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Continues from `position`, as if all sequences before it had been taken.
    ///
    /// # Errors
    /// When the index is not within an epoch, as when the position comes from other data.
    pub fn seek(&mut self, position: Position) -> Result<(), DataError> {
        if position.index >= self.windows {
            return Err(DataError::request(
                format!(
                    "position {} lies outside an epoch of {} sequences",
                    position.index, self.windows
                ),
                "resume with the data and context the run was started with",
            ));
        }
        self.position = position;
        self.order = Order::new(self.seed, position.epoch, self.windows, self.context);
        Ok(())
    }

    /// The next sequence; after the last of an epoch comes the first of the next.
    ///
    /// # Errors
    /// When a file cannot be read, or was cut or overwritten since the dataset was opened.
    pub fn next_sequence(&mut self) -> Result<Sequence, DataError> {
        let window = self.order.window(self.position.index);
        let tokens = self.dataset.tokens(self.split);
        let start = (self.order.offset + window * self.context as u64) % tokens;
        let len = self.context + 1;
        let before_wrap = (len as u64).min(tokens - start) as usize;
        let mut ids = self.dataset.window(self.split, start, before_wrap)?;
        ids.extend(self.dataset.window(self.split, 0, len - before_wrap)?);

        self.position.index += 1;
        if self.position.index == self.windows {
            self.position = Position { epoch: self.position.epoch + 1, index: 0 };
            self.order = Order::new(self.seed, self.position.epoch, self.windows, self.context);
        }
        Ok(Sequence::from_window(ids))
    }
}

/// The offset and the permutation of one epoch.
#[derive(Clone, Debug)]
struct Order {
    windows: u64,
    offset: u64,
    half_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Order {
    /// Four rounds make a Feistel network a good permutation (Luby and Rackoff); six are for the
    /// small domains of small datasets.
    const ROUNDS: usize = 6;

    fn new(seed: u64, epoch: u64, windows: u64, context: usize) -> Self {
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
    fn window(&self, index: u64) -> u64 {
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

/// Every whole window of a split once, in order: for evaluation. Neighbouring windows share one
/// token, so that each token but the first is predicted exactly once; up to `context - 1` tokens
/// at the end, too few for a window, are left out. A file that was cut or overwritten since the dataset
/// was opened is an error.
///
/// # Panics
/// When `context` is 0.
#[track_caller]
pub fn sequential(
    dataset: &Dataset,
    split: Split,
    context: usize,
) -> impl Iterator<Item = Result<Sequence, DataError>> {
    assert!(context > 0, "a context of 0 tokens is impossible");
    let windows = dataset.tokens(split).saturating_sub(1) / context as u64;
    (0..windows).map(move |window| {
        let ids = dataset.window(split, window * context as u64, context + 1)?;
        Ok(Sequence::from_window(ids))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::*;
    use crate::prepare::{Options, TokenizerSource, prepare};
    use crate::synth;

    fn dataset(folder: &Path) -> PathBuf {
        let input = folder.join("corpus.jsonl");
        let lines: String = synth::records(3)
            .take(25)
            .map(|record| serde_json::to_string(&record).expect("JSON") + "\n")
            .collect();
        fs::write(&input, lines).expect("write");
        let options = Options {
            inputs: vec![input],
            out: folder.join("dataset"),
            tokenizer: TokenizerSource::Train {
                kind: crate::tokenizer::Kind::ByteBpe,
                vocab_size: 300,
                min_frequency: 2,
                sample: 1.0,
            },
            cleaning: crate::clean::Cleaning::default(),
            strict: true,
            validation_fraction: 0.2,
            shard_tokens: 1500,
            force: false,
        };
        prepare(&options, &mut |_| ControlFlow::Continue(())).expect("prepare");
        options.out
    }

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

    #[test]
    fn an_epoch_sees_every_token_once_and_any_position_can_be_resumed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = Arc::new(Dataset::open(&dataset(folder.path())).expect("open"));
        let context = 48;
        let mut batches = Batches::new(Arc::clone(&data), Split::Train, context, 5).expect("new");
        let epoch: Vec<(Position, Sequence)> = (0..batches.windows_per_epoch() * 2)
            .map(|_| (batches.position(), batches.next_sequence().expect("read")))
            .collect();
        assert_eq!(batches.position(), Position { epoch: 2, index: 0 });

        let tokens = data.tokens(Split::Train) as usize;
        let stream = data.window(Split::Train, 0, tokens).expect("read");
        let per_epoch = batches.windows_per_epoch() as usize;
        assert!(stream.len() - per_epoch * context < context);
        let mut seen = vec![0u32; data.vocab_size()];
        for (_, sequence) in &epoch[..per_epoch] {
            assert_eq!(sequence.inputs.len(), context);
            assert_eq!(sequence.inputs[1..], sequence.targets[..context - 1]);
            sequence.inputs.iter().for_each(|&id| seen[id as usize] += 1);
        }
        let mut all = vec![0u32; data.vocab_size()];
        stream.iter().for_each(|&id| all[id as usize] += 1);
        assert!(seen.iter().zip(&all).all(|(seen, all)| seen <= all));

        for (position, sequence) in epoch.iter().step_by(7) {
            let mut resumed =
                Batches::new(Arc::clone(&data), Split::Train, context, 5).expect("new");
            resumed.seek(*position).expect("seek");
            assert_eq!(&resumed.next_sequence().expect("read"), sequence);
        }
        let outside = Position { epoch: 0, index: batches.windows_per_epoch() };
        assert!(batches.seek(outside).is_err());
    }

    #[test]
    fn evaluation_predicts_each_token_once_in_order() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = Dataset::open(&dataset(folder.path())).expect("open");
        let tokens = data.tokens(Split::Validation);
        let targets: Vec<u32> = sequential(&data, Split::Validation, 32)
            .flat_map(|s| s.expect("read").targets)
            .collect();
        assert_eq!(targets.len() as u64, (tokens - 1) / 32 * 32);
        assert_eq!(targets, data.window(Split::Validation, 1, targets.len()).expect("read"));
        assert_eq!(sequential(&data, Split::Validation, tokens as usize).count(), 0);
    }

    #[test]
    fn a_split_shorter_than_a_window_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = Arc::new(Dataset::open(&dataset(folder.path())).expect("open"));
        let tokens = data.tokens(Split::Train) as usize;
        assert!(Batches::new(Arc::clone(&data), Split::Train, tokens, 0).is_err());
        assert!(Batches::new(Arc::clone(&data), Split::Train, 0, 0).is_err());
        let mut whole = Batches::new(data, Split::Train, tokens - 1, 0).expect("just enough");
        assert_eq!(whole.windows_per_epoch(), 1);
        assert_eq!(whole.next_sequence().expect("read").inputs.len(), tokens - 1);
    }

    #[test]
    fn a_shard_cut_under_a_run_is_an_error_with_path_and_place() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = dataset(folder.path());
        let data = Arc::new(Dataset::open(&path).expect("open"));
        for (split, file) in
            [(Split::Train, "train-00001.bin"), (Split::Validation, "validation-00000.bin")]
        {
            let mut batches = Batches::new(Arc::clone(&data), split, 32, 0).expect("new");
            batches.next_sequence().expect("whole");
            let cut = fs::File::options().write(true).open(path.join(file)).expect("open");
            cut.set_len(500).expect("cut");
            let epoch = batches.windows_per_epoch();
            let training = (0..epoch).find_map(|_| batches.next_sequence().err());
            let evaluation = sequential(&data, split, 32).find_map(Result::err);
            let whole = data.count(split, 0).err();
            for error in [training, evaluation, whole] {
                let message = error.expect("cut").to_string();
                let says = format!("{file}, byte 500: the file was cut to 500 bytes");
                assert!(message.contains(&says), "{message}");
            }
        }
    }

    #[test]
    fn missing_swapped_and_foreign_files_are_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = dataset(folder.path());
        let fingerprint = Dataset::open(&data).expect("open").fingerprint();
        let (first, second) = (data.join("train-00000.bin"), data.join("train-00001.bin"));
        let error = || Dataset::open(&data).expect_err("damaged").to_string();

        let original = fs::read(&first).expect("read");
        fs::copy(&second, &first).expect("copy");
        assert!(error().contains("another dataset"), "{}", error());
        fs::remove_file(&first).expect("remove");
        assert!(error().contains("train-00000.bin"), "{}", error());
        fs::write(&first, original).expect("write");

        let tokenizer = data.join(tokenizer::FILE_NAME);
        let original = fs::read_to_string(&tokenizer).expect("read");
        fs::write(&tokenizer, original.clone() + "\n").expect("write");
        assert!(error().contains("tokenizer.json"), "{}", error());
        fs::write(&tokenizer, original).expect("write");

        let manifest = data.join(crate::manifest::FILE_NAME);
        let original = fs::read_to_string(&manifest).expect("read");
        for (from, to) in [
            ("\"version\": 2", "\"version\": 3"),
            ("mediswift-dataset", "other"),
            ("train-00000.bin", "../train-00000.bin"),
            ("\"end_of_text\": 0", "\"end_of_text\": 1"),
            ("{", ""),
        ] {
            fs::write(&manifest, original.replacen(from, to, 1)).expect("write");
            assert!(Dataset::open(&data).is_err(), "{from} → {to}");
        }
        fs::write(&manifest, original).expect("write");
        assert_eq!(Dataset::open(&data).expect("open").fingerprint(), fingerprint);
    }
}
