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

mod building;
mod chosen;
mod encode;
mod extract;
mod preparation;
mod progress;
mod resolve;
mod segment;
mod splits;
mod staying;
mod tokens;
mod unit;

use std::path::{Path, PathBuf};

use mediswift_files::{self as files, ScratchFolder};

use self::building::{Building, Plan, check_destination};
use self::chosen::Chosen;
use self::progress::Watch;
use self::staying::Staying;
use self::unit::Unit;
use crate::clean::Cleaning;
use crate::error::RequestProblem;
use crate::manifest::{InputReport, Manifest};
use crate::source::Found;
use crate::{DataError, Tokenizer, source, tokenizer};

pub use preparation::{Preparation, TokenizerSource};
pub use progress::{PrepareProgress, PrepareStage};
pub use tokens::write_tokens;

/// Makes a dataset folder; returns its manifest.
///
/// `progress` is called now and then, and may stop the work by returning `Break`.
///
/// # Errors
/// An impossible request, an existing destination without `force`, nothing to train on, with `strict`
/// any damage, a full disk, or [`DataError::Interrupted`]. In every case the destination is as it was
/// before.
pub fn prepare(preparation: &Preparation, progress: Watch) -> Result<Manifest, DataError> {
    preparation.check()?;
    files::clear_beside(&preparation.out);
    check_destination(&preparation.out, preparation.force).inspect_err(|_| {
        // What made the dataset that is there may not have had the time.
        Building::remove_finished(&preparation.out);
    })?;
    let Found { files: found, passed_over } = source::find(&preparation.inputs)?;
    let units = unit::group(found)?;
    let given = match &preparation.tokenizer {
        TokenizerSource::File(path) => Some(Tokenizer::load(path)?),
        TokenizerSource::Train { .. } => None,
    };
    let building =
        Building::open(&preparation.out, &Plan::of(preparation, &units, given.as_ref())?)?;
    let made = make(preparation, &units, &passed_over, given, &building, progress);
    match &made {
        // The same command goes on from what is there.
        Err(DataError::Interrupted | DataError::Io { .. }) => {}
        Err(_) => {
            // The error that led here is the one to report.
            let _ = building.remove();
        }
        Ok(_) => building.move_to(&preparation.out)?,
    }
    made
}

fn make(
    preparation: &Preparation,
    units: &[Unit],
    passed_over: &[DataError],
    given: Option<Tokenizer>,
    building: &Building,
    progress: Watch,
) -> Result<Manifest, DataError> {
    let fraction = preparation.validation_fraction;
    let chosen = Chosen::from_units(
        units,
        &preparation.cleaning,
        preparation.strict,
        &building.work,
        progress,
    )?;
    let report = chosen.report(&preparation.inputs, units, passed_over);
    if chosen.fates.staying() == 0 {
        return Err(nothing_to_train_on(report, 0));
    }
    let path = building.dataset.join(tokenizer::FILE_NAME);
    let tokenizer = match (&preparation.tokenizer, given) {
        (_, Some(given)) => given,
        (TokenizerSource::Train { .. }, None) if path.is_file() => Tokenizer::load(&path)?,
        (learn, None) => chosen.learn(learn, fraction, progress)?,
    };
    tokenizer.save(&path)?;
    let staying = Staying::new(&chosen.segments, &chosen.fates, fraction);
    let shards =
        encode::encode(staying, &tokenizer, preparation.shard_tokens, &building.dataset, progress);
    let [train, validation] = shards?;
    if train.tokens == 0 {
        return Err(nothing_to_train_on(report, validation.documents));
    }
    let manifest = Manifest::new(&tokenizer, fraction, report, train, validation);
    manifest.save(&building.dataset)?;
    Ok(manifest)
}

/// Trains a tokenizer on the documents of `inputs` as [`prepare`] would keep them; returns it with the
/// number of documents and what became of the inputs.
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
) -> Result<(Tokenizer, u64, InputReport), DataError> {
    let Found { files: found, passed_over } = source::find(inputs)?;
    let units = unit::group(found)?;
    let work = ScratchFolder::beside(scratch)?;
    let chosen = Chosen::from_units(&units, cleaning, strict, work.path(), progress)?;
    let tokenizer = chosen.learn(learn, 0.0, progress)?;
    Ok((tokenizer, chosen.fates.staying(), chosen.report(inputs, &units, &passed_over)))
}

fn nothing_to_train_on(report: InputReport, held_out: u64) -> DataError {
    let InputReport { dropped, damaged, notes, .. } = report;
    let first_damage = damaged.into_iter().chain(notes).next();
    RequestProblem::NothingToTrainOn { dropped, held_out, first_damage }.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::ops::ControlFlow;

    use super::*;
    use crate::{Dataset, Split, synth};

    fn corpus(path: &Path, documents: u64) {
        let lines: String = synth::records(7)
            .take(documents as usize)
            .map(|record| serde_json::to_string(&record).expect("JSON") + "\n")
            .collect();
        fs::write(path, lines).expect("write");
    }

    fn options(folder: &Path) -> Preparation {
        Preparation {
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

    fn run(options: &Preparation) -> Result<Manifest, DataError> {
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
        let again = Preparation { force: true, ..options };
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
        let manifest = run(&Preparation { validation_fraction: 0.0, ..options(folder.path()) })
            .expect("prepare");
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

        let forced = Preparation { force: true, ..good.clone() };
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
            let bad = Preparation { validation_fraction: fraction, shard_tokens, ..forced.clone() };
            assert!(run(&bad).is_err());
        }
        assert_eq!(contents(&good.out), before);
        assert_eq!(litter(folder.path()), 0);
    }

    #[test]
    fn a_folder_that_is_no_dataset_is_never_replaced() {
        let folder = tempfile::tempdir().expect("temporary folder");
        corpus(&folder.path().join("corpus.jsonl"), 5);
        let options = Preparation { force: true, ..options(folder.path()) };
        fs::create_dir(&options.out).expect("create");
        let precious = options.out.join("thesis.tex");
        fs::write(&precious, "years of work").expect("write");
        assert!(run(&options).is_err());
        assert!(precious.exists());
        fs::remove_file(&precious).expect("remove");
        run(&options).expect("an empty folder is fine");
    }
}
