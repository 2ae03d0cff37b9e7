//! Studies end to end: cells, baselines, what is measured of them, the report, and what a study survives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::{contents, failure, json, program, questions, run};
use crate::prepared::prepared;
use mediswift_files::Lock;
use serde_json::Value;
use tempfile::TempDir;

/// Two ways to train, two seeds, and all baselines of one of them.
const STUDY: &str = r#"
title = "Dense and sparse"
about = "Of a few steps."
seeds = [1, 2]

[base]
preset = "micro"
set.model.layers = 1
set.model.d_model = 32
set.train = { steps = 8, batch = 2, context = 32 }
set.eval = { every = 4, sequences = 2 }
set."checkpoint.every" = 3

[[arm]]
name = "dense"

[[arm]]
name = "sparse"
label = "three quarters left out"
set.sparsity.sparsity = 0.75
baselines = ["equal-active", "equal-flops", "equal-seconds"]

[[evaluate]]
data = "held"
arms = ["dense", "sparse"]

[[finetune]]
task = "pubmedqa"
data = "qa"
arms = ["sparse"]
set.finetune = { epochs = 1, seeds = 1, batch = 40, lr = 1e-3, prompt_tokens = 1, stages = [] }

[[table]]
title = "All of it"
columns = ["kept", "tokens", "flops", "seconds", "speed", "train_loss", "loss", "gap", "theory", "realised",
           "to_loss", "sooner", "held", "pubmedqa"]

[[figure]]
name = "losses"

[[figure]]
name = "pareto"
kind = "pareto"
x = "flops"
"#;

const CALL: &str =
    "--json study study.toml --data dataset --data held=corpus.jsonl --data qa=qa --out out";

/// A folder with texts, a dataset and a task's files.
fn world(study: &str) -> TempDir {
    let folder = prepared(150, "--vocab-size 400 --validation 0.1");
    let at = folder.path();
    fs::create_dir(at.join("qa")).expect("create");
    fs::write(at.join("qa/ori_pqal.json"), questions().to_string()).expect("write");
    fs::write(at.join("study.toml"), study).expect("write");
    folder
}

/// Files of a folder, without what is below others.
fn flat(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = contents(folder);
    all.into_iter().filter(|(path, _)| path.parent() == Some(folder)).collect()
}

/// Hashes of the models by cell.
fn hashes(cells: &Value) -> BTreeMap<String, String> {
    let rows = cells.as_array().expect("a list").iter();
    let trained = rows.filter(|cell| cell["work"] == "pretrain");
    let text = |cell: &Value, key: &str| cell[key].as_str().expect("a text").to_string();
    trained.map(|cell| (text(cell, "cell"), text(cell, "weights_hash"))).collect()
}

