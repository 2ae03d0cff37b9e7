//! Datasets, runs and checkpoints of an earlier version: they load, and go on to the same bits.
//!
//! Hashes and losses hold on every machine: a run keeps the plans it started with, and for a plan all
//! instruction sets and numbers of threads give the same.

use std::fs;
use std::path::Path;

use crate::common::{contents, failure, json, run};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of the files, and what is expected of them.
fn old_files() -> (TempDir, Value) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/old");
    let folder = tempfile::tempdir().expect("temporary folder");
    copy(&source, folder.path());
    let expected = fs::read_to_string(source.join("expected.json")).expect("read");
    (folder, serde_json::from_str(&expected).expect("JSON"))
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            fs::create_dir(&target).expect("create");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copy");
        }
    }
}

/// Every key that is expected has its value.
#[track_caller]
fn holds(found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(found[key], *value, "{key}");
    }
}

#[test]
fn old_runs_are_evaluated_exported_and_resumed() {
    let (folder, expected) = old_files();
    let at = folder.path();
    for name in ["dense", "sparse"] {
        let expected = &expected[name];
        let call = |command_line: &str| json(&run(at, &command_line.replace("RUN", name)));
        let before = contents(&at.join(name));
        let evaluated = call("--json eval RUN --data dataset");
        assert_eq!(evaluated["val_loss"], expected["eval_val_loss"], "{name}");
        let exported = call("--json export gguf RUN --out RUN.gguf");
        assert_eq!(exported["bytes"], expected["gguf_bytes"], "{name}");
        assert_eq!(
            fs::metadata(at.join(format!("{name}.gguf"))).expect("the export").len(),
            expected["gguf_bytes"].as_u64().expect("a length")
        );
        holds(&call("--json export hf RUN --out hf-RUN"), &expected["hf"]);
        let imported = call("--json import hf hf-RUN --out again-RUN");
        assert_eq!(imported["weights_hash"], expected["saved_weights_hash"], "{name}");
        let anew = format!("pretrain --preset micro --data dataset --out {name}");
        assert!(failure(&run(at, &anew), 1).contains("holds a run already"));
        assert_eq!(contents(&at.join(name)), before, "{name}: reading must change nothing");
        let resumed = call("--json pretrain --resume --data dataset --out RUN");
        assert_eq!(resumed["val_loss"], expected["resumed_val_loss"], "{name}");
        assert_eq!(resumed["weights_hash"], expected["resumed_weights_hash"], "{name}");
        let steps = fs::read_to_string(at.join(name).join("metrics.jsonl")).expect("a log");
        assert_eq!(steps.lines().count(), 8, "{name}");
    }
}

#[test]
fn an_old_fine_tuning_goes_on_with_its_soft_prompt() {
    let (folder, expected) = old_files();
    let at = folder.path();
    let expected = &expected["tuned"];
    let resume = "finetune pubmedqa --from sparse --data questions --out tuned --resume";
    let report = json(&run(at, &format!("--json {resume}")));
    let seeds = report["seeds"].as_array().expect("seeds");
    let losses: Value = seeds.iter().map(|seed| seed["cell"]["dev_loss"].clone()).collect();
    assert_eq!(losses, expected["dev_losses"]);
    let manifest = fs::read_to_string(at.join("tuned/checkpoints/step-00000004/manifest.json"));
    let manifest: Value = serde_json::from_str(&manifest.expect("read")).expect("JSON");
    assert_eq!(manifest["weights_hash"], expected["weights_hash"]);
    let score = ["--json", "score", "tuned", "--soft-prompt"];
    let texts = ["--context", "Does aspirin help in gout?", "--text", " yes"];
    let scored =
        crate::common::program(at).args(score).args(texts).output().expect("the program starts");
    assert_eq!(json(&scored)["loglikelihood"], expected["loglikelihood"]);
    holds(&json(&run(at, "--json export hf tuned --out hf")), &expected["hf"]);
}
