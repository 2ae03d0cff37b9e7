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
    let prepare = "--json data prepare corpus.jsonl --out dataset --vocab-size 600 --validation 0.2 --near-duplicates off";
    json(&run(folder.path(), prepare));
    folder
}

#[test]
fn synthesise_prepare_encode_decode() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let made = json(&run(at, "--json data synth --documents 150 --out corpus.jsonl.gz"));
    assert_eq!(made["documents"], 150);

    let prepare = "data prepare corpus.jsonl.gz --out dataset --vocab-size 500 --json --threads 2 --near-duplicates off";
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
    let prepare = "data prepare corpus.jsonl --out dataset --vocab-size 600 --validation 0.2 --near-duplicates off --force";
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
        ("data prepare corpus.jsonl --out d --near-duplicates 1.5", "--near-duplicates"),
        ("data fetch x --out d", "\"x\""),
        ("data fetch 3-1 --out d", "3-1"),
        ("data fetch 1 --out d --jobs 99", "--jobs"),
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
    fs::write(at.join("nothing/readme.md"), "text").expect("write");
    let before = contents(at);

    for (input, says) in [
        ("cut.jsonl.gz", "cut.jsonl.gz, line "),
        ("sum.jsonl.gz", "sum.jsonl.gz, line "),
        ("empty.jsonl", "no document"),
        ("titles.jsonl", "1 title_only"),
        ("broken.jsonl", "broken.jsonl, line 2, byte 17: "),
        ("latin.jsonl", "UTF-8"),
        ("nothing", "no input"),
        ("nothing/readme.md", ".jsonl"),
        ("absent.jsonl", "absent.jsonl"),
    ] {
        for out in ["fresh", "dataset --force"] {
            let prepare = format!("data prepare {input} --out {out} --tokenizer dataset --strict");
            let message = failure(&run(at, &prepare), 1);
            assert!(message.contains(says), "{message}");
        }
        failure(&run(at, &format!("tokenizer train {input} --out tokenizer.json --strict")), 1);
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
    for verb in [
        "data synth",
        "data fetch",
        "data prepare",
        "data stats",
        "tokenizer train",
        "tokenizer encode",
        "tokenizer decode",
        "tokenizer import",
        "tokenizer export",
        "tokenizer moses",
        "tokenizer demoses",
    ] {
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

/// PubMed XML of citations: number, version, words of the abstract.
fn citations(records: &[(u64, u32, &str)]) -> String {
    let articles: String = records
        .iter()
        .map(|(number, version, text)| {
            format!(
                "<PubmedArticle><MedlineCitation><PMID Version=\"{version}\">{number}</PMID><Article>\
                 <ArticleTitle>Title {number}</ArticleTitle><Abstract><AbstractText>{text}</AbstractText>\
                 </Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
            )
        })
        .collect();
    format!("<PubmedArticleSet>{articles}</PubmedArticleSet>")
}

#[test]
fn updates_withdrawals_duplicates_and_damage_are_accounted_for() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    fs::create_dir_all(at.join("in/updates")).expect("create");
    let gzip = |name: &str, parts: &[&str]| {
        let members = parts.iter().map(|part| {
            let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            member.write_all(part.as_bytes()).expect("compress");
            member.finish().expect("compress")
        });
        fs::write(at.join(name), members.collect::<Vec<_>>().concat()).expect("write");
    };
    let long = |seed: usize| -> String {
        (0..60).map(|i| format!("w{} ", (i * 7919 + seed * 104_729) % 5003)).collect()
    };
    let texts: Vec<String> = (0..8).map(long).collect();
    let base =
        citations(&[(1, 1, &texts[0]), (2, 1, &texts[1]), (3, 1, &texts[2]), (4, 2, &texts[3])]);
    let (head, tail) = base.split_at(base.len() / 2);
    gzip("in/a.xml.gz", &[head, tail]);
    // A new revision of 2; an older version of 4, which loses; 3 is withdrawn; one nearly as 1.
    let near = format!("{} changed", texts[0]);
    let update = citations(&[(2, 1, &texts[4]), (4, 1, &texts[5]), (9, 1, &near)]).replace(
        "</PubmedArticleSet>",
        "<DeleteCitation><PMID Version=\"1\">3</PMID></DeleteCitation></PubmedArticleSet>",
    );
    fs::write(at.join("in/updates/b.xml"), update).expect("write");
    let cut = citations(&[(5, 1, &texts[6]), (6, 1, &texts[7])]);
    fs::write(at.join("in/c.xml"), &cut[..cut.len() - 200]).expect("write");
    let lines = format!(
        "{{\"text\": \"{}\"}}\n{{\"text\": 5}}\n{{\"title\": \"x\"}}\n{{\"text\": \"Title 9 in German at all\", \"language\": \"de\"}}\n",
        format!("Title 4\\n{}", texts[3]).trim()
    );
    fs::write(at.join("in/d.jsonl"), lines).expect("write");
    fs::write(at.join("in/e.txt"), "one document of six words here\n\nshort one\n").expect("write");
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("x/good.nxml", true), ("x/bad.nxml", false)] {
        let article = "<article><front><article-meta><article-id pub-id-type=\"pmc\">8</article-id>\
            </article-meta></front><body><p>A body of an article with words.</p></body></article>";
        let bytes = &article.as_bytes()[..if bytes { article.len() } else { 90 }];
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).expect("append");
    }
    fs::write(at.join("in/f.tar"), archive.into_inner().expect("archive")).expect("write");

    let prepare = "--json data prepare in --out dataset --vocab-size 300 --validation 0";
    let output = run(at, prepare);
    let made = json(&output);
    let dropped = |reason: &str| made["dropped"][reason].as_u64().expect("a count");
    for (reason, count) in [
        ("replaced", 2),
        ("deleted", 1),
        ("duplicate", 1),
        ("near_duplicate", 1),
        ("malformed", 2),
        ("title_only", 1),
        ("language", 1),
        ("too_short", 1),
    ] {
        assert_eq!(dropped(reason), count, "{reason}: {made}");
    }
    // 1, 2 (new), 4, 5, the text and the article.
    assert_eq!(made["documents"], 6, "{made}");
    let all: u64 =
        made["dropped"].as_object().expect("by reason").values().filter_map(Value::as_u64).sum();
    assert_eq!(made["records"].as_u64(), Some(6 + all));
    let damaged = made["damaged"].to_string();
    for place in ["c.xml, byte ", "d.jsonl, line 2, byte ", "bad.nxml, byte "] {
        assert!(damaged.contains(place), "{damaged}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: "));

    let stats = json(&run(at, "--json data stats dataset --plot lengths.svg"));
    assert_eq!(stats["documents"], 6);
    assert_eq!(stats["dropped"], made["dropped"]);
    assert_eq!(stats["train"]["tokens"], made["train"]["tokens"]);
    assert!(at.join("lengths.png").metadata().expect("drawn").len() > 1000);
    let text = run(at, "data stats dataset");
    assert!(String::from_utf8_lossy(&text.stdout).contains("near_duplicate"));
    // Strict stops, and leaves nothing.
    let before = contents(at);
    let message = failure(&run(at, &format!("{prepare} --force --strict")), 1);
    assert!(message.contains("byte "), "{message}");
    assert_eq!(contents(at), before);
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    for part in 0..6 {
        let synth = format!("data synth --documents 3000 --seed {part} --out part{part}.jsonl.zst");
        assert!(run(at, &synth).status.success());
    }
    fs::create_dir(at.join("in")).expect("create");
    for part in 0..6 {
        let name = format!("part{part}.jsonl.zst");
        fs::rename(at.join(&name), at.join("in").join(&name)).expect("move");
    }
    let prepare =
        "data prepare in --vocab-size 800 --shard-tokens 200000 --near-duplicates off --out";
    let arguments = |out| -> Vec<&str> { prepare.split_whitespace().chain([out]).collect() };
    assert!(program(at).args(arguments("whole")).output().expect("runs").status.success());
    let strip = |name: &str| -> Vec<(String, Vec<u8>)> {
        let root = at.join(name);
        let relative = |path: &Path| path.strip_prefix(&root).expect("below").display().to_string();
        contents(&root).iter().map(|(path, bytes)| (relative(path), bytes.clone())).collect()
    };
    let whole = strip("whole");
    let mut kills = 0;
    for delay in (1..).map(|attempt| std::time::Duration::from_millis(40 * attempt)) {
        let mut child = program(at)
            .args(arguments("killed"))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(delay);
        let ended = child.try_wait().expect("a child");
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        if at.join("killed").exists() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "the run was too short to be killed");
    assert!(strip("killed") == whole);
    assert!(!at.join(".killed.building").exists() || at.join("killed").exists());
}

