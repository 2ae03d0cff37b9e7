//! Fine-tuning through the command line, as a user would run it.

use std::fs;
use std::path::Path;

use crate::common::{contents, failure, json, program, questions, run};
use crate::prepared::prepared;
use crate::server::Server;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a pre-trained run and the files of both tasks.
fn pretrained() -> TempDir {
    let folder = prepared(150, "--vocab-size 600 --validation 0.1");
    let at = folder.path();
    json(&run(
        at,
        "--json pretrain --preset micro --data dataset --sparsity 0.75 --out run \
         --set model.context=128 --set train.steps=8 --set train.batch=4",
    ));
    fs::create_dir(at.join("qa")).expect("create");
    fs::write(at.join("qa/ori_pqal.json"), questions().to_string()).expect("write");
    fs::create_dir(at.join("hoc")).expect("create");
    let documents: String = (0..40)
        .map(|i| {
            let part = ["train", "train", "dev", "test"][i % 4];
            let labels = if i % 3 == 0 { vec![] } else { vec!["resisting cell death"] };
            let text = if labels.is_empty() { "Nothing" } else { "Cells die" };
            let document = json!({
                "pmid": i,
                "sentences": [format!("{text} {i}.")],
                "sentence_labels": [labels],
                "blurb_split": part,
            });
            format!("{document}\n")
        })
        .collect();
    fs::write(at.join("hoc/hoc_documents.jsonl"), documents).expect("write");
    folder
}

const QUICK: &str = "--set finetune.epochs=1 --set finetune.seeds=2 --set finetune.batch=16 \
                     --set finetune.lr=1e-3 --set finetune.prompt_tokens=2";

fn read(at: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(at.join(name)).expect(name)).expect("JSON")
}

#[test]
fn tune_resume_compare() {
    let folder = pretrained();
    let at = folder.path();
    let tune = "--json finetune pubmedqa --from run --data qa --out tuned";
    let output = run(at, &format!("{tune} {QUICK}"));
    let report = json(&output);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(
        notes.contains("not for clinical use") && notes.contains("stage pqaa left out"),
        "{notes}"
    );
    assert_eq!(report["metric"], "accuracy per question, reasoning-required");
    let per_seed: Vec<f64> = serde_json::from_value(report["per_seed"].clone()).expect("numbers");
    let mean = per_seed.iter().sum::<f64>() / 2.0;
    assert_eq!((per_seed.len(), report["value"].as_f64()), (2, Some(mean)));
    // The file of predictions gives the same accuracy.
    let questions = questions();
    for (seed, value) in (1..).zip(&per_seed) {
        let predictions = read(at, &format!("tuned/predictions-seed-{seed}.json"));
        let predictions = predictions.as_object().expect("an object");
        assert_eq!(predictions.len(), 40);
        let right = predictions
            .iter()
            .filter(|(id, answer)| questions[id.as_str()]["final_decision"] == **answer)
            .count();
        assert_eq!(right as f64 / 40.0, *value);
    }
    for name in ["report.md", "accuracy.svg", "accuracy.png", "MODEL_CARD.md", "cells"] {
        assert!(at.join("tuned").join(name).exists(), "{name}");
    }
    // A run folder as any other.
    json(&run(at, "--json eval tuned --data dataset"));
    json(&run(at, "--json generate tuned --prompt Effect --max-tokens 5"));

    // Its prompt goes with it, and steers what it writes and what it finds likely.
    let out = json(&run(at, "--json export hf tuned --out hf"));
    assert_eq!(out["tensors"], 29);
    json(&run(at, "--json import hf hf --out back"));
    let source = "--soft-prompt --context question:";
    let steered = |name: &str| run(at, &format!("--json score {name} --text yes {source}"));
    let (here, there) = (json(&steered("tuned")), json(&steered("back")));
    assert_eq!(here, there);
    let plain = json(&run(at, "--json score tuned --text yes --context question:"));
    assert_ne!(here["loglikelihood"], plain["loglikelihood"]);
    for name in ["tuned", "back"] {
        let made = format!("--json generate {name} --prompt question: --soft-prompt --greedy");
        assert!(json(&run(at, &made))["text"].is_string());
    }
    // A server shows prompts as `generate` does, whether they come as text or as tokens.
    let made = "--json generate tuned --prompt question: --soft-prompt --greedy --max-tokens 16";
    let made = json(&run(at, made));
    let server = Server::start(program(at), "tuned", &["--soft-prompt"]);
    let ids = &json(&run(at, "--json score tuned --text question:"))["ids"];
    for prompt in [&json!("question:"), ids] {
        let answer = server.complete(&json!({"prompt": prompt, "temperature": 0}));
        assert_eq!(answer["choices"][0]["text"], made["text"]);
    }
    let (status, answer) =
        server.ask("/v1/completions", Some("{\"prompt\": \"x\", \"echo\": true}"));
    assert!(status == 400 && answer.contains("soft prompt"), "{answer}");
    drop(server);
    let none = failure(&run(at, "generate run --prompt question: --soft-prompt"), 2);
    assert!(none.contains("no soft prompt"), "{none}");
    let gguf = failure(&run(at, "export gguf tuned --out model.gguf"), 1);
    assert!(gguf.contains("GGUF has no place") && !at.join("model.gguf").exists(), "{gguf}");
    fs::write(at.join("hf/soft_prompt.safetensors"), "damage").expect("write");
    let damaged = failure(&run(at, "import hf hf --out damaged"), 1);
    assert!(damaged.contains("soft_prompt.safetensors"), "{damaged}");

    let again = failure(&run(at, &format!("{tune} {QUICK}")), 1);
    assert!(again.contains("go on with --resume"), "{again}");
    let resumed = json(&run(at, &format!("{tune} --resume")));
    assert_eq!(resumed, report);
    let other = failure(&run(at, &format!("{tune} --resume --set finetune.epochs=2")), 1);
    assert!(other.contains("was started with other settings"), "{other}");

    let sparse = "--json finetune pubmedqa --from run --data qa --out sparse";
    json(&run(at, &format!("{sparse} {QUICK} --set finetune.weights=sparse")));
    let table = json(&run(at, "--json compare tuned sparse --out results"));
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(table["rows"][0]["method"], "dense, 2 prompt tokens");
    assert_eq!(table["rows"][1]["method"], "sparse, 2 prompt tokens");
    for name in ["results.md", "results.json", "accuracy.svg", "accuracy.png"] {
        assert!(at.join("results").join(name).exists(), "{name}");
    }
    // Runs have names, in the table and in the picture, and results are not replaced unasked.
    let table = fs::read_to_string(at.join("results/results.md")).expect("read");
    let chart = fs::read_to_string(at.join("results/accuracy.svg")).expect("read");
    for name in ["tuned", "sparse"] {
        assert!(table.contains(&format!("\n| {name} | micro")), "{table}");
        assert!(chart.lines().any(|line| line.trim() == name), "{name}");
    }
    let before = contents(&at.join("results"));
    let refused = failure(&run(at, "compare tuned --out results"), 1);
    assert!(refused.contains("results.md") && refused.contains("--force"), "{refused}");
    assert_eq!(contents(&at.join("results")), before);
    json(&run(at, "--json compare tuned sparse --out results --force"));
    let drawn = json(&run(at, "--json plot tuned sparse --out sizes.svg"));
    assert_eq!((&drawn["figure"], &drawn["runs"][0]["value"]), (&json!("sizes"), &report["value"]));
    let read_chart = |path: &str| fs::read(at.join(path)).expect(path);
    assert_eq!(read_chart("sizes.svg"), read_chart("results/accuracy.svg"));
    let kinds = failure(&run(at, "plot tuned run"), 2);
    assert!(kinds.contains("different figures"), "{kinds}");

    let hoc = "--json finetune hoc --from run --data hoc --out hoc-tuned";
    let report = json(&run(at, &format!("{hoc} {QUICK}")));
    assert_eq!(report["metric"], "micro-F1 over 10 labels per document");
    assert_eq!(report["split"], "blurb split, 20/10/10 documents");
    assert_eq!(report["baselines"].as_array().map(Vec::len), Some(2));
    let mixed = failure(&run(at, "compare tuned hoc-tuned"), 2);
    assert!(mixed.contains("cannot be compared"), "{mixed}");
    assert!(failure(&run(at, "compare run"), 1).contains("not the report of a fine-tuning run"));
}

