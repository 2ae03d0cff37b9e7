//! Input files → a dataset folder.
//!
//! ```text
//! dataset/
//!   tokenizer.json          the tokenizer, a copy or freshly trained
//!   train-00000.bin …       shards of about `shard_tokens` tokens
//!   validation-00000.bin …
//!   dataset.json            the manifest, written last
//! ```
//!
//! | step | module | turns | into |
//! |---|---|---|---|
//! | 1 | `extract` | input files, in parallel | segments of cleaned documents on disk |
//! | 2 | `resolve` | properties of all documents | which of them stay |
//! | 3 | [`Tokenizer::train`] | the training documents that stay | a tokenizer, unless one is given |
//! | 4 | `encode` | the documents that stay | shards |
//!
//! Documents keep their input order, and the bytes written do not depend on the number of threads.
//! Memory is bounded: a record for each thread, a batch of texts, 5 bytes for each document and one
//! table (see `resolve`). Whether a document is held out is decided by a hash of its identity alone:
//! adding files never moves a document from one split to the other.
//!
//! All of it happens in a hidden folder beside the destination, `.NAME.building`, and the dataset is
//! renamed when whole. A run that is interrupted or killed leaves that folder, and the same request
//! goes on from there; a different one begins anew.

mod encode;
mod extract;
mod resolve;
mod segment;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mediswift_files::{self as files, Lock, Scratch};
use serde::Serialize;

use self::encode::Staying;
use self::extract::{Report, Unit};
use self::resolve::Fates;
use self::segment::Segment;
use crate::clean::{Cleaning, DropReason};
use crate::error::{DatasetProblem, RequestProblem};
use crate::manifest::{self, InputManifest, Manifest};
use crate::{DataError, Split, Tokenizer, source, tokenizer};

/// Changed whenever the files in a building folder mean something else.
const BUILDING_VERSION: u32 = 1;

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
pub struct Options {
    /// Files, or folders of them; see [`source`].
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

impl Options {
    /// The usual way from `inputs` to a dataset in `out`: a byte-level tokenizer of up to 8192 tokens
    /// is trained, 3 % of the documents are held out, and the usual [`Cleaning`] is done.
    pub fn new(inputs: Vec<PathBuf>, out: PathBuf) -> Self {
        let tokenizer = TokenizerSource::Train {
            kind: tokenizer::Kind::ByteBpe,
            vocab_size: 8192,
            min_frequency: 2,
            sample: 1.0,
        };
        Self {
            inputs,
            out,
            tokenizer,
            cleaning: Cleaning::default(),
            strict: false,
            validation_fraction: 0.03,
            shard_tokens: 100_000_000,
            force: false,
        }
    }
}

/// What [`prepare`] is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading and cleaning the inputs.
    Reading,
    /// Looking for revisions and duplicates.
    Choosing,
    /// Learning a vocabulary.
    Learning,
    /// Tokenizing what stays; here progress is counted in documents.
    Tokenizing,
}

/// How far [`prepare`] has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The step under way.
    pub stage: Stage,
    /// Done of this step: bytes as stored, or documents.
    pub bytes_read: u64,
    /// The step in all.
    pub bytes_total: u64,
    /// Documents so far in this step.
    pub documents: u64,
}

type Watch<'a> = &'a mut dyn FnMut(&Progress) -> ControlFlow<()>;

/// Makes a dataset folder; returns its manifest.
///
/// `progress` is called now and then, and may stop the work by returning `Break`.
///
/// # Errors
/// An impossible request, an existing destination without `force`, nothing to train on, with `strict`
/// any damage, a full disk, or [`DataError::Interrupted`]. In every case the destination is as it was
/// before.
pub fn prepare(options: &Options, progress: Watch) -> Result<Manifest, DataError> {
    check(options)?;
    files::clear_beside(&options.out);
    check_destination(&options.out, options.force).inspect_err(|_| {
        // What made the dataset that is there may not have had the time.
        Building::remove_finished(&options.out);
    })?;
    let units = extract::units(source::find(&options.inputs)?)?;
    let given = match &options.tokenizer {
        TokenizerSource::File(path) => Some(Tokenizer::load(path)?),
        TokenizerSource::Train { .. } => None,
    };
    let building = Building::open(&options.out, &Plan::of(options, &units, given.as_ref())?)?;
    let made = make(options, &units, given, &building, progress);
    match &made {
        // The same command goes on from what is there.
        Err(DataError::Interrupted | DataError::Io { .. }) => {}
        Err(_) => {
            // The error that led here is the one to report.
            let _ = building.remove();
        }
        Ok(_) => building.move_to(&options.out)?,
    }
    made
}

