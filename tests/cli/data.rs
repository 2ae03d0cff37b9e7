//! The data verbs of the command line, run as a user would run them.
//!
//! Whatever goes wrong must end in one clear line on stderr, the documented exit code, no panic,
//! and everything on disk as it was.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use crate::common::{contents, failure, json, program, run};
use crate::prepared::prepared;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with `corpus.jsonl` and `dataset/`.
fn dataset() -> TempDir {
    prepared(120, "--vocab-size 600 --validation 0.2 --near-duplicates off")
}

#[test]
fn synthesise_and_prepare() {
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
}

#[test]
fn threads_change_no_byte() {
    let folder = dataset();
    let before = contents(&folder.path().join("dataset"));
    let prepare = "data prepare corpus.jsonl --out dataset --vocab-size 600 --validation 0.2 --near-duplicates off --force";
    for threads in [1, 3] {
        assert!(run(folder.path(), &format!("{prepare} --threads {threads}")).status.success());
        assert_eq!(contents(&folder.path().join("dataset")), before);
    }
}

#[test]
fn misspelt_options_and_verbs_are_answered_with_the_nearest() {
    let folder = dataset();
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
    let folder = dataset();
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
    let folder = dataset();
    let at = folder.path();
    let corpus = fs::read(at.join("corpus.jsonl")).expect("read");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&corpus).expect("compress");
    let gzip = gzip.finish().expect("compress");
    fs::write(at.join("cut.jsonl.gz"), &gzip[..gzip.len() / 2]).expect("write");
    let mut bad_sum = gzip.clone();
    bad_sum[gzip.len() - 6] ^= 1;
    fs::write(at.join("sum.jsonl.gz"), &bad_sum).expect("write");
    fs::write(at.join("plain.jsonl.gz"), &corpus).expect("write");
    fs::write(at.join("empty.jsonl.gz"), "").expect("write");
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
        ("plain.jsonl.gz", "plain.jsonl.gz, line 1, byte 0: the data cannot be read here"),
        ("empty.jsonl.gz", "0 bytes"),
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
    let message = failure(&run(at, "data prepare corpus.jsonl --out fresh --min-words 99999"), 1);
    assert!(message.contains("120 too_short"), "{message}");
    let message = failure(&run(at, "data fetch 1 --out fresh --base-url nonsense"), 1);
    assert!(message.contains("nonsense") && !message.contains("attempts"), "{message}");
    assert_eq!(contents(at), before);
}

