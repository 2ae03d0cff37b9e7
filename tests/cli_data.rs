//! The data verbs of the command line, run as a user would run them.
//!
//! Whatever goes wrong must end in one clear line on stderr, the documented exit code, no panic,
//! and everything on disk as it was.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use common::{contents, failure, json, program, run};
use serde_json::Value;
use tempfile::TempDir;

fn with_stdin(folder: &Path, command_line: &str, input: &[u8]) -> Output {
    let mut child = program(folder)
        .args(command_line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(input).expect("stdin is read");
    child.wait_with_output().expect("the program ends")
}

/// A folder with `corpus.jsonl` and `dataset/`.
fn prepared() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    json(&run(folder.path(), "--json data synth --documents 120 --seed 4 --out corpus.jsonl"));
    let prepare =
        "--json data prepare corpus.jsonl --out dataset --vocab-size 600 --validation 0.2";
    json(&run(folder.path(), prepare));
    folder
}

#[test]
fn synthesise_prepare_encode_decode() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let made = json(&run(at, "--json data synth --documents 150 --out corpus.jsonl.gz"));
    assert_eq!(made["documents"], 150);

    let prepare = "data prepare corpus.jsonl.gz --out dataset --vocab-size 500 --json --threads 2";
    let dataset = json(&run(at, prepare));
    assert_eq!(dataset["documents"], 150);
    assert_eq!(dataset["vocab_size"], 500);
    let tokens = |split: &str| dataset[split]["tokens"].as_u64().expect("a number");
    assert_eq!(dataset["tokens"], tokens("train") + tokens("validation"));
    assert_eq!(dataset["dropped"]["duplicate"], 0);

    let text = "Naïve patients don't <|endoftext|>\tlike 42 α-blockers.";
    let encode = ["--json", "tokenizer", "encode", "--tokenizer", "dataset", text];
    let ids = json(&program(at).args(encode).output().expect("the program starts"))["ids"].clone();
    assert!(ids.as_array().is_some_and(|ids| ids.iter().all(|id| id.as_u64() != Some(0))));
    let decode = "--json tokenizer decode --tokenizer dataset/tokenizer.json";
    let decoded = json(&with_stdin(at, decode, ids.to_string().as_bytes()));
    assert_eq!(decoded["text"], text);

    let encoded = with_stdin(at, "tokenizer encode --tokenizer dataset", b"two\nlines\n");
    let decoded = with_stdin(at, "tokenizer decode --tokenizer dataset", &encoded.stdout);
    assert_eq!(decoded.stdout, b"two\nlines\n");
}

#[test]
fn a_trained_tokenizer_can_be_used_to_prepare() {
    let folder = prepared();
    let at = folder.path();
    let train = "--json tokenizer train corpus.jsonl --vocab-size 400 --out tok.json";
    let trained = json(&run(at, train));
    assert_eq!(trained["vocab_size"], 400);
    let dataset = json(&run(at, "--json data prepare corpus.jsonl --out d2 --tokenizer tok.json"));
    assert_eq!(dataset["vocab_size"], 400);
    assert_eq!(dataset["tokenizer_hash"], trained["tokenizer_hash"]);
    assert!(failure(&run(at, train), 1).contains("--force"));
    json(&run(at, &format!("{train} --force")));
}

#[test]
fn threads_change_no_byte() {
    let folder = prepared();
    let before = contents(&folder.path().join("dataset"));
    let prepare =
        "data prepare corpus.jsonl --out dataset --vocab-size 600 --validation 0.2 --force";
    for threads in [1, 3] {
        assert!(run(folder.path(), &format!("{prepare} --threads {threads}")).status.success());
        assert_eq!(contents(&folder.path().join("dataset")), before);
    }
}

#[test]
fn misspelt_options_and_verbs_are_answered_with_the_nearest() {
    let folder = prepared();
    for (command_line, nearest) in [
        ("data prepare corpus.jsonl --out d --validaton 0.1", "--validation"),
        ("data prepair corpus.jsonl", "prepare"),
        ("tokeniser train", "tokenizer"),
        ("data synth --document 3 --out x.jsonl", "--documents"),
    ] {
        let message = failure(&run(folder.path(), command_line), 2);
        assert!(message.contains(&format!("'{nearest}'")), "{message}");
    }
}