#[test]
fn mistakes_end_in_one_line() {
    let folder = pretrained();
    let at = folder.path();
    let before = contents(at);
    for (command_line, code, expected) in [
        ("finetune pubmed --from run --data qa --out x", 2, "did you mean 'pubmedqa'?"),
        ("finetune hoc --from run --data qa --out x", 1, "holds neither hoc_documents.jsonl"),
        ("finetune hoc --from run --data nowhere --out x", 1, "there is no such folder"),
        ("finetune hoc --from qa --data hoc --out x", 1, "holds no run"),
        ("finetune hoc --from run --data hoc --out run", 1, "holds a run already"),
        ("finetune hoc --from run --data hoc --out x --resume", 1, "x/finetune.toml"),
        ("finetune hoc --from run --data hoc", 2, "--out"),
        (
            "finetune hoc --from run --data hoc --out x --set finetune.epoch=1",
            2,
            "did you mean 'epochs'?",
        ),
        (
            "finetune hoc --from run --data hoc --out x --set finetune.split=fold-0",
            2,
            "finetune.split",
        ),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(expected), "{message}\n{expected}");
    }
    fs::remove_dir(at.join("x")).ok();
    assert!(contents(at) == before, "a failed call must leave everything as it was");
    let tokenizer = at.join("run/tokenizer.json");
    let whole = fs::read(&tokenizer).expect("read");
    fs::write(&tokenizer, [&whole[..], b"\n"].concat()).expect("write");
    let message = failure(&run(at, "finetune hoc --from run --data hoc --out x"), 1);
    assert!(message.contains("run/tokenizer.json: is another tokenizer"), "{message}");
    let settings = run(at, "finetune hoc --print-config");
    assert!(settings.status.success());
    fs::write(at.join("hoc.toml"), settings.stdout).expect("write");
    let read = json(&run(at, "--json finetune hoc --config hoc.toml --print-config"));
    assert_eq!(read["finetune"]["prompt_tokens"], 1);
}