fn make(
    options: &Options,
    units: &[Unit],
    given: Option<Tokenizer>,
    building: &Building,
    progress: Watch,
) -> Result<Manifest, DataError> {
    let fraction = options.validation_fraction;
    let chosen =
        Chosen::from_units(units, &options.cleaning, options.strict, &building.work, progress)?;
    if chosen.fates.staying() == 0 {
        return Err(nothing_to_train_on(chosen.dropped(), &chosen.damaged(), 0));
    }
    let path = building.dataset.join(tokenizer::FILE_NAME);
    let tokenizer = match (&options.tokenizer, given) {
        (_, Some(given)) => given,
        (TokenizerSource::Train { .. }, None) if path.is_file() => Tokenizer::load(&path)?,
        (learn, None) => chosen.learn(learn, fraction, progress)?,
    };
    tokenizer.save(&path)?;
    let staying = Staying::new(&chosen.segments, &chosen.fates, fraction);
    let shards =
        encode::encode(staying, &tokenizer, options.shard_tokens, &building.dataset, progress);
    let [train, validation] = shards?;
    let (dropped, damaged) = (chosen.dropped(), chosen.damaged());
    if train.tokens == 0 {
        return Err(nothing_to_train_on(dropped, &damaged, validation.documents));
    }
    let inputs = chosen.inputs(&options.inputs, units);
    let manifest = Manifest::new(&tokenizer, fraction, inputs, dropped, damaged, train, validation);
    manifest.save(&building.dataset)?;
    Ok(manifest)
}

/// Trains a tokenizer on the documents of `inputs` as [`prepare`] would keep them; returns it with the
/// number of documents.
///
/// # Errors
/// As [`prepare`].
pub fn train_tokenizer(
    inputs: &[PathBuf],
    cleaning: &Cleaning,
    strict: bool,
    learn: &TokenizerSource,
    scratch: &Path,
    progress: Watch,
) -> Result<(Tokenizer, u64), DataError> {
    let units = extract::units(source::find(inputs)?)?;
    let work = Scratch::beside(scratch)?;
    let chosen = Chosen::from_units(&units, cleaning, strict, work.path(), progress)?;
    let tokenizer = chosen.learn(learn, 0.0, progress)?;
    Ok((tokenizer, chosen.fates.staying()))
}

/// Segments on disk, and which of their documents stay.
struct Chosen {
    reports: Vec<Report>,
    segments: Vec<Segment>,
    fates: Fates,
}