#[test]
fn impossible_arguments_are_usage_errors() {
    let folder = prepared();
    let before = contents(folder.path());
    for (command_line, says) in [
        ("--threads 0 data synth --documents 3 --out x.jsonl", "--threads"),
        ("--threads many data synth --documents 3 --out x.jsonl", "--threads"),
        ("data synth --documents 0 --out x.jsonl", "--documents"),
        ("data synth --documents 3", "--out"),
        ("data prepare --out d", "INPUT"),
        ("data prepare corpus.jsonl --out d --validation 1", "--validation"),
        ("data prepare corpus.jsonl --out d --validation nan", "--validation"),
        ("data prepare corpus.jsonl --out d --tokenizer dataset --vocab-size 9", "--vocab-size"),
    ] {
        let message = failure(&run(folder.path(), command_line), 2);
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn bad_inputs_are_named_and_nothing_is_overwritten() {
    let folder = prepared();
    let at = folder.path();
    let corpus = fs::read(at.join("corpus.jsonl")).expect("read");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&corpus).expect("compress");
    let gzip = gzip.finish().expect("compress");
    fs::write(at.join("cut.jsonl.gz"), &gzip[..gzip.len() / 2]).expect("write");
    let mut bad_sum = gzip.clone();
    bad_sum[gzip.len() - 6] ^= 1;
    fs::write(at.join("sum.jsonl.gz"), &bad_sum).expect("write");
    fs::write(at.join("empty.jsonl"), "").expect("write");
    fs::write(at.join("titles.jsonl"), "{\"title\": \"x\"}\n").expect("write");
    fs::write(at.join("broken.jsonl"), "{\"text\": \"fine\"}\n{\"text\": \n").expect("write");
    fs::write(at.join("latin.jsonl"), b"{\"text\": \"na\xefve\"}\n").expect("write");
    fs::create_dir(at.join("nothing")).expect("create");
    fs::write(at.join("nothing/readme.txt"), "text").expect("write");
    let before = contents(at);

    for (input, says) in [
        ("cut.jsonl.gz", "cut.jsonl.gz, line "),
        ("sum.jsonl.gz", "sum.jsonl.gz, line "),
        ("empty.jsonl", "no document"),
        ("titles.jsonl", "1 title_only"),
        ("broken.jsonl", "broken.jsonl, line 2: "),
        ("latin.jsonl", "UTF-8"),
        ("nothing", "no JSONL file"),
        ("nothing/readme.txt", ".jsonl.gz"),
        ("absent.jsonl", "absent.jsonl"),
    ] {
        for out in ["fresh", "dataset --force"] {
            let prepare = format!("data prepare {input} --out {out} --tokenizer dataset");
            let message = failure(&run(at, &prepare), 1);
            assert!(message.contains(says), "{message}");
        }
        failure(&run(at, &format!("tokenizer train {input} --out tokenizer.json")), 1);
    }
    let message = failure(&run(at, "data prepare corpus.jsonl --out dataset"), 1);
    assert!(message.contains("--force"), "{message}");
    let message = failure(&run(at, "data prepare corpus.jsonl --out nothing --force"), 1);
    assert!(message.contains("not a dataset folder"), "{message}");
    let message = failure(&run(at, "data synth --documents 3 --out corpus.jsonl"), 1);
    assert!(message.contains("--force"), "{message}");
    failure(&run(at, "data synth --documents 3 --out corpus.csv"), 1);
    failure(&run(at, "data prepare corpus.jsonl --out fresh --vocab-size 10"), 1);
    assert_eq!(contents(at), before);
}

#[test]
fn a_damaged_dataset_is_refused() {
    let folder = prepared();
    let dataset = folder.path().join("dataset");
    let open = || mediswift_data::Dataset::open(&dataset).map(drop).map_err(|e| e.to_string());
    open().expect("whole");
    let shard = dataset.join("train-00000.bin");
    let whole = fs::read(&shard).expect("read");
    for damaged in [whole[..whole.len() - 1].to_vec(), whole[..50].to_vec(), {
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        flipped
    }] {
        fs::write(&shard, damaged).expect("write");
        let message = open().expect_err("damaged");
        assert!(message.contains("train-00000.bin, byte "), "{message}");
        assert!(message.contains("data prepare") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn bad_tokenizers_and_ids_are_named() {
    let folder = prepared();
    let at = folder.path();
    fs::write(at.join("other.json"), "{\"model\": 3}").expect("write");
    for (command_line, says) in [
        ("tokenizer encode --tokenizer other.json text", "other.json"),
        ("tokenizer encode --tokenizer absent.json text", "absent.json"),
        ("tokenizer decode --tokenizer dataset 3 600", "600"),
        ("tokenizer decode --tokenizer dataset 3 x", "\"x\""),
        ("tokenizer decode --tokenizer dataset 99999999999", "99999999999"),
    ] {
        let message = failure(&run(at, command_line), 1);
        assert!(message.contains(says), "{message}");
    }
    let latin = with_stdin(at, "tokenizer encode --tokenizer dataset", b"na\xefve");
    assert!(failure(&latin, 1).contains("UTF-8"));
}

#[test]
fn help_explains_with_examples() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for verb in
        ["data synth", "data prepare", "tokenizer train", "tokenizer encode", "tokenizer decode"]
    {
        let help = run(folder.path(), &format!("{verb} --help"));
        let text = String::from_utf8_lossy(&help.stdout);
        assert!(help.status.success() && text.contains("Example"), "{text}");
    }
    let bare = run(folder.path(), "");
    assert_eq!(bare.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bare.stderr).contains("Usage:"));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let folder = prepared();
    let corpus = fs::File::open(folder.path().join("corpus.jsonl")).expect("open");
    let mut child = program(folder.path())
        .args(["tokenizer", "encode", "--tokenizer", "dataset"])
        .stdin(corpus)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("the program ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

/// Real abstracts lie beside some checkouts only; the first lines of one file keep this short.
#[test]
fn real_abstracts_are_prepared() {
    const FILE: &str = "../shared/data/pubmed_abstracts/mixed.jsonl.gz";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let Ok(file) = fs::File::open(&source) else {
        eprintln!("skipped: {} is not there", source.display());
        return;
    };
    let lines = BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines().take(500);
    let lines: Vec<String> = lines.collect::<Result<_, _>>().expect("the file is whole");
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("real.jsonl"), lines.join("\n")).expect("write");
    let prepare = "--json data prepare real.jsonl --out dataset --vocab-size 1000";
    let dataset = json(&run(folder.path(), prepare));
    let dropped: u64 =
        dataset["dropped"].as_object().expect("by reason").values().filter_map(Value::as_u64).sum();
    assert_eq!(dataset["documents"].as_u64().expect("a number") + dropped, 500);
    assert!(dataset["validation"]["documents"].as_u64() > Some(0));
    assert!(dataset["train"]["tokens"].as_u64() > Some(50_000));
}
