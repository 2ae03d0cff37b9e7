//! Exports and imports whose process, or power, stops after any step.

use crate::Exported;
use mediswift_files::faults::Recording;
use mediswift_kernels::Precision;
use mediswift_model::checkpoint::Choice;
use mediswift_model::interchange::gguf;
use mediswift_model::interchange::hf::{self, Import};
use mediswift_model::run;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file below a folder with the hash of its bytes.
fn hashes(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(hashes(&path).into_iter().map(|(below, hash)| (name.join(below), hash)));
        } else {
            found.insert(name, blake3::hash(&fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn exports_and_imports_are_whole_or_as_before_whatever_stops_them() {
    let dense = Exported::new(0.0);
    let sparse = Exported::new(0.75);
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    // The second time there is something to replace.
    for (force, exported) in [(false, &dense), (true, &sparse)] {
        let run = exported.path("run");
        let work = |root: &Path| {
            hf::export(&run, Choice::default(), &root.join("hf"), Precision::F32, force)?;
            gguf::export(&run, Choice::default(), &root.join("model.gguf"), Precision::F16)
        };
        let before = hashes(&root);
        let (done, recording) = Recording::of(&root, || work(&root));
        done.unwrap();
        let after = hashes(&root);
        let part = |all: &BTreeMap<PathBuf, blake3::Hash>, name: &str| {
            let below = all.iter().filter(|(path, _)| path.starts_with(name));
            below.map(|(path, hash)| (path.clone(), *hash)).collect::<Vec<_>>()
        };
        assert!(recording.steps().len() > 40, "{} steps", recording.steps().len());
        recording.each_state(scratch.path(), 1, |state| {
            let found = hashes(state.folder);
            let last = (state.power_cut, state.done.last());
            for name in ["hf", "model.gguf"] {
                let found = part(&found, name);
                let is_whole = found == part(&before, name) || found == part(&after, name);
                assert!(is_whole, "{last:?}: {name}");
            }
            // What is whole already may not be replaced without being asked to.
            if work(state.folder).is_err() {
                assert!(!force && part(&found, "hf") == part(&after, "hf"), "{last:?}");
                gguf::export(
                    &run,
                    Choice::default(),
                    &state.folder.join("model.gguf"),
                    Precision::F16,
                )
                .unwrap();
            }
            assert_eq!(hashes(state.folder), after, "{last:?}");
        });
    }
    let import = |root: &Path| {
        hf::import(&sparse.path("hf"), &root.join("run"), &Import::default()).map(drop)
    };
    let root = scratch.path().join("runs");
    fs::create_dir(&root).unwrap();
    let (done, recording) = Recording::of(&root, || import(&root));
    done.unwrap();
    let after = hashes(&root);
    recording.each_state(scratch.path(), 1, |state| {
        let last = (state.power_cut, state.done.last());
        let is_there = state.folder.join("run").exists();
        if is_there {
            run::load_model(&state.folder.join("run")).unwrap();
        }
        assert_eq!(import(state.folder).is_ok(), !is_there, "{last:?}");
        assert_eq!(hashes(state.folder), after, "{last:?}");
    });
}