#[test]
fn a_damaged_dataset_is_refused() {
    let folder = dataset();
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
fn help_explains_with_examples() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for verb in [
        "data synth",
        "data fetch",
        "data show",
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
        ("malformed", 3),
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
fn records_are_shown_as_they_would_be_kept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let lines = "{\"text\": \"one two  three\\n four five\", \"pmid\": 7}\n{\"title\": \"Alone\"}\n{\"text\": 5}\n";
    fs::write(at.join("a.jsonl"), lines).expect("write");
    fs::write(at.join("b.xml"), citations(&[(9, 1, "An abstract of five words.")])).expect("write");
    let shown = run(at, "data show a.jsonl b.xml");
    let stdout = String::from_utf8(shown.stdout).expect("UTF-8");
    let records: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 3);
    assert_eq!(records[0]["id"], "PMID:7");
    assert_eq!(records[0]["text"], "one two three\nfour five");
    assert_eq!(records[1]["dropped"], "title_only");
    assert_eq!(records[2]["text"], "Title 9\nAn abstract of five words.");
    let warning = String::from_utf8(shown.stderr).expect("UTF-8");
    assert!(warning.contains("a.jsonl, line 3, byte "), "{warning}");
    let counted = json(&run(at, "--json data show a.jsonl b.xml"));
    assert_eq!(
        (counted["documents"].as_u64(), counted["dropped"]["title_only"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(counted["records"].as_array().map(Vec::len), Some(3));
    let strict = run(at, "data show a.jsonl --strict");
    assert_eq!((strict.status.code(), strict.stdout.is_empty()), (Some(1), false));
    assert!(String::from_utf8_lossy(&strict.stderr).contains("line 3"));
}

/// What is held out is nowhere in what is trained on, however often it occurs.
#[test]
fn no_text_is_in_both_splits() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let text = |i: usize| {
        format!("Patient {} of cohort {} had outcome {}.", i % 40, i % 40 * 7, i % 40 * 3)
    };
    let lines: String =
        (0..160).map(|i| format!("{{\"text\": \"{}\", \"id\": {i}}}\n", text(i))).collect();
    fs::write(at.join("a.jsonl"), lines).expect("write");
    let prepare = "--json data prepare a.jsonl --out d --vocab-size 300 --validation 0.4 --near-duplicates off";
    let made = json(&run(at, prepare));
    assert_eq!(
        (made["documents"].as_u64(), made["dropped"]["duplicate"].as_u64()),
        (Some(40), Some(120))
    );
    let data = mediswift_data::Dataset::open(&at.join("d")).expect("open");
    let tokenizer = data.tokenizer().expect("there");
    let [train, held_out] =
        [mediswift_data::Split::Train, mediswift_data::Split::Validation].map(|split| {
            let ids = data.window(split, 0, data.tokens(split) as usize).expect("read");
            let texts = tokenizer.decode(&ids).expect("decode");
            texts.split_terminator("<|endoftext|>").map(str::to_owned).collect::<BTreeSet<String>>()
        });
    assert!(!train.is_empty() && !held_out.is_empty() && train.len() + held_out.len() == 40);
    assert!(train.is_disjoint(&held_out));
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

/// Gzip, with zeros behind it as on a tape.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).expect("compress");
    [&writer.finish().expect("compress")[..], &[0; 700]].concat()
}

#[test]
fn inputs_are_read_as_they_come() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    fs::create_dir_all(at.join("in")).expect("create");
    fs::create_dir_all(at.join("elsewhere")).expect("create");
    let long = |word: &str| format!("{word} is followed by five more words");
    let lines = [
        format!("\u{feff}{{\"text\": \"{}\"}}\n", long("first")).into_bytes(),
        b"{\"text\": \"na\xefve words that are no UTF-8 here\"}\n".to_vec(),
        format!("[\"1\", \"2\", \"3\", \"en\", \"{}\"]\n", long("list")).into_bytes(),
        format!("{{\"pmid\": 7.0, \"score\": NaN, \"text\": \"{}\"}}\n", long("second"))
            .into_bytes(),
        format!("{{\"id\": {{\"a\": 1}}, \"text\": \"{}\"}}\n", long("third")).into_bytes(),
    ];
    fs::write(at.join("in/a.jsonl"), lines.concat()).expect("write");
    let text =
        format!("{}\n\nbad \u{1}\n\n{}\n", long("fourth"), long("fifth")).replace('\u{1}', "?");
    let mut text = text.into_bytes();
    let bad = text.iter().position(|&byte| byte == b'?').expect("there");
    text[bad] = 0xFF;
    fs::write(at.join("in/b.txt.gz"), padded(&text)).expect("write");
    let old = format!(
        "<MedlineCitationSet><MedlineCitation><PMID>8</PMID><Article><ArticleTitle>Old\n ones.\
         </ArticleTitle><Abstract><AbstractText>{}</AbstractText></Abstract></Article>\
         </MedlineCitation></MedlineCitationSet>",
        long("sixth\n").replace(' ', "\n  ")
    );
    fs::write(at.join("elsewhere/c.xml"), old).expect("write");
    fs::write(at.join("in/d.xml"), "<PubmedArticleSet></PubmedArticleSet>").expect("write");
    fs::write(at.join("in/x.json"), "{}").expect("write");
    #[cfg(unix)]
    for (target, link) in [("elsewhere", "in/linked"), ("in", "in/circle"), ("no", "in/none.txt")] {
        std::os::unix::fs::symlink(at.join(target), at.join(link)).expect("link");
    }
    let prepared = "--json data prepare in --out dataset --vocab-size 300 --validation 0";
    let made = json(&run(at, prepared));
    let linked = u64::from(cfg!(unix));
    assert_eq!(made["documents"].as_u64(), Some(5 + linked), "{made}");
    assert_eq!(made["dropped"]["malformed"], 3, "{made}");
    let damaged = made["damaged"].to_string();
    for place in ["a.jsonl, line 2, byte ", "a.jsonl, line 3, byte ", "b.txt.gz, line 3, byte "] {
        assert!(damaged.contains(place), "{damaged}");
    }
    let notes = made["notes"].to_string();
    let mut says = vec!["x.json", "`id` is an object", "d.xml: there is no record"];
    if cfg!(unix) {
        says.extend(["1 link to nothing", "none.txt", "circle"]);
        let shown = run(at, "data show in/linked");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("Old ones.\\nsixth is followed by five more words"), "{shown}");
    }
    for part in says {
        assert!(notes.contains(part), "{notes} does not say {part}");
    }
    let trained = json(&run(at, "--json tokenizer train in --vocab-size 300 --out tokenizer.json"));
    assert_eq!((&trained["damaged"], &trained["notes"]), (&made["damaged"], &made["notes"]));
    let stats = json(&run(at, "--json data stats dataset"));
    assert_eq!(stats["notes"], made["notes"]);
}

