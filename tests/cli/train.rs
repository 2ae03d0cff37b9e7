//! Training, evaluation and generation through the command line, as a user would run them.
//!
//! Whatever goes wrong must end in one clear line on stderr, the documented exit code, no panic,
//! and everything on disk as it was.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::{contents, failure, json, program, run};
use crate::prepared::prepared;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Settings of a run that takes a fraction of a second.
const SHORT: &str = "--preset micro --data dataset --set train.steps=6 --set train.batch=4 \
                     --set train.micro_batch=2 --set checkpoint.every=2";

/// A folder with `corpus.jsonl` and `dataset/`, whose vocabulary has 500 tokens.
fn dataset() -> TempDir {
    prepared(150, "--vocab-size 500 --validation 0.1")
}

/// The same with a finished run in `run/`.
fn trained() -> TempDir {
    let folder = dataset();
    json(&run(folder.path(), &format!("--json pretrain {SHORT} --sparsity 0.5 --out run")));
    folder
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn pretrain_evaluate_generate() {
    let folder = dataset();
    let at = folder.path();
    let settings = "--json pretrain --preset micro --data dataset --sparsity 0.75 --out run \
                    --set train.steps=60 --set train.lr=5e-3 --set eval.sequences=0";
    let report = json(&run(at, settings));
    assert_eq!(report["step"], 60);
    let (first_guess, val_loss) = (500f64.ln(), number(&report["val_loss"]));
    assert!(val_loss < first_guess - 1.0, "{val_loss} is little better than {first_guess}");
    assert!((number(&report["train_loss"]) - val_loss).abs() < 0.6);
    assert!(number(&report["tokens_per_second"]) > 0.0 && number(&report["flops"]) > 1e9);
    assert_eq!(report["weights_hash"].as_str().map(str::len), Some(64));
    assert_eq!(report["nnz"], 2 * 12 * 64 * 64 / 4);
    assert!(number(&report["parameters"]) > number(&report["nnz"]));
    assert_eq!(report["sparsity"]["target"], 0.75);
    let layers = report["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), 2 * 4);
    assert!(layers.iter().all(|layer| number(&layer["actual"]) == 0.75));
    // A layer may lose its last weight.
    let bare = "--json pretrain --preset micro --data dataset --sparsity 0.9999999 --out bare \
                --set train.steps=1 --set train.batch=1";
    let bare = json(&run(at, bare));
    assert_eq!((&bare["nnz"], &bare["sparsity"]["actual"]), (&json!(0), &json!(1.0)));

    let evaluation = json(&run(at, "--json eval run --data dataset"));
    assert_eq!(number(&evaluation["val_loss"]), val_loss);
    assert_eq!(number(&evaluation["perplexity"]), val_loss.exp());
    assert!(number(&evaluation["tokens"]) > 500.0);

    let generate = "--json generate run --prompt Effect --max-tokens 20";
    let generated = run(at, generate);
    let text = json(&generated)["text"].clone();
    assert!(String::from_utf8_lossy(&generated.stderr).contains("not for clinical use"));
    assert!(text.as_str().is_some_and(|text| !text.is_empty()));
    assert!(number(&json(&generated)["tokens_per_second"]) > 0.0);
    assert_eq!(json(&run(at, &format!("{generate} --threads 1")))["text"], text);
    assert_ne!(json(&run(at, &format!("{generate} --seed 1")))["text"], text);
    let greedy = json(&run(at, &format!("{generate} --greedy")));
    assert_eq!(json(&run(at, &format!("{generate} --top-k 1")))["text"], greedy["text"]);
    let cut = json(&run(at, &format!("{generate} --stop e")));
    assert!(cut["text"].as_str().is_some_and(|text| !text.contains('e')));
    // Without a prompt, a document begins.
    let bare = program(at).args(["--json", "generate", "run", "--prompt", ""]).output();
    assert!(json(&bare.expect("the program starts"))["text"].is_string());
}

#[test]
fn settings_can_be_printed_and_used_again() {
    let folder = dataset();
    let at = folder.path();
    let direct = json(&run(at, &format!("--json pretrain {SHORT} --sparsity 0.5 --out direct")));
    let printed = run(at, &format!("pretrain {SHORT} --sparsity 0.5 --print-config"));
    assert!(printed.status.success());
    fs::write(at.join("run.toml"), printed.stdout).expect("write");
    let read = json(&run(at, "--json pretrain --config run.toml --data dataset --out read"));
    assert_eq!(direct["weights_hash"], read["weights_hash"]);
    let config = json(&run(at, "--json pretrain --preset small --print-config"));
    assert_eq!(config["model"]["d_model"], 384);
    let text = fs::read_to_string(at.join("run.toml")).expect("read");
    assert!(text.contains("# Peak learning rate, above 0.\nlr = "), "{text}");
}

/// Lines of a log that is being written.
fn lines(log: &Path) -> usize {
    fs::read_to_string(log).map_or(0, |text| text.lines().count())
}

/// Starts or resumes a run and sends it a signal when it has made a step. False if the run was
/// over before the signal reached it.
fn interrupt(at: &Path, command_line: &str, log: &Path, signal: &str, code: i32) -> bool {
    let before = lines(log);
    let mut child = program(at)
        .args(command_line.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    while lines(log) <= before {
        if child.try_wait().expect("the program can be asked").is_some() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.is_ok());
    let ended = child.wait().expect("the program ends").code();
    assert!(ended == Some(code) || ended == Some(0), "{signal}: exit code {ended:?}");
    ended == Some(code)
}

#[test]
fn a_run_that_was_interrupted_equals_one_that_was_not() {
    let folder = dataset();
    let at = folder.path();
    let settings = "pretrain --preset micro --data dataset --sparsity 0.75 --set train.steps=150 \
                    --set train.batch=4 --set train.micro_batch=2";
    let whole = json(&run(at, &format!("--json --threads 1 {settings} --out whole")));
    let losses = |out: &str| -> Vec<(u64, f64)> {
        let log = fs::read_to_string(at.join(out).join("metrics.jsonl")).expect("read");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|line| (line["step"].as_u64().expect("a step"), number(&line["loss"]))).collect()
    };
    assert_eq!(losses("whole").len(), 150);

    let log = at.join("parts/metrics.jsonl");
    // A busy machine may let a run end before it can be interrupted: then once more.
    let interrupted = (0..20).any(|_| {
        let _ = fs::remove_dir_all(at.join("parts"));
        let start = format!("--threads 2 {settings} --out parts");
        interrupt(at, &start, &log, "-TERM", 143)
            && [("-INT", 130, 1), ("-USR1", 138, 3)].iter().all(|(signal, code, threads)| {
                let resume = "pretrain --resume --data dataset --out parts";
                interrupt(at, &format!("--threads {threads} {resume}"), &log, signal, *code)
            })
    });
    assert!(interrupted, "no run lasted until it was interrupted");
    assert!(lines(&log) < 150);
    let resumed = run(at, "--json --threads 2 pretrain --resume --data dataset --out parts");
    assert!(String::from_utf8_lossy(&resumed.stderr).starts_with("resumed after step "));
    assert_eq!(json(&resumed)["weights_hash"], whole["weights_hash"]);
    assert_eq!(json(&resumed)["val_loss"], whole["val_loss"]);
    assert_eq!(losses("parts"), losses("whole"));
}

#[test]
fn masks_move_and_every_update_is_told() {
    let folder = dataset();
    let at = folder.path();
    for algorithm in ["set", "rigl", "gmp", "one-shot"] {
        let command = format!(
            "--json pretrain {SHORT} --sparsity 0.75 --out {algorithm} \
             --set sparsity.algorithm={algorithm} --set sparsity.update.freq=2 \
             --set sparsity.update={{stop=6}} --set sparsity.drop_fraction.init=0.5"
        );
        let done = run(at, &command);
        let report = json(&done);
        let updates = if algorithm == "one-shot" { 1 } else { 2 };
        assert_eq!(report["mask_updates"], updates, "{algorithm}");
        let layers = report["sparsity"]["layers"].as_object().expect("layers");
        assert_eq!(layers.len(), 8);
        assert!(layers.values().all(|layer| (number(layer) - 0.75).abs() < 1e-3), "{layers:?}");
        let metrics = fs::read_to_string(at.join(algorithm).join("metrics.jsonl")).expect("read");
        let metrics =
            metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let moved: Vec<Value> = metrics.filter(|line| line["masks"].is_object()).collect();
        assert_eq!(moved.len(), updates);
        assert!(moved.iter().all(|line| number(&line["masks"]["seconds"]) > 0.0), "{moved:?}");
        assert_eq!(moved[updates - 1]["masks"]["kept"], report["nnz"]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(said.matches("masks moved, ").count(), updates, "{said}");
        // The model goes on to be used like any other.
        json(&run(at, &format!("--json eval {algorithm} --data dataset")));
    }
}

#[test]
fn impossible_arguments_are_usage_errors() {
    let folder = trained();
    let at = folder.path();
    let before = contents(at);
    let pretrain = "pretrain --preset micro --data dataset --out new";
    for (command_line, says) in [
        (format!("{pretrain} --sparcity 0.5"), "'--sparsity'"),
        (format!("{pretrain} --set train.stesp=3"), "did you mean 'steps'?"),
        (format!("{pretrain} --set trian.steps=3"), "did you mean 'train'?"),
        (format!("{pretrain} --set train.steps"), "train.lr=1e-3"),
        (format!("{pretrain} --set train.steps=many"), "train.steps must be a whole number"),
        (format!("{pretrain} --set train.steps=0"), "train.steps"),
        (format!("{pretrain} --set train.lr=nan"), "train.lr"),
        (format!("{pretrain} --set train.batch=0"), "train.batch"),
        (format!("{pretrain} --set train.context=65"), "model.context"),
        (format!("{pretrain} --set model.heads=3"), "not divisible by model.heads = 3"),
        (format!("{pretrain} --set sparsity.init_method=rigl"), "(known: random, "),
        (
            format!("{pretrain} --set sparsity.groups=[{{param_filter=['*.mpl.*'],sparsity=0}}]"),
            ".mlp.",
        ),
        (format!("{pretrain} --set sparsity.algorithm=rigle"), "did you mean 'rigl'?"),
        (format!("{pretrain} --set sparsity.algorithm=rigl"), "every layer is dense"),
        (format!("{pretrain} --set sparsity.update.fre=3"), "did you mean 'freq'?"),
        (format!("{pretrain} --set sparsity.drop_fraction.init=2"), "must lie in [0, 1]"),
        (format!("{pretrain} --set sparsity.drop_fraction=2"), "must be a table"),
        (format!("{pretrain} --sparsity 1"), "must lie in [0, 1)"),
        (format!("{pretrain} --sparsity -0.5"), "must lie in [0, 1)"),
        (format!("{pretrain} --sparsity nan"), "must lie in [0, 1)"),
        (format!("{pretrain} --sparsity lots"), "--sparsity"),
        (format!("{pretrain} --config run/config.toml"), "--config"),
        ("pretrain --preset smal --data dataset --out new".into(), "did you mean 'small'?"),
        ("pretrain --data dataset --out new".into(), "--preset"),
        ("pretrain --preset micro --out new".into(), "--data"),
        ("pretrain --preset micro --data dataset".into(), "--out"),
        ("pretrain --resume --print-config".into(), "--out"),
        ("pretrian --preset micro".into(), "'pretrain'"),
        ("eval run".into(), "--data"),
        ("generate run".into(), "--prompt"),
        ("generate run --prompt x --temperature -1".into(), "temperature"),
        ("generate run --prompt x --temperature nan".into(), "temperature"),
        ("generate run --prompt x --top-p 0".into(), "top_p"),
        ("generate run --prompt x --top-k 0".into(), "top_k"),
        ("generate run --prompt x --greedy --top-k 3".into(), "--greedy"),
        ("generate run --prompt x --stop=".into(), "--stop"),
        ("flops".into(), "--preset"),
        ("flops --preset xxl".into(), "did you mean 'xl'?"),
        ("flops --preset xl --sparsity 1".into(), "must lie in [0, 1)"),
        ("flops --preset xl --convention table5".into(), "did you mean 'table6'?"),
        ("flops --preset xl --vocabulary 0".into(), "--vocabulary"),
        ("flops --table --sparsity 0.5".into(), "--table"),
        ("doctor --threads 0".into(), "--threads"),
    ] {
        let message = failure(&run(at, &command_line), 2);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
}

#[test]
fn wrong_inputs_are_named_and_nothing_is_overwritten() {
    let folder = trained();
    let at = folder.path();
    json(&run(at, "--json data prepare corpus.jsonl --out other --vocab-size 300"));
    fs::create_dir(at.join("full")).expect("create");
    fs::write(at.join("full/notes.txt"), "mine").expect("write");
    fs::write(at.join("file"), "mine").expect("write");
    fs::write(at.join("bad.toml"), "[model]\npreset = 'micro'\n[train]\nstep = 3\n")
        .expect("write");
    fs::write(at.join("torn.toml"), "[model]\npreset = ").expect("write");
    let before = contents(at);

    let long = "patient-".repeat(100);
    for (command_line, says) in [
        (format!("pretrain {SHORT} --out run"), "--resume"),
        (format!("pretrain {SHORT} --out full"), "notes.txt"),
        (format!("pretrain {SHORT} --out file"), "file"),
        (format!("pretrain {SHORT} --out new --set model.vocabulary=499"), "500"),
        (format!("pretrain {SHORT} --out run --resume"), "sparsity.sparsity is 0.0 here"),
        ("pretrain --data dataset --out run --resume --set train.lr=0.1".into(), "train.lr is 0.1"),
        ("pretrain --data other --out run --resume".into(), "other data"),
        ("pretrain --data dataset --out absent --resume".into(), "absent: holds no run"),
        (format!("pretrain {SHORT} --out absent --resume"), "absent: holds no run"),
        ("pretrain --data dataset --out full --resume".into(), "full: holds no run"),
        ("pretrain --preset micro --data absent --out new".into(), "absent"),
        ("pretrain --preset micro --data full --out new".into(), "full"),
        ("pretrain --config absent.toml --data dataset --out new".into(), "absent.toml"),
        ("pretrain --config bad.toml --data dataset --out new".into(), "did you mean 'steps'?"),
        ("pretrain --config torn.toml --data dataset --out new".into(), "torn.toml:2"),
        ("eval absent --data dataset".into(), "absent: holds no run"),
        ("eval run --data other".into(), "tokenizer"),
        ("eval run --data absent".into(), "absent"),
        ("generate absent --prompt x".into(), "absent: holds no run"),
        (format!("generate run --prompt {long}"), "64 positions"),
    ] {
        let message = failure(&run(at, &command_line), 1);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    let mut after = contents(at);
    // A folder that holds something is locked before it is looked at.
    after.retain(|path, _| !path.ends_with("LOCK"));
    let mut before = before;
    before.retain(|path, _| !path.ends_with("LOCK"));
    assert_eq!(after, before);
}

#[test]
fn too_little_data_is_an_error() {
    let folder = dataset();
    let at = folder.path();
    fs::write(at.join("empty.jsonl"), "").expect("write");
    fs::write(at.join("one.jsonl"), "{\"text\": \"one text of five words\"}\n").expect("write");
    failure(&run(at, "data prepare empty.jsonl --out empty --tokenizer dataset"), 1);
    let all_for_training = "data prepare corpus.jsonl --out all --tokenizer dataset --validation 0";
    assert!(run(at, all_for_training).status.success());
    let short = "data prepare one.jsonl --out one --tokenizer dataset --validation 0";
    assert!(run(at, short).status.success());
    for (data, says) in [("empty", "empty"), ("all", "validation"), ("one", "")] {
        let settings = SHORT.replace("dataset", data);
        let message = failure(&run(at, &format!("pretrain {settings} --out new")), 1);
        assert!(message.contains(says), "{data}: {message}");
        assert!(!at.join("new").exists());
    }
}

#[test]
fn damaged_shards_are_refused() {
    let folder = trained();
    let at = folder.path();
    for split in ["train", "validation"] {
        let shard = at.join(format!("dataset/{split}-00000.bin"));
        let whole = fs::read(&shard).expect("read");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [vec![], whole[..50].to_vec(), whole[..whole.len() - 1].to_vec(), flipped] {
            fs::write(&shard, damaged).expect("write");
            for verb in ["eval run --data dataset".into(), format!("pretrain {SHORT} --out new")] {
                let message = failure(&run(at, &verb), 1);
                assert!(message.contains(&format!("{split}-00000.bin")), "{message}");
            }
        }
        fs::write(&shard, whole).expect("write");
    }
    assert!(!at.join("new").exists());
    json(&run(at, "--json eval run --data dataset"));
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A shard whose sums are right and whose content is not: made by a broken program, not by a
/// broken disk.
#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let folder = trained();
    let at = folder.path();
    let (shard, manifest) =
        (at.join("dataset/validation-00000.bin"), at.join("dataset/dataset.json"));
    let mut bytes = fs::read(&shard).expect("read");
    let sum_before = u32::from_le_bytes(bytes[44..48].try_into().expect("four bytes"));
    bytes[128..130].copy_from_slice(&500u16.to_le_bytes());
    let sum = crc(&bytes[128..]);
    bytes[44..48].copy_from_slice(&sum.to_le_bytes());
    let header_sum = crc(&bytes[..124]);
    bytes[124..128].copy_from_slice(&header_sum.to_le_bytes());
    fs::write(&shard, bytes).expect("write");
    let text = fs::read_to_string(&manifest).expect("read");
    let changed = text.replace(&sum_before.to_string(), &sum.to_string());
    assert_ne!(changed, text, "the manifest names the sum");
    fs::write(&manifest, changed).expect("write");
    let message = failure(&run(at, "eval run --data dataset"), 1);
    assert!(message.contains("validation-00000.bin") && message.contains("500"), "{message}");
}

#[test]
fn damaged_checkpoints_are_refused() {
    let folder = dataset();
    let at = folder.path();
    let keep_one = "--set checkpoint.keep=1 --set checkpoint.every=0";
    json(&run(at, &format!("--json pretrain {SHORT} {keep_one} --sparsity 0.5 --out run")));
    let checkpoint = at.join("run/checkpoints/step-00000006");
    let verbs = [
        "eval run --data dataset",
        "generate run --prompt x",
        "pretrain --resume --data dataset --out run",
    ];
    for name in ["weights.safetensors", "manifest.json"] {
        let file = checkpoint.join(name);
        let whole = fs::read(&file).expect("read");
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        for damaged in [
            vec![],
            whole[..whole.len() / 2].to_vec(),
            flipped(0),
            flipped(whole.len() / 2),
            flipped(whole.len() - 1),
        ] {
            fs::write(&file, damaged).expect("write");
            let before = contents(&checkpoint);
            for verb in verbs {
                let message = failure(&run(at, verb), 1);
                assert!(message.contains(name), "{verb}: {message}");
            }
            assert_eq!(contents(&checkpoint), before);
        }
        fs::remove_file(&file).expect("remove");
        for verb in verbs {
            failure(&run(at, verb), 1);
        }
        fs::write(&file, whole).expect("write");
    }
    json(&run(at, "--json eval run --data dataset"));
}

#[test]
fn a_checkpoint_is_chosen_by_its_step_and_a_damaged_one_is_passed_over_aloud() {
    let folder = dataset();
    let at = folder.path();
    let saved = "--set checkpoint.every=2 --set checkpoint.keep=9";
    let trained = json(&run(at, &format!("--json pretrain {SHORT} {saved} --out run")));
    let verbs = [
        "eval run --data dataset",
        "eval run --data corpus.jsonl",
        "generate run --prompt x --max-tokens 3",
        "score run --text Effects",
        "export hf run --out hf --force",
        "export gguf run --out gguf --force",
    ];
    let call = |verb: &str, options: &str| run(at, &format!("--json {verb} {options}"));
    for verb in verbs {
        let [newest, last, older] =
            ["", "--step 6", "--step 4"].map(|step| json(&call(verb, step)));
        if verb.starts_with("e") {
            assert_eq!([&newest["step"], &older["step"]], [6, 4], "{verb}");
        }
        for key in ["val_loss", "loglikelihood", "text"] {
            assert_eq!(newest[key], last[key], "{verb}");
        }
        assert!(newest["val_loss"].is_null() || newest["val_loss"] != older["val_loss"], "{verb}");
        let none = failure(&run(at, &format!("{verb} --step 5")), 1);
        assert!(none.contains("no checkpoint after step 5 (steps: 2, 4, 6)"), "{verb}: {none}");
        failure(&run(at, &format!("{verb} --step 4 --strict")), 2);
    }

    let weights = at.join("run/checkpoints/step-00000006/weights.safetensors");
    let mut bytes = fs::read(&weights).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).expect("write");
    let damage =
        "step-00000006/weights.safetensors: its BLAKE3 hash is not the one in the manifest";
    for verb in verbs {
        let found = call(verb, "");
        let told = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(told.contains("warning: passed over: ") && told.contains(damage), "{verb}: {told}");
        assert!(told.contains("the model is that after step 4"), "{verb}: {told}");
        let older = json(&call(verb, "--step 4"));
        for key in ["val_loss", "loglikelihood", "text", "step"] {
            assert_eq!(json(&found)[key], older[key], "{verb}");
        }
        let refused = failure(&run(at, &format!("{verb} --strict")), 1);
        assert!(refused.contains(damage), "{verb}: {refused}");
    }
    let resume = "pretrain --resume --data dataset --out run";
    assert!(failure(&run(at, &format!("{resume} --strict")), 1).contains(damage));
    let resumed = run(at, &format!("--json {resume}"));
    let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(told.contains(damage) && told.contains("resumed after step 4"), "{told}");
    assert_eq!(json(&resumed)["weights_hash"], trained["weights_hash"]);
    json(&run(at, "--json eval run --data dataset --strict"));
}

#[test]
fn without_a_terminal_a_run_tells_how_it_gets_on_in_lines_and_may_get_more_steps() {
    let folder = dataset();
    let at = folder.path();
    let steps = |output: &std::process::Output| -> Vec<String> {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines = stderr.lines().filter_map(|line| line.strip_prefix("step "));
        lines.map(|line| line.split("  ").next().unwrap_or_default().to_string()).collect()
    };
    for (number, (option, expected)) in [
        ("", &["1 of 6", "2 of 6", "3 of 6", "4 of 6", "5 of 6", "6 of 6"][..]),
        ("--log-every 4", &["4 of 6"]),
        ("--log-every 0", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let output = run(at, &format!("pretrain {SHORT} --out run-{number} {option}"));
        assert!(output.status.success());
        assert_eq!(steps(&output), expected, "{option}");
    }
    let longer = "--json pretrain --resume --data dataset --out run-0 --set train.steps=8";
    let output = run(at, longer);
    assert_eq!(json(&output)["step"], 8);
    assert_eq!(steps(&output), ["7 of 8", "8 of 8"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("note: all 6 steps are done, and 8 are wanted now: the learning rate"));
    let again = json(&run(at, "--json pretrain --resume --data dataset --out run-0"));
    assert_eq!(again["weights_hash"], json(&output)["weights_hash"]);
    let fewer = "pretrain --resume --data dataset --out run-0 --set train.steps=7";
    assert!(failure(&run(at, fewer), 1).contains("train.steps is 7 here, but 8 there"));
}

#[test]
fn an_instruction_set_that_is_not_there_is_an_error() {
    let folder = dataset();
    let forced = |isa: &str| {
        let arguments = format!("--json pretrain {SHORT} --sparsity 0.5 --out {isa}");
        let mut command = program(folder.path());
        command.args(arguments.split_whitespace()).env("MEDISWIFT_ISA", isa);
        command.output().expect("the program starts")
    };
    let message = failure(&forced("avx1024"), 1);
    assert!(message.contains("MEDISWIFT_ISA") && message.contains("scalar"), "{message}");
    // No machine has both.
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    assert!(failure(&forced(foreign), 1).contains(foreign));
    assert!(!folder.path().join(foreign).exists());
    assert_eq!(json(&forced("scalar"))["step"], 6);
}

#[test]
fn flops_are_those_of_the_paper() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let table = json(&run(at, "--json flops --table"));
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 9);
    assert!(rows.iter().all(|row| number(&row["relative_difference"]).abs() < 0.002));
    let xl = json(&run(at, "--json flops --preset xl --sparsity 0.75"));
    assert!((number(&xl["total_flops"]) / 3.447e20 - 1.0).abs() < 1e-3);
    assert!((number(&xl["ratio_to_dense"]) - 0.377).abs() < 1e-3);
    let parts: f64 = xl["parts"].as_object().expect("parts").values().map(number).sum();
    assert!((parts / number(&xl["total_flops"]) - 1.0).abs() < 1e-9);
    // Half the tokens are half the work; a dense model is all of itself.
    let half = json(&run(at, "--json flops --preset xl --sparsity 0.75 --tokens 52428800000"));
    assert_eq!(2.0 * number(&half["total_flops"]), number(&xl["total_flops"]));
    for convention in ["table6", "hoffmann", "executed"] {
        let flops =
            format!("--json flops --preset tiny --vocabulary 600 --convention {convention}");
        assert_eq!(json(&run(at, &flops))["ratio_to_dense"], 1.0);
    }
}

#[test]
fn the_executed_flops_are_those_that_training_reports() {
    let folder = trained();
    let at = folder.path();
    let report = fs::read(at.join("run/report.json")).expect("read");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let flops = "--json flops --preset micro --sparsity 0.5 --convention executed --vocabulary 500";
    let tokens = 6 * 4 * 64;
    let counted = json(&run(at, &format!("{flops} --tokens {tokens}")));
    let ratio = number(&counted["total_flops"]) / number(&report["flops"]);
    assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
}

#[test]
fn sixteen_bits_without_an_instruction_are_said_to_take_as_long() {
    let folder = dataset();
    for (precision, is_said) in [("f16", true), ("f32", false)] {
        let mut portable = program(folder.path());
        let settings =
            format!("pretrain {SHORT} --out {precision} --set train.precision={precision}");
        portable.env("MEDISWIFT_ISA", "scalar").args(settings.split_whitespace());
        let output = portable.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("multiplies f16 as f32"), is_said, "{said}");
    }
}

#[test]
fn doctor_knows_the_machine() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let found = json(&run(at, "--json doctor --threads 1"));
    assert_eq!(found["threads"]["used"], 1);
    let available = found["isa"]["available"].as_array().expect("a list");
    assert!(available.contains(&found["isa"]["active"]) && available.contains(&"scalar".into()));
    // Portable code multiplies nothing but `f32`.
    let mut portable = program(at);
    portable.env("MEDISWIFT_ISA", "scalar").args(["--json", "doctor"]);
    let portable = json(&portable.output().expect("it starts"));
    assert_eq!(portable["isa"]["fast_precisions"], json!([]));
    let presets = found["presets"].as_array().expect("a list");
    assert!(presets.iter().all(|p| number(&p["sparse75_bytes"]) < number(&p["dense_bytes"])));
    assert!(run(at, "doctor").status.success());
}

#[test]
fn demo_trains_twins_that_can_be_used() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let demo = "--json demo --quick --out demo";
    let report = json(&run(at, demo));
    for twin in ["dense", "sparse"] {
        let val_loss = number(&report[twin]["val_loss"]);
        assert!(val_loss < number(&report["loss_of_ignorance"]) - 0.5, "{twin}: {val_loss}");
        assert!(number(&report[twin]["tokens_per_second"]) > 0.0);
        let evaluation = json(&run(at, &format!("--json eval demo/{twin} --data demo/dataset")));
        assert_eq!(number(&evaluation["val_loss"]), val_loss);
    }
    let speeds = ["sparse", "dense"].map(|twin| number(&report[twin]["tokens_per_second"]));
    let realised = number(&report["realised_speedup"]);
    assert!((speeds[0] / speeds[1] / realised - 1.0).abs() < 1e-9);
    assert!((1.0..4.0).contains(&number(&report["theoretical_speedup"])));
    json(&run(at, "--json generate demo/sparse --prompt Effect --max-tokens 5"));
    let curves = fs::read_to_string(at.join("demo/losses.svg")).expect("the curves");
    assert!(curves.contains("as fast, in theory") && curves.contains("75 % sparse"));

    let before = contents(at);
    assert!(failure(&run(at, demo), 1).contains("--force"));
    assert_eq!(contents(at), before);
    fs::write(at.join("demo/notes.txt"), "mine").expect("write");
    let again = json(&run(at, &format!("{demo} --force --threads 1")));
    assert_eq!(fs::read_to_string(at.join("demo/notes.txt")).expect("read"), "mine");
    // The twins differ in sparsity alone, and nothing depends on threads.
    for twin in ["dense", "sparse"] {
        assert_eq!(again[twin]["weights_hash"], report[twin]["weights_hash"]);
    }
}

#[test]
fn help_explains_with_examples() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for verb in ["demo", "pretrain", "eval", "generate", "flops", "doctor"] {
        let help = run(folder.path(), &format!("{verb} --help"));
        let text = String::from_utf8_lossy(&help.stdout);
        assert!(help.status.success() && text.contains("Example"), "{text}");
    }
}

