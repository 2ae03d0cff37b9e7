//! JSONL files → a dataset folder.
//!
//! ```text
//! dataset/
//!   tokenizer.json          the tokenizer, a copy or freshly trained
//!   train-00000.bin …       shards of about `shard_tokens` tokens
//!   validation-00000.bin …
//!   dataset.json            the manifest, written last
//! ```
//!
//! Documents keep their input order and are tokenized in parallel in batches of bounded size, so
//! memory does not grow with the corpus (apart from 16 bytes per document, to know duplicates)
//! and the bytes written do not depend on the number of threads. Whether a document is held out
//! is decided by a hash of its identity alone: adding files never moves a document from one split
//! to the other.
//!
//! The folder is built under another name beside its destination and renamed when whole.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::commit::{parent, publish, sync_folder, temporary_name};
use crate::documents::{Document, Documents, DropReason, Record};
use crate::manifest::{self, Manifest, ShardManifest, SplitManifest};
use crate::shard::ShardWriter;
use crate::{DataError, Split, Tokenizer, tokenizer};

/// Text that is tokenized in parallel at a time, in bytes.
const BATCH_BYTES: usize = 8 << 20;

/// How many documents to read between two calls of the progress callback.
const REPORT_EVERY: u64 = 256;

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
    },
}

/// What to make a dataset from, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// JSONL files, or folders of them.
    pub inputs: Vec<PathBuf>,
    /// The dataset folder to make.
    pub out: PathBuf,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// Fraction of documents to hold out, 0 ≤ fraction < 1.
    pub validation_fraction: f64,
    /// A shard is closed when it has this many tokens.
    pub shard_tokens: u64,
    /// Replace an existing dataset folder.
    pub force: bool,
}

/// What [`prepare`] is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading all documents once, to train the tokenizer.
    Reading,
    /// Tokenizing them.
    Tokenizing,
}

/// How far [`prepare`] has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The pass over the inputs under way.
    pub stage: Stage,
    /// Input read in this pass, in bytes as stored.
    pub bytes_read: u64,
    /// Input in all, in bytes as stored.
    pub bytes_total: u64,
    /// Documents kept in this pass.
    pub documents: u64,
}

