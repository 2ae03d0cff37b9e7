//! The tokenizer verbs of the command line, run as a user would run them: all texts come back, and
//! whatever cannot be used is named.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::{contents, failure, json, program, run};
use crate::prepared::prepared;
use serde_json::{Value, json};
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
fn dataset() -> TempDir {
    prepared(120, "--vocab-size 600 --validation 0.2 --near-duplicates off")
}

#[test]
fn texts_become_ids_and_texts_again() {
    let folder = dataset();
    let at = folder.path();
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
    let folder = dataset();
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
fn bad_tokenizers_and_ids_are_named() {
    let folder = dataset();
    let at = folder.path();
    fs::write(at.join("other.json"), "{\"model\": 3}").expect("write");
    let before = contents(at);
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
    assert_eq!(contents(at), before);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let folder = dataset();
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
    let folder = dataset();
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

/// Encodes and decodes a text through stdin.
fn there_and_back(at: &Path, tokenizer: &str, text: &str) -> Vec<u8> {
    let encoded =
        with_stdin(at, &format!("tokenizer encode --tokenizer {tokenizer}"), text.as_bytes());
    assert!(encoded.status.success(), "{}", String::from_utf8_lossy(&encoded.stderr));
    let decoded =
        with_stdin(at, &format!("tokenizer decode --tokenizer {tokenizer}"), &encoded.stdout);
    assert!(decoded.status.success(), "{}", String::from_utf8_lossy(&decoded.stderr));
    decoded.stdout
}

#[test]
fn odd_texts_come_back_through_the_program() {
    let folder = dataset();
    let long = "ACGT".repeat(5 << 19);
    assert!(long.len() > 10_000_000);
    for text in [
        "",
        "\n",
        "a\0b\u{1}",
        "\u{feff}a byte-order mark",
        "e\u{301} is not é",
        "zero\u{200b}width \u{200d}",
        "שלום, עולם \u{202e}abc",
        "<|endoftext|><s></s> \r\n\t",
        &long,
    ] {
        let back = there_and_back(folder.path(), "dataset", text);
        assert!(back == text.as_bytes(), "{}", text.escape_debug().take(80).collect::<String>());
    }
}

#[test]
fn special_tokens_typed_in_a_text_end_no_document() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let typed = "{\"text\": \"one two three <|endoftext|> four </s> five <s> six <unk> <pad>\"}\n";
    fs::write(at.join("typed.jsonl"), typed).expect("write");
    for kind in ["byte-bpe", "moses-bpe"] {
        let prepare = format!(
            "--json data prepare typed.jsonl --out {kind} --kind {kind} --vocab-size 400 --validation 0"
        );
        json(&run(at, &prepare));
        let data = mediswift_data::Dataset::open(&at.join(kind)).expect("open");
        let train = mediswift_data::Split::Train;
        assert_eq!(data.documents(train), 1);
        assert_eq!(data.count(train, data.end_of_text()).expect("read"), 1, "the one at the end");
    }
}

/// GPT-2's 256 bytes as it writes them.
fn byte_characters() -> Vec<char> {
    let visible = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut hidden = 256..;
    (0..256)
        .map(|byte| if visible(byte) { byte } else { hidden.next().expect("few are hidden") })
        .map(|code| char::from_u32(code).expect("a character"))
        .collect()
}

#[test]
fn vocabularies_that_do_not_hold_together_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let vocabulary = |more: &[(&str, u32)]| -> Value {
        let bytes = byte_characters().into_iter().map(String::from).zip(0..);
        let more = more.iter().map(|(token, id)| ((*token).to_owned(), *id));
        json!(bytes.chain(more).collect::<std::collections::BTreeMap<String, u32>>())
    };
    for (name, tokens, merges, says) in [
        ("gap", vocabulary(&[("ab", 300)]), "a b\n", "none has the id 256"),
        ("twice", vocabulary(&[("ab", 7)]), "a b\n", "the id 7, which another has too"),
        ("unknown", vocabulary(&[("ab", 256)]), "a b\nab zz\n", "\"zz\", which is no token"),
        ("unmade", vocabulary(&[("ab", 256)]), "a b\nb c\n", "\"bc\", which is no token"),
        ("huge", vocabulary(&[("ab", u32::MAX)]), "a b\n", "none has the id 256"),
        ("negative", json!({"a": -1}), "a b\n", "not token → id"),
        ("byte", json!({"a": 0, "b": 1, "ab": 2}), "a b\n", "no token"),
        ("line", vocabulary(&[("ab", 256)]), "a b\nab\n", "line 2"),
        ("list", json!(["a", "b"]), "a b\n", "not a line `token count`"),
        ("dict", json!("a 3\nb 2\na 1\n"), "a b\n", "\"a</w>\" comes twice (ids 4 and 6)"),
    ] {
        let bytes = tokens.as_str().map_or_else(|| tokens.to_string(), str::to_owned);
        fs::write(at.join("vocab.json"), bytes).expect("write");
        fs::write(at.join("merges.txt"), merges).expect("write");
        let import = "tokenizer import vocab.json merges.txt --out x.json";
        let message = failure(&run(at, import), 1);
        assert!(message.contains(says), "{name}: {message}");
        assert!(!at.join("x.json").exists());
    }
    fs::write(at.join("vocab.json"), b"{\"\xff\": 1}").expect("write");
    let message = failure(&run(at, "tokenizer import vocab.json merges.txt --out x.json"), 1);
    assert!(message.contains("vocab.json") && message.contains("UTF-8"), "{message}");
}