impl Chosen {
    fn from_units(
        units: &[Unit],
        cleaning: &Cleaning,
        strict: bool,
        work: &Path,
        progress: Watch,
    ) -> Result<Self, DataError> {
        let reports = extract::extract(units, cleaning, strict, work, progress)?;
        let segments = extract::segments(&reports, work)?;
        let documents = segments.iter().map(|s| s.documents as u64).sum();
        let now = Progress { stage: Stage::Choosing, bytes_read: 0, bytes_total: 0, documents };
        let fates =
            resolve::resolve(
                &segments,
                &reports,
                cleaning.near_duplicates,
                &mut || match progress(&now) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(DataError::Interrupted),
                },
            )?;
        Ok(Self { reports, segments, fates })
    }

    /// Learns a vocabulary from the documents that stay and are not held out.
    fn learn(
        &self,
        learn: &TokenizerSource,
        validation_fraction: f64,
        progress: Watch,
    ) -> Result<Tokenizer, DataError> {
        let (kind, vocab_size, min_frequency, sample) = match learn {
            TokenizerSource::File(path) => return Tokenizer::load(path),
            TokenizerSource::Train { kind, vocab_size, min_frequency, sample } => {
                (*kind, *vocab_size, *min_frequency, *sample)
            }
        };
        let total = self.fates.staying();
        let mut read = 0;
        let mut staying = Staying::new(&self.segments, &self.fates, validation_fraction);
        let texts = std::iter::from_fn(|| {
            loop {
                let text = match staying.next()? {
                    Ok((text, Split::Train)) => Some(Ok(text)),
                    Ok((_, Split::Validation)) => None,
                    Err(error) => return Some(Err(error)),
                };
                read += 1;
                let now = Progress {
                    stage: Stage::Learning,
                    bytes_read: read,
                    bytes_total: total,
                    documents: read,
                };
                if read % 256 == 0 && progress(&now).is_break() {
                    return Some(Err(DataError::Interrupted));
                }
                // Every so many-th document, evenly.
                let counted = (read as f64 * sample).floor() > ((read - 1) as f64 * sample).floor();
                if let Some(text) = text.filter(|_| counted || sample >= 1.0) {
                    return Some(text);
                }
            }
        });
        Tokenizer::train(kind, texts, vocab_size, min_frequency)
    }

    fn dropped(&self) -> BTreeMap<String, u64> {
        let mut dropped = DropReason::zeros();
        for report in &self.reports {
            for (reason, count) in &report.dropped {
                *dropped.entry(reason.clone()).or_default() += count;
            }
        }
        for reason in DropReason::ALL {
            *dropped.entry(reason.name().to_owned()).or_default() += self.fates.count(reason);
        }
        dropped
    }

    fn damaged(&self) -> Vec<String> {
        self.reports.iter().flat_map(|report| report.damaged.iter().cloned()).collect()
    }

    /// What each input, as asked for, came to.
    fn inputs(&self, inputs: &[PathBuf], units: &[Unit]) -> Vec<InputManifest> {
        let mut described: Vec<InputManifest> =
            inputs.iter().map(|i| InputManifest::new(i)).collect();
        let mut segments = self.segments.iter();
        let mut document = 0;
        for (unit, report) in units.iter().zip(&self.reports) {
            let input = &mut described[unit.input];
            input.files += unit.files.len() as u64;
            input.records += report.records;
            for segment in segments.by_ref().take(report.segments) {
                let numbers = document..document + segment.documents;
                document = numbers.end;
                input.documents += numbers.filter(|&d| self.fates.stays(d)).count() as u64;
            }
        }
        described
    }
}

fn check(options: &Options) -> Result<(), DataError> {
    let within = |name, value: f64, from_zero: bool, below_one: bool| {
        let good = (0.0..=1.0).contains(&value)
            && (from_zero || value > 0.0)
            && !(below_one && value >= 1.0);
        if good {
            return Ok(());
        }
        Err(RequestProblem::Fraction { name, value })
    };
    within("validation fraction", options.validation_fraction, true, true)?;
    if let Some(threshold) = options.cleaning.near_duplicates {
        within("near-duplicate threshold", threshold, false, false)?;
    }
    if let TokenizerSource::Train { sample, .. } = options.tokenizer {
        within("tokenizer sample", sample, false, false)?;
    }
    if options.shard_tokens == 0 {
        return Err(RequestProblem::EmptyShards.into());
    }
    Ok(())
}

fn nothing_to_train_on(
    dropped: BTreeMap<String, u64>,
    damaged: &[String],
    held_out: u64,
) -> DataError {
    let first_damage = damaged.first().cloned();
    RequestProblem::NothingToTrainOn { dropped, held_out, first_damage }.into()
}

/// Refuses a destination that would lose something nobody asked to lose.
fn check_destination(out: &Path, force: bool) -> Result<(), DataError> {
    if out.file_name().is_none() {
        return Err(DataError::dataset(out, DatasetProblem::NoName));
    }
    let Ok(kind) = fs::symlink_metadata(out) else { return Ok(()) };
    if kind.is_dir() {
        let mut entries = fs::read_dir(out).map_err(|e| DataError::io("list", out, e))?;
        if entries.next().is_none() {
            return Ok(());
        }
    }
    if !kind.is_dir() || !out.join(manifest::FILE_NAME).is_file() {
        return Err(DataError::dataset(out, DatasetProblem::NotADataset));
    }
    if !force {
        return Err(DataError::dataset(out, DatasetProblem::Exists));
    }
    Ok(())
}

/// All that decides what a building folder comes to hold.
#[derive(Serialize)]
struct Plan {
    version: u32,
    /// Path, size and time of change of every file.
    files: Vec<(PathBuf, u64, Option<std::time::SystemTime>)>,
    options: String,
}