#[test]
fn a_study_trains_measures_and_reports_and_knows_what_is_finished() {
    let folder = world(STUDY);
    let at = folder.path();
    let planned = json(&run(at, "--json study study.toml --out out --plan"));
    assert_eq!(planned["cells"].as_array().expect("cells").len(), 16);
    assert!(!at.join("out").exists(), "a plan writes nothing");

    let done = json(&run(at, &format!("{CALL} --jobs 2 --threads 2")));
    let cells = done["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 16);
    let cell = |name: &str| {
        let found = cells.iter().find(|cell| cell["cell"] == name);
        found.unwrap_or_else(|| panic!("no cell {name}: {cells:?}")).clone()
    };
    // A layer of 12 × 32² weights; half as wide has a quarter.
    assert_eq!(cell("dense-seed1")["nnz"], 12_288);
    assert_eq!(cell("sparse-seed2")["nnz"], 3_072);
    let narrow = cell("sparse-equal-active-seed1");
    assert_eq!((narrow["nnz"].as_u64(), narrow["step"].as_u64()), (Some(3_072), Some(8)));
    let (flops, step) = (cell("sparse-equal-flops-seed1"), cell("dense-seed1"));
    let ratio = flops["flops"].as_f64().expect("FLOPs")
        / cell("sparse-seed1")["flops"].as_f64().expect("FLOPs");
    let one_step = step["flops"].as_f64().expect("FLOPs") / 8.0;
    let off = one_step / cell("sparse-seed1")["flops"].as_f64().expect("FLOPs") / 2.0;
    assert!((ratio - 1.0).abs() <= off + 1e-9, "{ratio} is more than half a step off");
    assert!(cell("sparse-equal-seconds-seed2")["step"].as_u64() >= Some(1));
    assert!(cell("dense-seed1-held")["val_loss"].as_f64() > Some(1.0));
    assert_eq!(cell("sparse-seed1-pubmedqa")["per_seed"].as_array().map(Vec::len), Some(1));
    assert_eq!(cell("dense-seed1")["machine"]["jobs"], 2);
    assert_eq!(cell("dense-seed1")["machine"]["threads"], 1);

    // A seed changes what it should, and a cell is the run that anybody can make.
    assert_ne!(cell("dense-seed1")["weights_hash"], cell("dense-seed2")["weights_hash"]);
    let own = json(&run(
        at,
        "--json pretrain --config out/cells/sparse-seed2.toml --data dataset --out own",
    ));
    assert_eq!(own["weights_hash"], cell("sparse-seed2")["weights_hash"]);

    let out = at.join("out");
    let report = flat(&out);
    let names: Vec<&str> = report.keys().filter_map(|path| path.file_name()?.to_str()).collect();
    let expected = [
        "losses.png",
        "losses.svg",
        "pareto.png",
        "pareto.svg",
        "report.csv",
        "report.json",
        "report.md",
    ];
    assert_eq!(names, expected);
    let text = fs::read_to_string(out.join("report.md")).expect("read");
    for part in [
        "# Dense and sparse",
        "| three quarters left out | 2 | 3,072 |",
        " ± ",
        "pareto.svg",
        "held: loss on it",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let table: Value = serde_json::from_slice(&report[&out.join("report.json")]).expect("JSON");
    let rows = &table["chapters"][0]["tables"][0]["rows"];
    assert_eq!(rows.as_array().map(Vec::len), Some(5));
    assert_eq!(rows[0]["values"]["realised"]["count"], 2);
    assert_eq!(rows[0]["values"]["pubmedqa"], Value::Null);
    assert_eq!(rows[1]["values"]["pubmedqa"]["count"], 2);
    let lines = fs::read_to_string(out.join("report.csv")).expect("read");
    assert_eq!(lines.lines().count(), 17);

    // The records alone are enough for the report, and for knowing that there is nothing to do.
    for entry in fs::read_dir(out.join("cells")).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("remove");
        }
    }
    for name in expected {
        fs::remove_file(out.join(name)).expect("remove");
    }
    for again in ["--json study study.toml --out out --report", CALL] {
        let known = run(at, again);
        assert!(!String::from_utf8_lossy(&known.stderr).contains("begins"), "{known:?}");
        assert_eq!(json(&known)["cells"], done["cells"]);
        assert!(flat(&out) == report, "the report differs after {again}");
    }
    let sizes = fs::read_dir(out.join("cells")).expect("list").map(|entry| {
        let length = entry.expect("entry").metadata().expect("metadata").len();
        assert!(length < 20_000, "a record is small");
        length
    });
    assert!(sizes.sum::<u64>() < 100_000);

    // Another chapter shares the cells that it has in common, and trains the rest.
    let other = STUDY
        .replace("\"dense\"\n", "\"dense\"\nseeds = [1, 3]\n")
        .replace("name = \"losses\"", "name = \"more\"");
    let other =
        other.replace("name = \"pareto\"", "name = \"points\"").replace("baselines", "# baselines");
    fs::write(at.join("other.toml"), other).expect("write");
    let both = run(at, &CALL.replace("study.toml", "study.toml other.toml"));
    let begun =
        String::from_utf8_lossy(&both.stderr).lines().filter(|l| l.ends_with("begins")).count();
    // The run of folders that are gone cannot be evaluated, but a new one can.
    assert_eq!(begun, 2, "{}", String::from_utf8_lossy(&both.stderr));
    assert_eq!(json(&both)["cells"].as_array().map(Vec::len), Some(18));
    let text = fs::read_to_string(out.join("report.md")).expect("read");
    assert_eq!(text.matches("# Dense and sparse").count(), 2);
}

/// Two cells that take long enough to be interrupted.
const LONG: &str = r#"
[base]
preset = "micro"
set.train = { steps = 60, batch = 4, micro_batch = 1 }
set.eval = { every = 20, sequences = 4 }
set.checkpoint.every = 20
[[arm]]
name = "sparse"
vary.sparsity.sparsity = [0.5, 0.75, 0.9]
"#;