/// A vocabulary of more ids than 16 bits hold, through shards of four bytes a token.
#[test]
fn ids_above_65535_are_stored_whole() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    // Every pair of bytes: 256 + 65,536 tokens, of which "zz" is the last.
    let bytes = byte_characters();
    let mut tokens: Vec<String> = bytes.iter().copied().map(String::from).collect();
    let mut merges = String::new();
    let mut by_code = bytes.clone();
    by_code.sort_by_key(|c| (c.is_ascii_lowercase(), *c));
    for left in &by_code {
        for right in &by_code {
            tokens.push(format!("{left}{right}"));
            merges += &format!("{left} {right}\n");
        }
    }
    let ids: serde_json::Map<String, Value> =
        tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), json!(id))).collect();
    fs::write(at.join("vocab.json"), Value::from(ids).to_string()).expect("write");
    fs::write(at.join("merges.txt"), merges).expect("write");
    let import = "--json tokenizer import vocab.json merges.txt --out large.json";
    assert_eq!(json(&run(at, import))["vocab_size"], 65_793);
    let text = "zzzzzz top and others of them";
    fs::write(at.join("a.jsonl"), format!("{{\"text\": \"{text}\"}}\n")).expect("write");
    let prepare = "--json data prepare a.jsonl --out d --tokenizer large.json --validation 0";
    let made = json(&run(at, prepare));
    let data = mediswift_data::Dataset::open(&at.join("d")).expect("open");
    let tokens = made["tokens"].as_u64().expect("a number") as usize;
    let ids = data.window(mediswift_data::Split::Train, 0, tokens).expect("read");
    assert!(ids.iter().filter(|&&id| id > 65_535).count() > 1, "{ids:?}");
    let decoded = data.tokenizer().expect("there").decode(&ids[..tokens - 1]).expect("decode");
    assert_eq!(decoded, text);
}

/// A line comes out before the next one goes in; a byte-order mark is no word.
#[test]
fn moses_answers_line_by_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (verb, line, answer) in
        [("moses", "\u{feff}one, two", "one , two\n"), ("demoses", "one , two", "one, two\n")]
    {
        let mut child = program(folder.path())
            .args(["tokenizer", verb])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        for line in [line, line.trim_start_matches('\u{feff}')] {
            writeln!(stdin, "{line}").expect("write");
            let mut found = String::new();
            stdout.read_line(&mut found).expect("read");
            assert_eq!(found, answer);
        }
        drop(stdin);
        assert!(child.wait().expect("wait").success());
    }
}
