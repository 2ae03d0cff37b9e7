//! `plot` through the command line: what it draws, says and refuses.

use std::fs;
use std::path::Path;

use crate::common::{contents, failure, json, run};
use crate::prepared::prepared;
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The texts of a picture, whose files must be an SVG and a PNG.
fn drawn(at: &Path, name: &str) -> String {
    assert!(fs::read(at.join(format!("{name}.png"))).expect("PNG").starts_with(b"\x89PNG"));
    let svg = fs::read_to_string(at.join(format!("{name}.svg"))).expect("SVG");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    svg
}

/// Three runs in a folder: dense, sparse, and sparse by groups and interrupted by nothing.
fn runs() -> tempfile::TempDir {
    let folder = prepared(150, "--vocab-size 500 --validation 0.1");
    let at = folder.path();
    for (name, settings) in [
        ("dense", ""),
        ("sparse", "--sparsity 0.75"),
        ("mixed", "--sparsity 0.5 --set sparsity.groups=[{param_filter=['*.mlp.*'],sparsity=0.8}]"),
    ] {
        let pretrain = format!(
            "--json pretrain --preset micro --data dataset --out {name} {settings} \
             --set train.steps=10 --set eval.every=5"
        );
        json(&run(at, &pretrain));
    }
    folder
}

#[test]
fn losses_of_runs_are_drawn_against_tokens_operations_and_time() {
    let folder = runs();
    let at = folder.path();
    let report = json(&run(at, "--json plot dense sparse mixed/ --out losses.svg"));
    assert_eq!(report["figure"], "losses");
    assert_eq!(report["files"].as_array().map(Vec::len), Some(2));
    let rows = report["runs"].as_array().expect("runs");
    for (row, name) in rows.iter().zip(["dense", "sparse", "mixed"]) {
        let finished = fs::read(at.join(name).join("report.json")).expect("read");
        let finished: Value = serde_json::from_slice(&finished).expect("JSON");
        assert_eq!(row["train_loss"], finished["train_loss"]);
        assert_eq!(row["val_loss"], finished["val_loss"]);
        assert!((number(&row["flops"]) / number(&finished["flops"]) - 1.0).abs() < 1e-12);
        assert_eq!(number(&row["tokens"]), 10.0 * 8.0 * 64.0);
        assert!(number(&row["hours"]) > 0.0);
    }
    let svg = drawn(at, "losses");
    for part in [
        "dense: dense",
        "sparse: 75 % sparse",
        "mixed: 70 % sparse, by groups",
        "tokens (thousands)",
        "training operations (10⁹ FLOP)",
        "computing time (",
        "Loss of training and validation",
        "loss (nats per token)",
        "training, smoothed",
    ] {
        assert!(svg.contains(part), "no '{part}' in the picture");
    }

    // Whatever draws, neither of the two pictures is replaced unless that is asked for.
    for command in [
        "plot dense --out",
        "data stats dataset --plot",
        "bench step --preset micro --batch 1 --ctx 16 --steps 1 --plot",
        "bench scaling --preset micro --sparsity 0 --step-seconds micro:0=0.1 --plot",
        "bench layer --shape 64x96 --sparsity 0.5 --tokens 32 --rounds 2 --plot",
    ] {
        for (gone, left) in [("svg", "png"), ("png", "svg")] {
            let path = |ending: &str| at.join("losses").with_extension(ending);
            fs::remove_file(path(gone)).expect("remove");
            fs::write(path(left), "mine").expect("write");
            let message = failure(&run(at, &format!("{command} losses.svg")), 1);
            assert!(message.contains(&format!("losses.{left}: it exists already")), "{message}");
            assert!(!path(gone).exists());
            json(&run(at, &format!("--json {command} losses.svg --force")));
            drawn(at, "losses");
        }
    }

    let alone = run(at, "plot sparse --x tokens --out alone.png");
    assert!(String::from_utf8_lossy(&alone.stdout).contains("wrote alone.svg"));
    let svg = drawn(at, "alone");
    assert!(svg.contains("tokens (thousands)") && !svg.contains("FLOP"));
}

#[test]
fn speedups_of_layers_are_drawn_from_their_json() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let bench = "--json bench layer --tokens 32 --rounds 2 --shape 64x96 --sparsity 0.5,0.9 \
                 --plot direct.svg";
    fs::write(at.join("layers.json"), run(at, bench).stdout).expect("write");
    assert_eq!(json(&run(at, "--json plot layers.json --out later.svg"))["figure"], "speedup");
    assert_eq!(drawn(at, "later"), drawn(at, "direct"));
}

#[test]
fn what_cannot_be_drawn_is_refused_and_leaves_nothing() {
    let folder = runs();
    let at = folder.path();
    fs::write(at.join("notes.json"), "{\"rows\": 3}").expect("write");
    fs::write(at.join("empty.json"), "").expect("write");
    let line = "x".repeat(20);
    fs::create_dir(at.join("torn")).expect("create");
    fs::copy(at.join("dense/config.toml"), at.join("torn/config.toml")).expect("copy");
    fs::write(at.join("torn/metrics.jsonl"), format!("{line}\n")).expect("write");
    let before = contents(at);
    for (command_line, code, says) in [
        ("plot", 2, "<RUN>"),
        ("plot absent", 1, "absent: holds no run"),
        ("plot dense absent", 1, "absent: holds no run"),
        ("plot dataset", 1, "dataset: holds no run"),
        ("plot torn", 1, "metrics.jsonl: line 1"),
        ("plot notes.json", 1, "notes.json: neither a run folder nor"),
        ("plot empty.json", 1, "empty.json: neither a run folder nor"),
        ("plot dense notes.json", 2, "notes.json: is a file among several"),
        ("plot notes.json --x hours", 2, "--x"),
        ("plot dense --x steps", 2, "'steps'"),
        ("plot dense --out picture.gif", 2, "name a chart .svg or .png"),
        ("plot dense --out absent/picture.svg", 1, "cannot be written"),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
}