#[test]
fn a_study_that_is_interrupted_goes_on_and_ends_as_if_it_never_was() {
    let folder = world(LONG);
    let at = folder.path();
    let call = "--json study study.toml --data dataset";
    let whole = json(&run(at, &format!("{call} --out whole")));
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let out = format!("parts{code}");
        let mut child = program(at)
            .args(format!("{call} --out {out} --jobs 2").split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let metrics = at.join(&out).join("cells/sparse-sparsity0.5-seed1/metrics.jsonl");
        while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 2
            && child.try_wait().expect("a state").is_none()
        {
            sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok());
        let ended = child.wait_with_output().expect("its output");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        if ended.status.code() == Some(0) {
            println!("not struck: it was too fast");
        } else {
            assert_eq!(ended.status.code(), Some(code), "{stderr}");
            let stopped: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
            assert_eq!(stopped["interrupted"], code - 128);
            assert!(stderr.contains("the same command goes on"), "{stderr}");
            let checkpoints = at.join(&out).join("cells/sparse-sparsity0.5-seed1/checkpoints");
            let saved = fs::read_dir(checkpoints).expect("list").count();
            assert!(saved > 0, "what was under way is saved");
        }
        let parts = json(&run(at, &format!("{call} --out {out}")));
        assert_eq!(hashes(&parts["cells"]), hashes(&whole["cells"]));
        assert_eq!(hashes(&whole["cells"]).len(), 3);
    }
}