/// Makes a dataset folder; returns its manifest.
///
/// `progress` is called now and then, and may stop the work by returning `Break`.
///
/// # Errors
/// Malformed input, an impossible request, an existing destination without `force`, a full disk,
/// or [`DataError::Interrupted`]. In every case the destination is as it was before.
pub fn prepare(
    options: &Options,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Manifest, DataError> {
    if !(0.0..1.0).contains(&options.validation_fraction) {
        return Err(DataError::request(
            format!("a validation fraction of {} is impossible", options.validation_fraction),
            "choose one from 0 up to, but not including, 1",
        ));
    }
    if options.shard_tokens == 0 {
        return Err(DataError::request("a shard of 0 tokens is impossible", "choose at least 1"));
    }
    check_destination(&options.out, options.force)?;
    Documents::open(&options.inputs)?;

    let tokenizer = match &options.tokenizer {
        TokenizerSource::File(path) => Tokenizer::load(path)?,
        TokenizerSource::Train { kind, vocab_size, min_frequency } => {
            let (inputs, held_out) = (&options.inputs, options.validation_fraction);
            let mut corpus = Corpus::open(inputs, held_out, Stage::Reading, progress)?;
            corpus.train_tokenizer(*kind, *vocab_size, *min_frequency)?
        }
    };

    let building = Building::beside(&options.out)?;
    let manifest = write_dataset(options, &tokenizer, &building.folder, progress)?;
    building.move_to(&options.out)?;
    Ok(manifest)
}

/// Trains a tokenizer on all documents of `inputs`, duplicates counted once; returns it with the
/// number of documents.
///
/// # Errors
/// Malformed input, an impossible vocabulary size, or [`DataError::Interrupted`].
pub fn train_tokenizer(
    inputs: &[PathBuf],
    kind: tokenizer::Kind,
    vocab_size: usize,
    min_frequency: u64,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<(Tokenizer, u64), DataError> {
    let mut corpus = Corpus::open(inputs, 0.0, Stage::Reading, progress)?;
    let tokenizer = corpus.train_tokenizer(kind, vocab_size, min_frequency)?;
    Ok((tokenizer, corpus.documents))
}

fn write_dataset(
    options: &Options,
    tokenizer: &Tokenizer,
    folder: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Manifest, DataError> {
    tokenizer.save(&folder.join(tokenizer::FILE_NAME))?;
    let mut corpus =
        Corpus::open(&options.inputs, options.validation_fraction, Stage::Tokenizing, progress)?;
    let mut train = SplitWriter::new(folder, Split::Train, tokenizer, options.shard_tokens);
    let mut validation =
        SplitWriter::new(folder, Split::Validation, tokenizer, options.shard_tokens);
    loop {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some((document, split)) = corpus.next()? else { break };
            bytes += document.text.len();
            batch.push((document.text, split));
        }
        if batch.is_empty() {
            break;
        }
        let texts: Vec<&str> = batch.iter().map(|(text, _)| text.as_str()).collect();
        let encoded = tokenizer.encode_batch(&texts);
        for (ids, (_, split)) in encoded.iter().zip(&batch) {
            match split {
                Split::Train => train.push(ids)?,
                Split::Validation => validation.push(ids)?,
            }
        }
    }
    let dropped = corpus.dropped;
    let (train, validation) = (train.finish()?, validation.finish()?);
    if train.tokens == 0 {
        return Err(nothing_to_train_on(&dropped, validation.documents));
    }
    let manifest =
        Manifest::new(tokenizer, options.validation_fraction, dropped, train, validation);
    manifest.save(folder)?;
    Ok(manifest)
}

fn nothing_to_train_on(dropped: &BTreeMap<String, u64>, held_out: u64) -> DataError {
    let mut counts: Vec<String> = dropped
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    if held_out > 0 {
        counts.push(format!("{held_out} held out"));
    }
    let found = if counts.is_empty() { "no records".to_owned() } else { counts.join(", ") };
    DataError::request(
        format!("the inputs hold no document to train on ({found})"),
        "check the inputs and the validation fraction",
    )
}

/// The documents of the inputs without duplicates, each with its split.
struct Corpus<'a> {
    records: Documents,
    seen: HashSet<[u8; 16]>,
    validation_fraction: f64,
    dropped: BTreeMap<String, u64>,
    documents: u64,
    records_read: u64,
    stage: Stage,
    progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
}

impl<'a> Corpus<'a> {
    fn open(
        inputs: &[PathBuf],
        validation_fraction: f64,
        stage: Stage,
        progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Self, DataError> {
        let reasons = [DropReason::Empty, DropReason::TitleOnly, DropReason::Duplicate];
        Ok(Self {
            records: Documents::open(inputs)?,
            seen: HashSet::new(),
            validation_fraction,
            dropped: reasons.iter().map(|reason| (reason.name().to_owned(), 0)).collect(),
            documents: 0,
            records_read: 0,
            stage,
            progress,
        })
    }

    fn next(&mut self) -> Result<Option<(Document, Split)>, DataError> {
        while let Some(record) = self.records.next().transpose()? {
            self.records_read += 1;
            if self.records_read % REPORT_EVERY == 1 {
                self.report()?;
            }
            let reason = match record {
                Record::Document(document) if self.seen.insert(fingerprint(&document.text)) => {
                    self.documents += 1;
                    let split = split_of(&document, self.validation_fraction);
                    return Ok(Some((document, split)));
                }
                Record::Document(_) => DropReason::Duplicate,
                Record::Dropped(reason) => reason,
            };
            *self.dropped.entry(reason.name().to_owned()).or_default() += 1;
        }
        self.report()?;
        Ok(None)
    }

    /// Learns a vocabulary from the documents that are not held out.
    fn train_tokenizer(
        &mut self,
        kind: tokenizer::Kind,
        vocab_size: usize,
        min_frequency: u64,
    ) -> Result<Tokenizer, DataError> {
        let texts = std::iter::from_fn(|| {
            loop {
                match self.next() {
                    Ok(Some((document, Split::Train))) => return Some(Ok(document.text)),
                    Ok(Some((_, Split::Validation))) => {}
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        });
        Tokenizer::train(kind, texts, vocab_size, min_frequency)
    }

    fn report(&mut self) -> Result<(), DataError> {
        let now = Progress {
            stage: self.stage,
            bytes_read: self.records.bytes_read(),
            bytes_total: self.records.bytes_total(),
            documents: self.documents,
        };
        match (self.progress)(&now) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(DataError::Interrupted),
        }
    }
}

fn fingerprint(text: &str) -> [u8; 16] {
    let hash = blake3::hash(text.as_bytes());
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// Held out or not, by a hash of the document's identity.
fn split_of(document: &Document, validation_fraction: f64) -> Split {
    let identity = document.id.as_deref().unwrap_or(&document.text);
    let hash = blake3::hash(identity.as_bytes());
    let draw = u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
    // 53 bits, the precision of an f64, as a fraction in 0..1.
    if ((draw >> 11) as f64) / ((1u64 << 53) as f64) < validation_fraction {
        Split::Validation
    } else {
        Split::Train
    }
}

/// Writes the shards of one split.
struct SplitWriter<'a> {
    folder: &'a Path,
    split: Split,
    tokenizer: &'a Tokenizer,
    shard_tokens: u64,
    open: Option<(String, ShardWriter)>,
    done: SplitManifest,
}

impl<'a> SplitWriter<'a> {
    fn new(folder: &'a Path, split: Split, tokenizer: &'a Tokenizer, shard_tokens: u64) -> Self {
        Self { folder, split, tokenizer, shard_tokens, open: None, done: SplitManifest::default() }
    }

    fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        let (_, writer) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = format!("{}-{:05}.bin", self.split.name(), self.done.shards.len());
                let writer = ShardWriter::create(
                    &self.folder.join(&file),
                    self.tokenizer.vocab_size(),
                    self.tokenizer.end_of_text(),
                    *self.tokenizer.hash().as_bytes(),
                )?;
                self.open.insert((file, writer))
            }
        };
        writer.push(ids)?;
        if writer.tokens() >= self.shard_tokens { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some((file, writer)) = self.open.take() {
            let header = writer.finish()?;
            self.done.documents += header.documents;
            self.done.tokens += header.tokens;
            self.done.shards.push(ShardManifest {
                file,
                documents: header.documents,
                tokens: header.tokens,
                crc32: header.payload_crc,
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SplitManifest, DataError> {
        self.close()?;
        Ok(self.done)
    }
}

/// Refuses a destination that would lose something nobody asked to lose.
fn check_destination(out: &Path, force: bool) -> Result<(), DataError> {
    if out.file_name().is_none() {
        return Err(DataError::file(out, "not a folder that can be made", "name a new folder"));
    }
    let Ok(kind) = fs::symlink_metadata(out) else { return Ok(()) };
    if kind.is_dir() {
        let mut entries = fs::read_dir(out).map_err(|e| DataError::io("list", out, e))?;
        if entries.next().is_none() {
            return Ok(());
        }
    }
    if !kind.is_dir() || !out.join(manifest::FILE_NAME).is_file() {
        let problem = "it exists and is not a dataset folder";
        return Err(DataError::file(out, problem, "choose another --out"));
    }
    if !force {
        let problem = "a dataset exists there already";
        return Err(DataError::file(
            out,
            problem,
            "choose another --out, or replace it with --force",
        ));
    }
    Ok(())
}

/// A folder under construction beside its destination; removed again unless moved there.
struct Building {
    folder: PathBuf,
}

impl Building {
    fn beside(out: &Path) -> Result<Self, DataError> {
        let within = parent(out);
        fs::create_dir_all(within).map_err(|e| DataError::io("create", within, e))?;
        let folder = temporary_name(out);
        fs::create_dir(&folder).map_err(|e| DataError::io("create", &folder, e))?;
        Ok(Self { folder })
    }

    fn move_to(self, out: &Path) -> Result<(), DataError> {
        sync_folder(&self.folder)?;
        let old = temporary_name(&out.with_file_name(format!(
            "{}.old",
            out.file_name().unwrap_or_default().to_string_lossy()
        )));
        let replaced = fs::symlink_metadata(out).is_ok();
        if replaced {
            fs::rename(out, &old).map_err(|e| DataError::io("move aside", out, e))?;
        }
        if let Err(error) = publish(&self.folder, out) {
            if replaced {
                // Back to how it was; the error to report is the first.
                let _ = fs::rename(&old, out);
            }
            return Err(error);
        }
        if replaced {
            fs::remove_dir_all(&old).map_err(|e| DataError::io("remove", &old, e))?;
        }
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // Gone after `move_to`; otherwise an unfinished dataset that must not stay.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, synth};

    fn corpus(path: &Path, documents: u64) {
        let lines: String = synth::records(7)
            .take(documents as usize)
            .map(|record| serde_json::to_string(&record).expect("JSON") + "\n")
            .collect();
        fs::write(path, lines).expect("write");
    }

    fn options(folder: &Path) -> Options {
        Options {
            inputs: vec![folder.join("corpus.jsonl")],
            out: folder.join("dataset"),
            tokenizer: TokenizerSource::Train {
                kind: tokenizer::Kind::ByteBpe,
                vocab_size: 400,
                min_frequency: 2,
            },
            validation_fraction: 0.2,
            shard_tokens: 3000,
            force: false,
        }
    }

    fn run(options: &Options) -> Result<Manifest, DataError> {
        prepare(options, &mut |_| ControlFlow::Continue(()))
    }

    /// Every file of a folder with its bytes.
    fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        fs::read_dir(folder)
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .map(|path| (path.clone(), fs::read(&path).expect("read")))
            .collect()
    }

    fn litter(folder: &Path) -> usize {
        fs::read_dir(folder)
            .expect("list")
            .filter(|e| e.as_ref().expect("entry").file_name().to_string_lossy().starts_with('.'))
            .count()
    }

    #[test]
    fn documents_come_back_in_order_and_nothing_depends_on_threads() {
        let folder = tempfile::tempdir().expect("temporary folder");
        corpus(&folder.path().join("corpus.jsonl"), 60);
        let options = options(folder.path());
        let manifest = run(&options).expect("prepare");
        assert_eq!(manifest.documents, 60);
        assert!(manifest.train.shards.len() > 1 && manifest.validation.documents > 0);

        let dataset = Dataset::open(&options.out).expect("open");
        let tokenizer = dataset.tokenizer().expect("tokenizer");
        let mut decoded = String::new();
        for split in [Split::Train, Split::Validation] {
            let ids = dataset.window(split, 0, dataset.tokens(split) as usize);
            decoded += &tokenizer.decode(&ids).expect("decode");
        }
        let mut expected = [String::new(), String::new()];
        for record in Documents::open(&options.inputs).expect("open") {
            let Record::Document(document) = record.expect("record") else { continue };
            let held_out = split_of(&document, 0.2) == Split::Validation;
            expected[usize::from(held_out)] += &(document.text + tokenizer::END_OF_TEXT);
        }
        assert_eq!(decoded, expected.concat());

        let first = contents(&options.out);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("pool");
        let again = Options { force: true, ..options };
        one.install(|| run(&again)).expect("prepare");
        assert_eq!(contents(&again.out), first);
        assert_eq!(litter(folder.path()), 0);
    }

    #[test]
    fn more_input_moves_no_document_between_splits() {
        let document = |id: &str| Document { id: Some(id.to_owned()), text: "text".to_owned() };
        let ids: Vec<String> = (0..2000).map(|i| format!("pmid-{i}")).collect();
        let held_out = |fraction| {
            ids.iter()
                .filter(|id| split_of(&document(id), fraction) == Split::Validation)
                .collect::<Vec<_>>()
        };
        let (few, more) = (held_out(0.03), held_out(0.10));
        assert!(few.iter().all(|id| more.contains(id)));
        assert!((30..100).contains(&few.len()), "{}", few.len());
        assert!(held_out(0.0).is_empty());
    }

    #[test]
    fn dropped_records_are_counted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lines = "{\"text\":\"one text\",\"id\":1}\n{\"text\":\"one text\",\"id\":2}\n\
                     {\"title\":\"only\"}\n{\"text\":\"\"}\n{\"text\":\"another text\"}\n";
        fs::write(folder.path().join("corpus.jsonl"), lines).expect("write");
        let manifest =
            run(&Options { validation_fraction: 0.0, ..options(folder.path()) }).expect("prepare");
        assert_eq!(manifest.documents, 2);
        let dropped: Vec<(&str, u64)> =
            manifest.dropped.iter().map(|(reason, n)| (reason.as_str(), *n)).collect();
        assert_eq!(dropped, [("duplicate", 1), ("empty", 1), ("title_only", 1)]);
    }

    #[test]
    fn failures_leave_the_old_dataset_and_no_litter() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let input = folder.path().join("corpus.jsonl");
        corpus(&input, 20);
        let good = options(folder.path());
        run(&good).expect("prepare");
        let before = contents(&good.out);
        assert!(run(&good).expect_err("exists").to_string().contains("--force"));

        let forced = Options { force: true, ..good.clone() };
        let mut calls = 0;
        let stopped = prepare(&forced, &mut |_| {
            calls += 1;
            if calls > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(DataError::Interrupted)));

        let whole = fs::read_to_string(&input).expect("read");
        fs::write(&input, whole.clone() + "{\"text\": ").expect("write");
        assert!(run(&forced).is_err());
        fs::write(&input, "").expect("write");
        let message = run(&forced).expect_err("empty").to_string();
        assert!(!message.is_empty());
        fs::write(&input, whole).expect("write");
        for (fraction, shard_tokens) in [(1.0, 10), (-0.1, 10), (f64::NAN, 10), (0.1, 0)] {
            let bad = Options { validation_fraction: fraction, shard_tokens, ..forced.clone() };
            assert!(run(&bad).is_err());
        }
        assert_eq!(contents(&good.out), before);
        assert_eq!(litter(folder.path()), 0);
    }

    #[test]
    fn a_folder_that_is_no_dataset_is_never_replaced() {
        let folder = tempfile::tempdir().expect("temporary folder");
        corpus(&folder.path().join("corpus.jsonl"), 5);
        let options = Options { force: true, ..options(folder.path()) };
        fs::create_dir(&options.out).expect("create");
        let precious = options.out.join("thesis.tex");
        fs::write(&precious, "years of work").expect("write");
        assert!(run(&options).is_err());
        assert!(precious.exists());
        fs::remove_file(&precious).expect("remove");
        run(&options).expect("an empty folder is fine");
    }
}