#[test]
fn a_run_keeps_the_plans_it_started_with() {
    let folder = dataset();
    let at = folder.path();
    fs::write(at.join("plans.toml"), "\"192x64@6144\" = \"csr/csr/csr\"\n").expect("a file");
    let start = format!("--json pretrain {SHORT} --sparsity 0.5");
    let with_plans = json(&run(at, &format!("{start} --out planned --plans plans.toml")));
    let config = fs::read_to_string(at.join("planned/config.toml")).expect("the settings");
    assert!(config.contains("\"192x64@6144\" = \"csr/csr/csr\""), "{config}");
    // The layers that the file does not name have the plans of the cost model.
    for key in ["64x64@2048", "256x64@8192", "64x256@8192"] {
        assert!(config.contains(&format!("\"{key}\" = \"")), "no {key} in {config}");
    }
    // Steps that are done again after a resume give the same weights, so the same plans were used;
    // the newest checkpoint is removed, and the run goes on from the one before.
    let checkpoints = at.join("planned/checkpoints");
    fs::remove_dir_all(checkpoints.join("step-00000006")).expect("the last checkpoint");
    let resumed = json(&run(at, "--json pretrain --resume --data dataset --out planned"));
    assert_eq!(resumed["weights_hash"], with_plans["weights_hash"]);

    fs::write(at.join("bad.toml"), "\"192x64@6144\" = \"fast\"\n").expect("a file");
    let message = failure(&run(at, &format!("pretrain {SHORT} --out x --plans bad.toml")), 1);
    assert!(message.contains("bad.toml") && message.contains("'fast'"), "{message}");
}