#[test]
fn cells_of_a_study_that_is_killed_save_themselves_and_end() {
    let endless =
        LONG.replace("steps = 60", "steps = 1000000").replace("every = 20", "every = 1000000");
    let folder = world(&endless);
    let at = folder.path();
    let call = "--json study study.toml --data dataset --out out --jobs 2";
    let mut study = program(at)
        .args(call.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let cells = ["0.5", "0.75"].map(|sparsity| {
        let cell = at.join(format!("out/cells/sparse-sparsity{sparsity}-seed1"));
        while fs::read_to_string(cell.join("metrics.jsonl")).unwrap_or_default().is_empty() {
            assert!(study.try_wait().expect("a state").is_none(), "it ended by itself");
            sleep(Duration::from_millis(1));
        }
        cell
    });
    study.kill().expect("it is killed");
    study.wait().expect("it ends");
    for cell in cells {
        // A step takes milliseconds, all of them hours.
        let is_free = || Lock::take(&cell.join("LOCK")).expect("a lock").is_some();
        let ended = (0..6000).any(|_| is_free() || (sleep(Duration::from_millis(10)), false).1);
        assert!(ended, "{} goes on", cell.display());
        let saved = fs::read_dir(cell.join("checkpoints")).expect("list").count();
        assert!(saved > 0, "{} is not saved", cell.display());
    }
}

#[test]
fn other_data_under_what_is_finished_is_noticed() {
    let folder = world(
        "[base]
        preset = 'micro'
        set.model = { layers = 1, d_model = 32 }
        set.train = { steps = 2, batch = 2, context = 16 }
        set.eval.sequences = 1
        [[arm]]
        name = 'a'
        [[evaluate]]
        data = 'file'
        [[evaluate]]
        data = 'held'
        [[finetune]]
        task = 'pubmedqa'
        data = 'qa'
        set.finetune = { epochs = 1, seeds = 1, batch = 40, lr = 1e-3, prompt_tokens = 1, stages = [] }",
    );
    let at = folder.path();
    let call = |data: &str| run(at, &format!("study study.toml --out out --data dataset {data}"));
    let all = "--data file=corpus.jsonl --data held=dataset --data qa=qa";
    json(&run(at, &format!("--json study study.toml --out out --data dataset {all}")));
    let before = contents(&at.join("out/cells"));
    for name in ["file", "held", "pubmedqa"] {
        let record = &before[&at.join(format!("out/cells/a-seed1-{name}.json"))];
        let record: Value = serde_json::from_slice(record).expect("JSON");
        assert_eq!(record["data"].as_str().map(str::len), Some(64), "{name}: {record}");
    }

    json(&run(at, "--json data synth --documents 150 --seed 5 --out other.jsonl"));
    let prepare =
        "--json data prepare other.jsonl --out others --validation 0.1 --tokenizer dataset";
    json(&run(at, prepare));
    fs::create_dir(at.join("qb")).expect("create");
    let mut questions = questions();
    questions["1007"]["QUESTION"] = "Is it another?".into();
    fs::write(at.join("qb/ori_pqal.json"), questions.to_string()).expect("write");
    // What is no example makes no difference.
    fs::write(at.join("qa/README"), "Questions.").expect("write");
    for (data, cell) in [
        ("--data file=other.jsonl", "a-seed1-file"),
        ("--data held=others", "a-seed1-held"),
        ("--data qa=qb", "a-seed1-pubmedqa"),
    ] {
        let message = failure(&call(data), 1);
        let expected =
            format!("{cell}.json: the cell was finished with other settings: the data is another");
        assert!(message.contains(&expected), "{message}");
    }
    let known = call(all);
    assert!(!String::from_utf8_lossy(&known.stderr).contains("begins"), "{known:?}");
    assert!(known.status.success() && contents(&at.join("out/cells")) == before);
}

#[test]
fn what_cannot_be_studied_is_refused_in_one_line_and_nothing_is_lost() {
    let arm = "[[arm]]\nname = 'a'\n";
    let base = "[base]\npreset = 'micro'\nset.train = { steps = 2, batch = 2, context = 16 }\nset.eval.sequences = 1\n";
    let folder = world(&format!("{base}{arm}"));
    let at = folder.path();
    let report = "study study.toml --out out --report";
    assert!(failure(&run(at, report), 1).contains("no cell of this study is finished yet"));
    for (study, expected) in [
        (format!("{base}{arm}{arm}"), "arm[2]: another arm is called 'a' too"),
        (
            format!("{base}{arm}[[arm]]\nname = 'b'\n"),
            "cells 'a-seed1' and 'b-seed1' are the same run",
        ),
        (
            format!("{base}[[arm]]\nname = 'a'\nvary.train.lr = [1e-3, 0.001]\n"),
            "another arm is called 'a-lr0.001' too",
        ),
        (base.to_string(), "has no [[arm]]"),
        (arm.to_string(), "arm[1]: name a preset or a config"),
        (format!("{base}{arm}[tabel]\n"), "unknown key 'tabel': did you mean 'table'?"),
        (format!("{base}[[arm]]\nnam = 'a'\n"), "arm[1]: unknown key 'nam': did you mean 'name'?"),
        (format!("{base}[[arm]]\nname = '../a'\n"), "'../a' is no name of a file"),
        (format!("{base}{arm}set.train.stesp = 3\n"), "unknown key 'stesp': did you mean 'steps'?"),
        (format!("{base}{arm}set.train.seed = 3\n"), "train.seed: choose seeds with seeds ="),
        (format!("{base}{arm}set.steps = 3\n"), "arm[1].set.steps must be a table of settings"),
        (
            format!("{base}{arm}set.sparsity.sparsity = 1.5\n"),
            "sparsity.sparsity: is 1.5, but must",
        ),
        (format!("{base}{arm}baselines = 'equal'\n"), "unknown baseline 'equal'"),
        (
            format!("{base}{arm}set.sparsity.sparsity = 0.5\nbaselines = 'equal-seconds'\n"),
            "arm 'a': equal-seconds needs the speed of its dense twin",
        ),
        (format!("{base}{arm}seeds = [1, 1]\n"), "seed 1 is there twice"),
        (
            format!("{base}{arm}[[table]]\ncolumns = ['los']\n"),
            "unknown column 'los': did you mean 'loss'?",
        ),
        (format!("{base}{arm}[[table]]\narms = ['b']\n"), "unknown arm 'b': did you mean 'a'?"),
        (format!("{base}{arm}[[finetune]]\ntask = 'hok'\n"), "did you mean 'hoc'?"),
        (
            format!("{base}{arm}[[figure]]\nname = 'f'\nx = 'loss'\n"),
            "among tokens, flops and seconds",
        ),
        (
            format!("{base}{arm}[[figure]]\nname = 'f'\ny = 'seconds'\n"),
            "losses have no y but the loss",
        ),
        (format!("{base}{arm}[[evaluate]]\ndata = 'loss'\n"), "'loss' is a column already"),
        ("title = ".to_string(), "study.toml:1: "),
    ] {
        fs::write(at.join("study.toml"), &study).expect("write");
        let message = failure(&run(at, "study study.toml --data dataset --out out"), 1);
        assert!(message.contains(expected), "{study}: {message}");
        assert!(!at.join("out").exists(), "{study}");
    }

    // An arm is one way to train, in all files.
    fs::write(at.join("study.toml"), format!("{base}{arm}")).expect("write");
    let other = format!("{base}{arm}set.train.lr = 2e-3\nseeds = [2]\n");
    fs::write(at.join("other.toml"), other).expect("write");
    let message = failure(&run(at, "study study.toml other.toml --data dataset --out out"), 1);
    assert!(message.contains("arm 'a' has other settings than in an earlier file"), "{message}");

    fs::write(at.join("study.toml"), format!("{base}{arm}[[finetune]]\ntask = 'hoc'\n"))
        .expect("write");
    let call = "study study.toml --data dataset --out out";
    let message = failure(&run(at, call), 2);
    assert!(message.contains("--data hoc=D"), "{message}");
    let message = failure(&run(at, &format!("{call} --data hoc=nowhere")), 1);
    assert!(message.contains("nowhere: there is no such data"), "{message}");
    let message = failure(&run(at, &format!("{call} --data hoc=a --data hoc=b")), 2);
    assert!(message.contains("hoc is given twice"), "{message}");
    assert!(failure(&run(at, "study study.toml --out out"), 2).contains("--data D"));

    // One cell fails, its fine-tuning with it; the other is reported.
    let study = format!(
        "{base}{arm}[[arm]]\nname = 'b'\nset.train.lr = 1e30\n[[finetune]]\ntask = 'hoc'\narms = 'b'\n"
    );
    fs::write(at.join("study.toml"), study).expect("write");
    let failed = run(at, &format!("{call} --data hoc=qa"));
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().expect("a line");
    assert!(last.starts_with("error: 2 of 3 cells failed"), "{stderr}");
    assert!(last.contains("b-seed1: ") && last.contains("b-seed1-hoc: it needs b-seed1"), "{last}");
    assert!(
        fs::read_to_string(at.join("out/report.md"))
            .expect("read")
            .contains("Not finished: b-seed1")
    );

    // The file changes under what is finished, and under what has only begun.
    let before = contents(&at.join("out"));
    fs::write(at.join("study.toml"), format!("{base}{arm}set.train.lr = 2e-3\n")).expect("write");
    let message = failure(&run(at, call), 1);
    assert!(
        message.contains("out/cells/a-seed1.json: the cell was finished with other settings"),
        "{message}"
    );
    assert!(message.contains("train.lr is 0.002 here, but 0.003 there"), "{message}");
    fs::write(at.join("study.toml"), format!("{base}[[arm]]\nname = 'b'\nset.train.lr = 2e-3\n"))
        .expect("write");
    let message = failure(&run(at, call), 1);
    assert!(
        message.contains("out/cells/b-seed1.toml: the cell was started with other settings"),
        "{message}"
    );
    fs::write(at.join("study.toml"), format!("{base}{arm}")).expect("write");
    json(&run(at, "--json data synth --documents 150 --seed 5 --out other.jsonl"));
    json(&run(
        at,
        "--json data prepare other.jsonl --out others --vocab-size 400 --validation 0.1",
    ));
    fs::write(
        at.join("study.toml"),
        format!("{base}{arm}[[arm]]\nname = 'c'\nset.train.lr = 4e-3\n"),
    )
    .expect("write");
    let message = failure(&run(at, "study study.toml --data others --out out"), 1);
    assert!(message.contains("the data is another"), "{message}");
    let after = contents(&at.join("out"));
    assert!(
        before.iter().all(|(path, bytes)| path.ends_with("LOCK") || after[path] == *bytes),
        "nothing is lost"
    );
}

#[test]
fn the_studies_of_the_results_are_valid_and_their_report_is_what_the_records_say() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results");
    for (results, cells) in [(results.join("sixteen-bits"), 6), (results, 30)] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = folder.path();
        let entries =
            fs::read_dir(&results).expect("list").map(|entry| entry.expect("entry").path());
        let is_study = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "toml");
        let mut studies: Vec<PathBuf> = entries.filter(is_study).collect();
        studies.sort();
        let study = |options: &[&str]| {
            let mut command = program(at);
            command.args(["--json", "study", "--out", "out", "--cells"]).arg(results.join("cells"));
            json(&command.args(&studies).args(options).output().expect("the program starts"))
        };
        assert!(study(&["--plan"])["cells"].as_array().map_or(0, Vec::len) >= cells);
        study(&["--report"]);
        let reported = contents(&at.join("out"));
        assert!(!reported.is_empty(), "there is a report");
        for (path, bytes) in reported {
            let known = results.join(path.file_name().expect("a name"));
            let is_same = fs::read(&known).is_ok_and(|known| known == bytes);
            assert!(
                is_same,
                "{} is out of date: make it again with 'mediswift study FOLDER/*.toml --out FOLDER --report'",
                known.display()
            );
        }
    }
}