impl Plan {
    fn of(options: &Options, units: &[Unit], given: Option<&Tokenizer>) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for path in units.iter().flat_map(|unit| &unit.files) {
            let about = fs::metadata(path).map_err(|e| DataError::io("open", path, e))?;
            files.push((path.clone(), about.len(), about.modified().ok()));
        }
        let Options { inputs, cleaning, strict, validation_fraction, shard_tokens, .. } = options;
        let tokenizer = match given {
            Some(tokenizer) => tokenizer.hash(),
            None => format!("{:?}", options.tokenizer),
        };
        let options = format!(
            "{inputs:?} {cleaning:?} {strict} {validation_fraction} {shard_tokens} {tokenizer}"
        );
        Ok(Self { version: BUILDING_VERSION, files, options })
    }
}

/// File name of the plan within a building folder.
const PLAN: &str = "plan.json";

/// The folder in which a dataset is made, held by one run.
struct Building {
    folder: PathBuf,
    /// Segments and reports.
    work: PathBuf,
    /// What becomes the dataset.
    dataset: PathBuf,
    _lock: Lock,
}

impl Building {
    fn folder(out: &Path) -> PathBuf {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        out.with_file_name(format!(".{name}.building"))
    }

    /// Removes the folder if its dataset has been moved to `out` already.
    fn remove_finished(out: &Path) {
        let folder = Self::folder(out);
        if folder.is_dir()
            && let Ok(Some(_lock)) = Lock::take(&folder.join("lock"))
            && !folder.join("dataset").exists()
        {
            // What cannot be removed now is removed later.
            let _ = files::remove(&folder);
        }
    }

    /// Makes the folder, or goes on in one that was left by a run of the same plan.
    fn open(out: &Path, plan: &Plan) -> Result<Self, DataError> {
        let folder = Self::folder(out);
        files::create_folders(&folder)?;
        let Some(lock) = Lock::take(&folder.join("lock"))? else {
            return Err(DataError::dataset(out, DatasetProblem::InUse));
        };
        let (work, dataset) = (folder.join("work"), folder.join("dataset"));
        let plan_path = folder.join(PLAN);
        let bytes =
            serde_json::to_vec(plan).map_err(|e| DataError::io("write", &plan_path, e.into()))?;
        if fs::read(&plan_path).ok().as_ref() != Some(&bytes) {
            for stale in [&work, &dataset] {
                files::remove(stale)?;
            }
            files::write(&plan_path, &bytes)?;
        }
        for needed in [&work, &dataset] {
            files::create_folders(needed)?;
            files::clear(needed)?;
        }
        Ok(Self { folder, work, dataset, _lock: lock })
    }

    fn move_to(&self, out: &Path) -> Result<(), DataError> {
        files::put_folder(&self.dataset, out)?;
        self.remove()
    }

    /// Removes it, the plan first: without one, nothing in it counts.
    fn remove(&self) -> Result<(), DataError> {
        files::remove(&self.folder.join(PLAN))?;
        files::sync_folder(&self.folder)?;
        Ok(files::remove(&self.folder)?)
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
                sample: 1.0,
            },
            cleaning: Cleaning { min_words: 1, near_duplicates: None, ..Cleaning::default() },
            strict: true,
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
            let ids = dataset.window(split, 0, dataset.tokens(split) as usize).expect("read");
            decoded += &tokenizer.decode(&ids).expect("decode");
        }
        let mut expected = [String::new(), String::new()];
        for record in synth::records(7).take(60) {
            let identity = format!("ID:{}", record.id);
            let draw = crate::clean::sketch::exact(&identity)[0];
            let text = format!("{}\n{}{}", record.title, record.r#abstract, tokenizer::END_OF_TEXT);
            expected[Split::of(draw, 0.2) as usize] += &text;
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
        let draws: Vec<u64> =
            (0..2000).map(|i| crate::clean::sketch::exact(&format!("PMID:{i}"))[0]).collect();
        let held_out = |fraction| {
            let held_out = |draw: &&u64| Split::of(**draw, fraction) == Split::Validation;
            draws.iter().filter(held_out).collect::<Vec<_>>()
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
        let dropped: Vec<(&str, u64)> = manifest
            .dropped
            .iter()
            .map(|(reason, n)| (reason.as_str(), *n))
            .filter(|(_, n)| *n > 0)
            .collect();
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
        assert_eq!(litter(folder.path()), 1, "what was done is kept");

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