/// Files that a user reported, which lie beside some checkouts only.
#[test]
fn shared_cases_come_out_right() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases");
    if !cases.is_dir() {
        println!("skipped: {} is not there", cases.display());
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, documents, malformed) in [
        ("bad.jsonl", 2, 1),
        ("arrays.jsonl", 0, 7),
        ("float-pmid.jsonl", 3, 0),
        ("odd-metadata.jsonl", 8, 0),
        ("wrap.nxml", 1, 0),
        ("wrapped.nxml", 1, 0),
        ("wrap-pubmed.xml", 1, 0),
        ("glue.nxml", 1, 0),
        ("marks.nxml", 1, 0),
        ("reference-marks.nxml", 1, 0),
        ("abs.nxml", 1, 0),
        ("medline16.xml", 1, 0),
        ("medline16n9999.xml", 1, 0),
        ("padded.jsonl.gz", 1, 0),
    ] {
        let path = cases.join(name);
        let shown = json(&run(folder.path(), &format!("--json data show {}", path.display())));
        let damaged = shown["damaged"].as_array().expect("a list").len();
        assert_eq!(
            (&shown["documents"], damaged),
            (&documents.into(), malformed),
            "{name}: {shown}"
        );
        for record in shown["records"].as_array().expect("a list") {
            let text = record["text"].as_str().unwrap_or_default();
            for leftover in
                ["()", "[]", "{}", "[ and ]", "[,", "(;", " ,", "bywhere", "SeenNext", "castellano"]
            {
                assert!(!text.contains(leftover), "{name}: {text}");
            }
            assert!(!name.starts_with("wrap") || text.lines().count() <= 3, "{name}: {text}");
        }
    }
    for name in [
        "uint64.mtx",
        "boehm_old.mtx",
        "bom.mtx",
        "bom.smtx",
        "spacecomment.mtx",
        "unsorted.npz",
        "explicit0.mtx",
    ] {
        let matrix = mediswift_kernels::sparse::files::read(&cases.join(name)).expect(name);
        let nnz = matrix.pattern.nnz() + matrix.zeros;
        assert_eq!((matrix.pattern.rows(), nnz), (64, 1037), "{name}");
        assert_eq!(matrix.zeros > 0, name.starts_with("explicit"), "{name}");
    }
}

/// Opening a pipe waits for a writer who never comes.
#[cfg(unix)]
#[test]
fn pipes_in_the_place_of_files_are_errors() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    for name in ["in", "dataset", "hf"] {
        fs::create_dir(at.join(name)).expect("create");
    }
    let names = [
        "pipe.jsonl",
        "pipe.txt",
        "pipe.json",
        "pipe.toml",
        "pipe.mtx",
        "pipe.npz",
        "in/pipe.xml",
        "dataset/dataset.json",
        "dataset/tokenizer.json",
        "hf/config.json",
    ];
    let made = std::process::Command::new("mkfifo").args(names.map(|name| at.join(name))).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: there is no mkfifo");
        return;
    }
    for command_line in [
        "data prepare pipe.jsonl --out d",
        "data prepare in --out d",
        "data show pipe.txt",
        "data stats dataset",
        "tokenizer train pipe.jsonl --out t.json",
        "tokenizer encode --tokenizer pipe.json x",
        "tokenizer encode --tokenizer dataset x",
        "tokenizer import pipe.json pipe.txt --out t.json",
        "pretrain --config pipe.toml --print-config",
        "pretrain --preset micro --data dataset --out r --plans pipe.toml",
        "bench layer --mask pipe.mtx",
        "bench layer --mask pipe.npz",
        "plot pipe.json --out p.svg",
        "import hf hf --out r",
    ] {
        let message = failure(&run(at, command_line), 1);
        assert!(
            message.contains("pipe") || message.contains("regular file"),
            "{command_line}: {message}"
        );
    }
}