#[test]
fn moses_words_and_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let text = "Crohn's disease (n=5).\n\nA beta-blocker.\n";
    let words = with_stdin(at, "tokenizer moses", text.as_bytes());
    let expected = "Crohn &apos;s disease ( n = 5 ) .\n\nA beta @-@ blocker .\n";
    assert_eq!(String::from_utf8_lossy(&words.stdout), expected);
    let back = with_stdin(at, "tokenizer demoses", &words.stdout);
    assert_eq!(String::from_utf8_lossy(&back.stdout), text.replace("n=5", "n = 5"));
    let as_json = json(&with_stdin(at, "--json tokenizer moses --no-escape", b"a's"));
    assert_eq!(as_json["text"], "a 's");
    // A filter has passed on the lines before the one it cannot read.
    let cut = with_stdin(at, "tokenizer moses", b"ok\nna\xefve\n");
    assert_eq!((cut.status.code(), cut.stdout.as_slice()), (Some(1), b"ok\n".as_slice()));
    assert!(String::from_utf8_lossy(&cut.stderr).contains("stdin, line 2"));
}

#[test]
fn moses_bpe_prepares_and_is_exported_and_imported() {
    let folder = prepared();
    let at = folder.path();
    let quoted = "{\"text\": \"The patients' fraction isn't known, and doesn't matter.\"}\n";
    fs::write(at.join("quoted.jsonl"), quoted).expect("write");
    let prepare = "--json data prepare corpus.jsonl quoted.jsonl --out m --kind moses-bpe --vocab-size 900 --near-duplicates off --validation 0";
    assert_eq!(json(&run(at, prepare))["vocab_size"], 900);
    json(&run(at, "--json tokenizer export --tokenizer m --out exported"));
    let import = "--json tokenizer import exported/vocab.json exported/merges.txt --out again.json";
    let imported = json(&run(at, import));
    assert_eq!(imported["kind"], "moses-bpe");
    assert_eq!(
        fs::read(at.join("again.json")).expect("read"),
        fs::read(at.join("m/tokenizer.json")).expect("read")
    );
    let text = "The patients' ejection fraction isn't \u{1f9ec} high.";
    let encode = ["--json", "tokenizer", "encode", "--tokenizer", "m", text];
    let encoded = json(&program(at).args(encode).output().expect("the program starts"));
    assert!(encoded["tokens"].as_array().expect("tokens").iter().any(|token| token == "<unk>"));
    let decode = "--json tokenizer decode --tokenizer m";
    let decoded = json(&with_stdin(at, decode, encoded["ids"].to_string().as_bytes()));
    // Whether an unknown symbol ended a word is not known.
    assert_eq!(decoded["text"], text.replace("\u{1f9ec} ", "<unk>"));
    for (files, says) in [
        ("exported/vocab.json exported/vocab.json", "line 1"),
        ("exported/merges.txt exported/merges.txt", "line 1"),
        ("exported/vocab.json absent", "absent"),
    ] {
        let message = failure(&run(at, &format!("tokenizer import {files} --out x.json")), 1);
        assert!(message.contains(says), "{message}");
    }
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
