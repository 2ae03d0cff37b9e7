//! Every command of README and docs does what it says: it runs here, on little data and the smallest
//! models, or is one of those in `tests/long.sh`, which need a network, other programs or minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{json, questions, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What commands are cut down by: the first text that a line contains decides, and what is behind it is
/// added to the line. Later options win.
const SMALLER: [(&str, &str); 8] = [
    ("--print-config", ""),
    ("pretrain --resume", ""),
    ("mediswift pretrain", SMALL),
    (
        "mediswift finetune",
        "--set finetune.epochs=1 --set finetune.seeds=1 --set finetune.batch=40",
    ),
    ("mediswift bench step", "--preset micro --set train.context=32 --steps 1"),
    ("--mask pruned.smtx", "--tokens 32 --rounds 2"),
    (" bench layer", "--shape 64x96 --tokens 32 --rounds 2"),
    ("mediswift import hf", "--set train.steps=2 --set train.batch=2"),
];

const SMALL: &str = "--set model.layers=1 --set model.d_model=16 --set model.heads=2 \
     --set model.context=160 --set train.context=32 --set train.steps=3 --set train.batch=2 \
     --set train.micro_batch=2 --set eval.every=1 --set eval.sequences=2 \
     --set sparsity.update.freq=1";

/// What stands for sizes, names and dots of the documents.
const REPLACED: [(&str, &str); 11] = [
    ("--vocab-size 4096", "--vocab-size 400"),
    ("--vocab-size 16384", "--vocab-size 400"),
    ("--vocab-size 8192", "--vocab-size 400"),
    ("bench step --preset med", "bench step"),
    ("--shape 3072x1024", ""),
    ("--shape 1024x1024,4096x1024", ""),
    ("--shape 4096x4096", ""),
    ("--shape $S", ""),
    ("RUN ", "run "),
    ("plans.toml …", "plans.toml --preset micro --data dataset --out planned"),
    ("docs/speedup.svg", "speedup.svg"),
];

/// Documents and the lines of their `sh` blocks.
fn commands() -> Vec<(PathBuf, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs =
        fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("entry").path());
    let mut files: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    files.push(root.join("README.md"));
    files.sort();
    let of_file = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("read").replace("\\\n", " ");
        let (mut inside, mut lines) = (false, Vec::new());
        for line in text.lines() {
            if line.starts_with("```") {
                inside = line == "```sh";
            } else if inside {
                lines.push(without_comment(line));
            }
        }
        lines.retain(|line| !line.is_empty());
        (path, lines)
    };
    files.into_iter().map(of_file).collect()
}

