//! A dataset → context windows, shuffled for training or in order for evaluation.
//!
//! A split is one stream of tokens: all its shards in order, every document closed by the end
//! token. An epoch of training cuts the stream, taken as a circle, into `tokens / context` windows
//! that begin at a random offset and visits them in a random order. Offset and order are functions
//! of (seed, epoch): the order is a permutation computed index by index (a Feistel network with
//! cycle walking), so nothing is stored, any [`Position`] is reached in constant time, and a run
//! that resumes sees exactly the sequences it would have seen.

mod order;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::order::Order;
use crate::DataError;
use crate::dataset::Dataset;
use crate::error::RequestProblem;
use crate::split::Split;

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
            return Err(RequestProblem::NoContext.into());
        }
        let tokens = dataset.tokens(split);
        if tokens <= context as u64 {
            return Err(RequestProblem::ShortSplit { split: split.name(), tokens, context }.into());
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
            let (index, windows) = (position.index, self.windows);
            return Err(RequestProblem::OutsideEpoch { index, windows }.into());
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

/// Every whole window of a split once, in order: for evaluation. Neighbouring windows share one
/// token, so that each token but the first is predicted exactly once; up to `context - 1` tokens
/// at the end, too few for a window, are left out.
///
/// # Errors
/// When `context` is 0; for a sequence, when a file cannot be read, or was cut or overwritten since the
/// dataset was opened.
pub fn sequential(
    dataset: &Dataset,
    split: Split,
    context: usize,
) -> Result<impl Iterator<Item = Result<Sequence, DataError>>, DataError> {
    if context == 0 {
        return Err(RequestProblem::NoContext.into());
    }
    let windows = dataset.tokens(split).saturating_sub(1) / context as u64;
    Ok((0..windows).map(move |window| {
        let ids = dataset.window(split, window * context as u64, context + 1)?;
        Ok(Sequence::from_window(ids))
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;

    use std::path::{Path, PathBuf};

    use super::*;
    use crate::prepare::{Preparation, TokenizerSource, prepare};
    use crate::{synth, tokenizer};

    fn dataset(folder: &Path) -> PathBuf {
        let input = folder.join("corpus.jsonl");
        let lines: String = synth::records(3)
            .take(25)
            .map(|record| serde_json::to_string(&record).expect("JSON") + "\n")
            .collect();
        fs::write(&input, lines).expect("write");
        let options = Preparation {
            tokenizer: TokenizerSource::Train {
                kind: tokenizer::Kind::ByteBpe,
                vocab_size: 300,
                min_frequency: 2,
                sample: 1.0,
            },
            strict: true,
            validation_fraction: 0.2,
            shard_tokens: 1500,
            ..Preparation::new(vec![input], folder.join("dataset"))
        };
        prepare(&options, &mut |_| ControlFlow::Continue(())).expect("prepare");
        options.out
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
            .expect("a context")
            .flat_map(|s| s.expect("read").targets)
            .collect();
        assert_eq!(targets.len() as u64, (tokens - 1) / 32 * 32);
        assert_eq!(targets, data.window(Split::Validation, 1, targets.len()).expect("read"));
        assert_eq!(
            sequential(&data, Split::Validation, tokens as usize).expect("a context").count(),
            0
        );
    }

    #[test]
    fn a_split_shorter_than_a_window_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = Arc::new(Dataset::open(&dataset(folder.path())).expect("open"));
        let tokens = data.tokens(Split::Train) as usize;
        assert!(Batches::new(Arc::clone(&data), Split::Train, tokens, 0).is_err());
        assert!(Batches::new(Arc::clone(&data), Split::Train, 0, 0).is_err());
        assert!(sequential(&data, Split::Train, 0).is_err());
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
            let evaluation = sequential(&data, split, 32).expect("a context").find_map(Result::err);
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
