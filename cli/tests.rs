//! What the verbs write by themselves, when the process, or the power, stops after any step of it, or a
//! step is refused. Datasets, runs and models have such tests in the crates that make them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use mediswift_files::faults::{self, Recording};
use tempfile::TempDir;

use crate::Cli;
use crate::job::Job;
use crate::verb::{Context, Outcome, Verb as _};

/// Calls the program within this process. `IN` is where its inputs are, `OUT` where it writes.
fn call(command_line: &str, inputs: &Path, out: &Path) -> anyhow::Result<Outcome> {
    let path = |word: &str, name: &str, at: &Path| word.replace(name, &at.display().to_string());
    let words =
        command_line.split_whitespace().map(|word| path(&path(word, "IN", inputs), "OUT", out));
    let cli = Cli::try_parse_from(["mediswift".to_string()].into_iter().chain(words))?;
    cli.command.run(&Context::new(Job::alone(), true, Cli::command))
}

/// A folder with texts, a dataset, a run, and a fine-tuned one.
fn inputs() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let question = |i: usize| {
        let answer = ["yes", "no", "yes", "maybe"][i % 4];
        let item = serde_json::json!({
            "QUESTION": format!("Is number {i} {answer}?"), "CONTEXTS": ["It is."], "LONG_ANSWER": "It is.",
            "final_decision": answer,
        });
        (i.to_string(), item)
    };
    let questions = serde_json::Value::Object((0..40).map(question).collect()).to_string();
    fs::create_dir(at.join("qa")).expect("create");
    fs::write(at.join("qa/ori_pqal.json"), questions).expect("write");
    fs::write(at.join("texts.jsonl"), "{\"text\":\"One text.\"}\n{\"text\":\"Another.\"}\n")
        .expect("write");
    for command_line in [
        "data synth --documents 60 --seed 4 --out OUT/corpus.jsonl",
        "data prepare IN/corpus.jsonl --out OUT/dataset --vocab-size 500 --validation 0.1",
        "pretrain --preset micro --data IN/dataset --out OUT/run --set train.steps=4 --set train.batch=2",
        "finetune pubmedqa --from IN/run --data IN/qa --out OUT/tuned --set finetune.epochs=1 \
         --set finetune.seeds=1 --set finetune.batch=16 --set finetune.lr=1e-3 \
         --set finetune.prompt_tokens=2",
    ] {
        call(command_line, at, at).expect(command_line);
    }
    for ending in ["svg", "png"] {
        fs::remove_file(at.join("tuned/accuracy").with_extension(ending)).expect("remove");
    }
    folder
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        let name = PathBuf::from(path.file_name().expect("a name"));
        if path.is_dir() {
            found.extend(
                contents(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)),
            );
        } else {
            found.insert(name, fs::read(&path).expect("read"));
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("create");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.iter().any(|part| part.to_string_lossy().starts_with('.'))
}

/// Whether a file says something only while a process has it.
fn is_passing(path: &Path) -> bool {
    is_hidden(path) || path.ends_with("LOCK")
}

/// The same command again; what is there whole may not be replaced without being asked to.
fn again(command_line: &str, inputs: &Path, out: &Path) {
    if let Err(error) = call(command_line, inputs, out) {
        assert!(error.to_string().contains("--force"), "{command_line}: {error:#}");
        call(&format!("{command_line} --force"), inputs, out).expect(command_line);
    }
}

/// Checks a command whose files are the same every time.
fn check(inputs: &Path, scratch: &Path, before: Option<&str>, command_line: &str) {
    let root = scratch.join("root");
    let start = || {
        fs::create_dir(&root).expect("create");
        if let Some(name) = before {
            copy(&inputs.join(name), &root.join(name));
        }
    };
    start();
    let (done, recording) = Recording::of(&root, || call(command_line, inputs, &root));
    done.expect(command_line);
    let (old, new) = (before.map(|name| inputs.join(name)), contents(&root));
    let old = old.map_or_else(BTreeMap::new, |path| contents(path.parent().expect("a folder")));
    assert!(recording.steps().len() >= 5, "{command_line}: {:?}", recording.steps());
    recording.each_state(scratch, 1, |state| {
        let last = (state.power_cut, state.done.last());
        for (path, bytes) in contents(state.folder) {
            let is_whole = new.get(&path) == Some(&bytes) || old.get(&path) == Some(&bytes);
            assert!(is_passing(&path) || is_whole, "{command_line}: {last:?}: {path:?}");
        }
        again(command_line, inputs, state.folder);
        assert!(contents(state.folder) == new, "{command_line}: {last:?}");
    });
    fs::remove_dir_all(&root).expect("remove");
    for refused in 0.. {
        start();
        let (done, was_refused) =
            faults::fail(&root, refused, || call(command_line, inputs, &root));
        let found = contents(&root);
        assert!(!found.keys().any(|path| is_hidden(path)), "{command_line}: {:?}", found.keys());
        if !was_refused {
            assert!(done.is_ok() && found == new, "{command_line}");
            break;
        }
        for (path, bytes) in &found {
            let is_whole = new.get(path) == Some(bytes) || old.get(path) == Some(bytes);
            assert!(is_passing(path) || is_whole, "{command_line}: step {refused}: {path:?}");
        }
        again(command_line, inputs, &root);
        assert!(contents(&root) == new, "{command_line}: step {refused}");
        fs::remove_dir_all(&root).expect("remove");
    }
    fs::remove_dir_all(&root).expect("remove");
}

#[test]
fn what_a_verb_writes_is_whole_whatever_stops_it_and_the_same_command_completes_it() {
    let folder = inputs();
    let scratch = tempfile::tempdir().expect("temporary folder");
    let check = |before, command_line| check(folder.path(), scratch.path(), before, command_line);
    check(None, "plot IN/run --x tokens --out OUT/losses.svg");
    check(None, "compare IN/tuned --out OUT/results");
    check(None, "score IN/run --file IN/texts.jsonl --out OUT/scores.jsonl");
    check(None, "data stats IN/dataset --plot OUT/lengths.svg");
    // Its pictures come last.
    check(Some("tuned"), "finetune pubmedqa --from IN/run --data IN/qa --out OUT/tuned --resume");
}

#[test]
fn measurements_are_written_whole_too() {
    let scratch = tempfile::tempdir().expect("temporary folder");
    let root = scratch.path().join("root");
    fs::create_dir(&root).expect("create");
    let measure = |root: &Path| {
        // It replaces no plans.
        let _ = fs::remove_file(root.join("plans.toml"));
        let bench = "bench layer --shape 32x48 --tokens 16 --rounds 1 --sparsity 0.5 --product forward \
                     --save-plans OUT/plans.toml --plot OUT/speedup.svg";
        call(bench, root, root).expect(bench);
    };
    let ((), recording) = Recording::of(&root, || measure(&root));
    let names = |root: &Path| contents(root).into_keys().collect::<Vec<_>>();
    let expected = ["plans.toml", "speedup.png", "speedup.svg"].map(PathBuf::from);
    assert_eq!(names(&root), expected);
    let whole = contents(&root);
    recording.each_state(scratch.path(), 0, |state| {
        for (path, bytes) in contents(state.folder) {
            assert!(is_hidden(&path) || whole[&path] == bytes, "{:?}: {path:?}", state.done.last());
        }
        // It takes its time.
        if state.done.len() % 9 == 1 {
            measure(state.folder);
            assert_eq!(names(state.folder), expected, "{:?}", state.done.last());
        }
    });
}