/// A line without the comment at its end, and with single blanks.
fn without_comment(line: &str) -> String {
    let line = if line.starts_with('#') { "" } else { line };
    let line = line.split_once("  #").map_or(line, |(command, _)| command);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lines of `tests/long.sh`.
fn long() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/long.sh");
    let text = fs::read_to_string(path).expect("read").replace("\\\n", " ");
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// A command as it is run here.
fn in_the_small(command: &str) -> String {
    let mut small = format!("{command} ");
    for (from, to) in REPLACED {
        small = small.replace(from, to);
    }
    let added =
        SMALLER.iter().find(|(part, _)| small.contains(part)).map_or("", |(_, added)| added);
    let (first, rest) = match small.split_once(['|', '>', '&']) {
        Some((first, _)) => small.split_at(first.len()),
        None => (&*small, ""),
    };
    let vocabulary = match first.contains("data prepare") {
        true if !first.contains("--tokenizer") && !first.contains("--vocab-size") => {
            "--vocab-size 400"
        }
        _ => "",
    };
    format!("{first} {added} {vocabulary} {rest}")
}

#[track_caller]
fn shell(at: &Path, script: &str) {
    if let Err(error) = try_shell(at, script) {
        panic!("{error}");
    }
}

/// Runs a script in a folder, with the program on the path; the error is all that it says.
fn try_shell(at: &Path, script: &str) -> Result<(), String> {
    let program = Path::new(env!("CARGO_BIN_EXE_mediswift"));
    let folder = program.parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").expect("a path");
    let done = Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .env("PATH", format!("{folder}:{path}"))
        .env_remove("MEDISWIFT_ISA")
        .current_dir(at)
        .output()
        .expect("bash starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("{script}\n{stderr}")),
    }
}

/// Everything that documents speak of: texts, a tokenizer's files, tasks, runs.
fn world(at: &Path) {
    let document = |i: usize| {
        let (labels, text) = match i % 3 {
            0 => (vec![], "Nothing"),
            _ => (vec!["resisting cell death"], "Cells die"),
        };
        let part = ["train", "train", "dev", "test"][i % 4];
        let sentence = format!("{text} {i}.");
        json!({ "pmid": i, "sentences": [sentence], "sentence_labels": [labels], "blurb_split": part })
    };
    let documents: String = (0..40).map(|i| format!("{}\n", document(i))).collect();
    for folder in ["pubmedqa", "hoc", "bioasq", "pubmed", "corpus", "more", "runs", "recipes"] {
        fs::create_dir(at.join(folder)).expect("create");
    }
    fs::write(at.join("pubmedqa/ori_pqal.json"), questions().to_string()).expect("write");
    fs::write(at.join("hoc/hoc_documents.jsonl"), documents).expect("write");
    fs::write(at.join("text.txt"), "Aspirin inhibits platelets.\nInsulin does not.\n")
        .expect("write");
    fs::write(at.join("pruned.smtx"), "4, 4, 5\n0 2 3 4 5\n0 1 1 2 3\n").expect("write");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    for recipe in fs::read_dir(recipes).expect("recipes").map(|entry| entry.expect("entry")) {
        fs::copy(recipe.path(), at.join("recipes").join(recipe.file_name())).expect("copy");
    }
    studies(at);
    json(&run(at, "--json data synth --documents 150 --seed 4 --out corpus.jsonl"));
    let citations: String = fs::read_to_string(at.join("corpus.jsonl"))
        .expect("read")
        .lines()
        .zip(1..)
        .map(|(line, number)| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let text = |key: &str| record[key].as_str().expect("a text").replace('<', "&lt;");
            format!(
                "<PubmedArticle><MedlineCitation Status=\"MEDLINE\"><PMID>{number}</PMID><Article>\
                 <ArticleTitle>{}</ArticleTitle><Abstract><AbstractText>{}</AbstractText></Abstract>\
                 <Language>eng</Language></Article></MedlineCitation></PubmedArticle>\n",
                text("title"),
                text("abstract")
            )
        })
        .collect();
    let xml = format!("<PubmedArticleSet>\n{citations}</PubmedArticleSet>\n");
    fs::write(at.join("pubmed26n0001.xml"), xml).expect("write");
    shell(
        at,
        "gzip -c pubmed26n0001.xml > pubmed/pubmed26n0001.xml.gz
         head -n 40 corpus.jsonl | gzip > more.jsonl.gz
         cp more.jsonl.gz abstracts.jsonl.gz
         cp more.jsonl.gz articles-0.jsonl.gz
         tail -n 40 corpus.jsonl | gzip > articles-1.jsonl.gz
         cp more.jsonl.gz more/; cp corpus.jsonl corpus/; cp -r pubmed pubmed_abstracts
         tail -n 60 corpus.jsonl > articles.jsonl; tar -czf articles.tar.gz articles.jsonl",
    );
    json(&run(
        at,
        "--json data prepare corpus.jsonl --out dataset --vocab-size 400 --validation 0.1",
    ));
    for name in ["dense", "run", "runs/small-dense", "runs/small-50"] {
        json(&run(
            at,
            &format!("--json pretrain --preset micro {SMALL} --data dataset --out {name}"),
        ));
    }
    json(&run(at, "--json export hf run --out gpt2"));
    let tune = "--json finetune pubmedqa --from run --data pubmedqa --set finetune.epochs=1 \
                --set finetune.seeds=1 --set finetune.batch=40 --set finetune.lr=1e-3";
    for name in ["another", "tuned"] {
        json(&run(at, &format!("{tune} --out {name}")));
    }
    shell(
        at,
        "mediswift tokenizer export --tokenizer dataset --out exported
         cp exported/vocab.json encoder.json; cp exported/merges.txt vocab.bpe
         printf 'a@@ 9\\nb@@ 8\\nab@@ 7\\na 3\\nb 2\\n' > dict.txt; echo 'a b 5' > bpecodes",
    );
}

