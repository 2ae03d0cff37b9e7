//! Datasets, tokenizers and corpora whose process, or power, stops after any step, or whose disk
//! refuses one.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mediswift_data::clean::Cleaning;
use mediswift_data::prepare::{Preparation, TokenizerSource, prepare, train_tokenizer};
use mediswift_data::{DataError, Dataset, Tokenizer, synth, tokenizer};
use mediswift_files::faults::{self, Recording};

fn corpus(path: &Path, seed: u64) {
    synth::write(path, seed, 8, &mut |_| ControlFlow::Continue(())).expect("write");
}

fn learn() -> TokenizerSource {
    let kind = tokenizer::Kind::ByteBpe;
    TokenizerSource::Train { kind, vocab_size: 280, min_frequency: 2, sample: 1.0 }
}

fn cleaning() -> Cleaning {
    Cleaning { min_words: 1, near_duplicates: None, ..Cleaning::default() }
}

/// Three shards of train, one of validation.
fn preparation(input: &Path, out: &Path, force: bool) -> Preparation {
    Preparation {
        tokenizer: learn(),
        cleaning: cleaning(),
        strict: true,
        validation_fraction: 0.3,
        shard_tokens: 1200,
        force,
        ..Preparation::new(vec![input.to_path_buf()], out.to_path_buf())
    }
}

fn make(preparation: &Preparation) -> Result<(), DataError> {
    prepare(preparation, &mut |_| ControlFlow::Continue(())).map(drop)
}

/// Every file below a folder with the hash of its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("read");
                let path = path.strip_prefix(folder).expect("below").to_path_buf();
                found.insert(path, blake3::hash(&bytes));
            }
        }
    }
    found
}

#[test]
fn a_dataset_is_the_old_one_or_the_new_one_whatever_stops_its_making() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let inputs = [at.join("old.jsonl"), at.join("new.jsonl")];
    (0..).zip(&inputs).for_each(|(seed, input)| corpus(input, seed));
    let root = at.join("root");
    fs::create_dir(&root).expect("create");
    let mut whole = vec![BTreeMap::new()];
    for (number, input) in inputs.iter().enumerate() {
        let (made, recording) =
            Recording::of(&root, || make(&preparation(input, &root.join("dataset"), number > 0)));
        made.expect("a dataset");
        whole.push(contents(&root));
        assert!(whole[number + 1].keys().all(|path| path.starts_with("dataset")));
        let count = recording.steps().len();
        assert!(count > 60, "only {count} steps were seen");
        recording.each_state(at, 1, |state| {
            let last = (state.power_cut, state.done.len(), state.done.last());
            let out = state.folder.join("dataset");
            let mut found = contents(state.folder);
            found.retain(|path, _| path.starts_with("dataset"));
            let is_new = found == whole[number + 1];
            assert!(is_new || found == whole[number], "{last:?}");
            if !found.is_empty() {
                Dataset::open(&out).expect("a whole dataset");
            }
            assert!(is_new || state.done.len() < count);
            // The same command again; it may find its work done.
            let made = make(&preparation(input, &out, number > 0));
            assert!(made.is_ok() || is_new, "{last:?}: {made:?}");
            assert_eq!(contents(state.folder), whole[number + 1], "{last:?}");
            assert_eq!(fs::read_dir(state.folder).expect("list").count(), 1, "{last:?}");
        });
    }
    assert_ne!(whole[1], whole[2]);
}

#[test]
fn a_step_that_is_refused_leaves_the_old_dataset_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let inputs = [at.join("old.jsonl"), at.join("new.jsonl")];
    (0..).zip(&inputs).for_each(|(seed, input)| corpus(input, seed));
    let root = at.join("root");
    let out = root.join("dataset");
    make(&preparation(&inputs[1], &out, false)).expect("a dataset");
    let new = contents(&root);
    let mut refused = 0;
    loop {
        make(&preparation(&inputs[0], &out, true)).expect("a dataset");
        let old = contents(&root);
        let (made, was_refused) =
            faults::fail(&root, refused, || make(&preparation(&inputs[1], &out, true)));
        if !was_refused {
            made.expect("nothing was refused");
            break;
        }
        let mut found = contents(&root);
        found.retain(|path, _| path.starts_with("dataset"));
        assert!(found == old || found == new, "{refused}: {made:?}");
        if let Err(error) = &made {
            assert!(matches!(error, DataError::Io { .. }), "{refused}: {error}");
        } else {
            assert_eq!(found, new, "{refused}");
        }
        make(&preparation(&inputs[1], &out, true)).expect("a dataset");
        assert_eq!(contents(&root), new, "{refused}");
        refused += 1;
    }
    assert!(refused > 60, "only {refused} steps were seen");
}

#[test]
fn a_tokenizer_and_its_export_and_a_corpus_are_whole_or_not_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let input = at.join("corpus.jsonl");
    corpus(&input, 1);
    let root = at.join("root");
    fs::create_dir(&root).expect("create");
    let work = |root: &Path| {
        let out = root.join("tokenizer.json");
        let stop = &mut |_: &_| ControlFlow::Continue(());
        let inputs = [input.clone()];
        let (tokenizer, ..) = train_tokenizer(&inputs, &cleaning(), true, &learn(), &out, stop)?;
        tokenizer.save(&out)?;
        tokenizer.export(&root.join("exported"))?;
        let keep_on = &mut |_| ControlFlow::Continue(());
        synth::write(&root.join("corpus.jsonl.gz"), 2, 3, keep_on)?;
        synth::write_questions(&root.join("questions.json"), 3, 4)
    };
    let (made, recording) = Recording::of(&root, || work(&root));
    made.expect("all of it");
    let whole = contents(&root);
    assert_eq!(whole.len(), 7);
    recording.each_state(at, 2, |state| {
        let last = state.done.last();
        for (path, hash) in contents(state.folder) {
            let is_hidden = path.iter().any(|part| part.to_string_lossy().starts_with('.'));
            assert!(is_hidden || whole.get(&path) == Some(&hash), "{last:?}: {path:?}");
        }
        work(state.folder).expect("all of it");
        assert_eq!(contents(state.folder), whole, "{last:?}");
        Tokenizer::load(&state.folder.join("tokenizer.json")).expect("a tokenizer");
    });
}