/// The studies of the documents; the one that runs here in the small.
fn studies(at: &Path) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::create_dir(at.join("docs")).expect("create");
    // Of these only plans and reports are made here.
    shell(at, &format!("cp -r {} docs/results", docs.join("results").display()));
    let text = fs::read_to_string(docs.join("four-cells.toml")).expect("read");
    let small = text.replace("\"tiny\"", "\"micro\"").replace("steps = 500", "steps = 4");
    fs::write(at.join("docs/four-cells.toml"), small.replace("every = 50", "every = 2"))
        .expect("write");
}

#[test]
fn commands_stand_in_blocks_that_are_looked_at() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut problems = Vec::new();
    for (path, _) in commands().iter().filter(|(path, _)| !path.ends_with("reference.md")) {
        let text = fs::read_to_string(path).expect("read");
        let mut block = None;
        for (line, number) in text.lines().zip(1..) {
            if let Some(kind) = line.strip_prefix("```") {
                block = if block.is_some() { None } else { Some(kind) };
                continue;
            }
            let first = line.split(' ').next().expect("a word");
            let is_command = ["mediswift", "cargo", "mpirun", "srun", "pip"].contains(&first)
                && !line.contains(" = ");
            if is_command && block.is_some_and(|kind| kind != "sh") {
                let path = path.strip_prefix(root).expect("a file of the repository");
                problems.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "mark these as ```sh: {}", problems.join("\n"));
}

#[test]
fn the_first_study_of_the_documents_is_the_file_that_they_name() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let read = |name: &str| fs::read_to_string(docs.join(name)).expect("read");
    let text = read("studies.md");
    let (_, block) = text.split_once("```toml\n").expect("a study");
    let (block, _) = block.split_once("```").expect("its end");
    let file = read("four-cells.toml");
    let kept = |line: &&str| !line.starts_with(['#', 'a']);
    assert!(file.lines().filter(kept).eq(block.lines()), "{block}");
}

/// A folder in memory, if the system has one: commands wait for the disk more than for anything else.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("temporary folder")
}

#[test]
fn every_command_is_run_here_or_in_the_long_script() {
    let (long, mut failures) = (long(), Vec::new());
    let beginning = folder();
    world(beginning.path());
    for (path, lines) in commands() {
        let folder = folder();
        let at = folder.path();
        shell(at, &format!("cp -r {}/. .", beginning.path().display()));
        let here = lines.iter().filter(|line| !long.contains(line.as_str()));
        let script: Vec<String> = here.map(|line| made_room(line) + &in_the_small(line)).collect();
        println!("{}: {} commands, {} of them here", path.display(), lines.len(), script.len());
        let done = try_shell(at, &format!("set -x\n{}", script.join("\n")));
        failures.extend(done.err().map(|error| format!("{}: {error}", path.display())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Documents begin with nothing: what a command makes is moved out of its way.
fn made_room(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let out = words.windows(2).find(|pair| pair[0] == "--out").map(|pair| pair[1]);
    let goes_on = command.contains("--resume") || command.contains("--report");
    match out.filter(|_| !goes_on) {
        Some(out) => format!("rm -rf before && if [ -e {out} ]; then mv {out} before; fi\n"),
        None => String::new(),
    }
}
