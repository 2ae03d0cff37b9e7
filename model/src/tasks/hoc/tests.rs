use super::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A mistake, and what the message says about it.
type Mistake = (fn(&mut Value), &'static str);

fn load(folder: &Path, form: &str, split: &str) -> Result<TaskData, Error> {
    let folders = [folder.to_path_buf()];
    Hoc.load(&Request { folders: &folders, form, split, stages: &[], allow_overlap: false })
}

fn record(pmid: u64, part: &str) -> Value {
    json!({
        "pmid": pmid,
        "sentences": [format!("Cells of {pmid} die ."), "Vessels grow"],
        "sentence_labels": [[LABELS[7]], [LABELS[6], LABELS[0]]],
        "raw_labels": [
            "Resisting cell death--Apoptosis ANDResisting cell death--",
            " Inducing angiogenesis-- AND Activating invasion and metastasis--Invasion"
        ],
        "labels": [LABELS[0], LABELS[6], LABELS[7]],
        "blurb_split": part,
    })
}

fn write(folder: &Path, records: &[Value]) {
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    fs::write(folder.join("hoc_documents.jsonl"), text).unwrap();
}

fn records() -> Vec<Value> {
    vec![record(1, "train"), record(2, "dev"), record(3, "test")]
}

#[test]
fn documents_and_sentences_have_their_sources_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &records());
    let data = load(folder.path(), "document", "blurb").unwrap();
    assert_eq!(data.train[0].passage, "Cells of 1 die . Vessels grow");
    assert_eq!(data.train[0].labels, [0, 6, 7]);
    assert_eq!(data.split, "blurb split, 1/1/1 documents");
    let data = load(folder.path(), "sentence", "blurb").unwrap();
    assert_eq!(data.test.len(), 2);
    assert_eq!((&*data.test[1].id, &*data.test[1].passage), ("3_s1", "Vessels grow."));
    assert_eq!(
        Hoc.target(&[0, 6]),
        "the type of this document is activating invasion and metastasis|inducing angiogenesis."
    );
    assert_eq!(Hoc.target(&[]), "the type of this document is empty.");
    assert_eq!(Hoc.parse("the type of this document is a | b."), ["a", "b"]);
}

/// What every file of a folder holds, with a byte-order mark before it.
fn mark(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            mark(&path);
        } else {
            fs::write(&path, [b"\xEF\xBB\xBF", &*fs::read(&path).unwrap()].concat()).unwrap();
        }
    }
}

#[test]
fn byte_order_marks_are_no_text() {
    let flags =
        |on: usize| (0..10).map(|at| format!("{at}_{}", u8::from(at == on))).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "dev", "test"] {
        let row = |at: usize| {
            format!("{}\tCells {at} of {part} die.\t{part}{at}_s0\n", flags(at % 10).join(","))
        };
        let rows: String = (0..12).map(row).collect();
        let table = format!("labels\tsentence\tindex\n{rows}");
        fs::write(folder.path().join(format!("blurb_hoc_{part}.tsv")), table).unwrap();
        let rows: String = (0..12).map(|at| format!("Cells {at} of {part}.\tempty\n")).collect();
        fs::write(folder.path().join(format!("biogpt_hoc_{part}.tsv")), rows).unwrap();
    }
    let corpus = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("text/1.txt", "One dies.\n"),
        ("text/2.txt", "Two grows.\n"),
        ("text/3.txt", "Three stays.\n"),
        ("labels/1.txt", "< Resisting cell death--"),
        ("labels/2.txt", "< NULL"),
        ("labels/3.txt", "< Inducing angiogenesis"),
        ("hoc_splits.json", r#"{"train": ["1"], "dev": ["2"], "test": ["3"]}"#),
    ] {
        let path = corpus.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let lines = tempfile::tempdir().unwrap();
    write(lines.path(), &records());
    for (folder, form, split) in [
        (folder.path(), "document", "blurb"),
        (folder.path(), SENTENCE, "biogpt"),
        (corpus.path(), "document", "listed"),
        (lines.path(), "document", "blurb"),
    ] {
        let passages = || {
            let data = load(folder, form, split).unwrap();
            [data.train, data.dev, data.test]
                .concat()
                .into_iter()
                .map(|e| (e.passage, e.labels))
                .collect::<Vec<_>>()
        };
        let plain = passages();
        mark(folder);
        assert_eq!(passages(), plain, "{split}");
        // Taken away again: the next case may share the folder.
        for entry in
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file())
        {
            fs::write(&entry, &fs::read(&entry).unwrap()[3..]).unwrap();
        }
    }
}

#[test]
fn malformed_records_are_refused_with_their_line() {
    let cases: [Mistake; 8] = [
        (|r| r["sentence_labels"] = json!([[]]), "line 2: 2 sentences have 1 entries"),
        (|r| r["sentence_labels"][0] = json!(["ageing"]), "line 2: unknown label 'ageing'"),
        (|r| r["labels"] = json!([]), "line 2: labels are not the union"),
        (|r| r["raw_labels"][0] = json!(""), "line 2: sentence 0: raw_labels and sentence_labels"),
        (|r| r["sentences"][1] = json!(" "), "line 2: the sentence is empty"),
        (|r| r["blurb_split"] = json!("exam"), "line 2: blurb_split is 'exam'"),
        (|r| r["text"] = json!(""), "line 2, column"),
        (|r| r["pmid"] = json!(3), "id 3 appears twice"),
    ];
    for (spoil, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut records = records();
        spoil(&mut records[1]);
        write(folder.path(), &records);
        let message = load(folder.path(), "document", "blurb").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\n{expected}");
        assert_eq!(message.lines().count(), 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut records = records();
    records[2]["sentences"] = records[0]["sentences"].clone();
    write(folder.path(), &records);
    let message = load(folder.path(), "document", "blurb").unwrap_err().to_string();
    assert!(message.contains("example 1 of train has the source of 3 in test"), "{message}");
}

#[test]
fn tables_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let flags = |on: usize| {
        (0..10).map(|i| format!("{i}_{}", u8::from(i == on))).collect::<Vec<_>>().join(",")
    };
    let table = |id: u32| {
        format!(
            "labels\tsentence\tindex\n{}\tCells die {id}.\t{id}_s0\n{}\tNone.\t{id}_s1\n",
            flags(7),
            flags(99)
        )
    };
    for (name, id) in [("train", 1), ("dev", 2), ("test", 3)] {
        fs::write(folder.path().join(format!("blurb_hoc_{name}.tsv")), table(id)).unwrap();
    }
    let data = load(folder.path(), "document", "blurb").unwrap();
    assert_eq!((&*data.test[0].passage, &data.test[0].labels), ("Cells die 3. None.", &vec![7]));
    for (broken, expected) in [
        ("x\n".into(), "line 1 has 1 columns"),
        ("a\tb\tc\n".into(), "line 1 must be"),
        (table(1).replace("1_s0", "1"), "line 2: index '1' is not PMID_sNUMBER"),
        (table(1).replace("7_1", "7_2"), "line 2: labels: '7_2' is not 7_0 or 7_1"),
        (table(1).replace(",9_0", ""), "line 2: 9 labels, not 10"),
        (table(1).replace("\tNone.\t", "\t"), "line 3 has 2 columns"),
    ] {
        fs::write(folder.path().join("blurb_hoc_train.tsv"), broken).unwrap();
        let message = load(folder.path(), "document", "blurb").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\n{expected}");
    }
    let train: String = (0..20).map(|i| format!("Sentence {i}\tempty\n\n")).collect();
    fs::write(folder.path().join("biogpt_hoc_train.tsv"), train).unwrap();
    let test = format!("Cells die\t{}|{}\n", LABELS[0], LABELS[7]);
    fs::write(folder.path().join("biogpt_hoc_test.tsv"), test).unwrap();
    let data = load(folder.path(), "sentence", "biogpt").unwrap();
    assert_eq!((data.train.len(), data.dev.len(), data.notes.len()), (18, 2, 1));
    assert_eq!(data.test[0].labels, [0, 7]);
    fs::write(folder.path().join("biogpt_hoc_test.tsv"), "Cells die\n").unwrap();
    let message = load(folder.path(), "sentence", "biogpt").unwrap_err().to_string();
    assert!(message.contains("line 1 has 1 columns between tabs, not 2"), "{message}");
}

#[test]
fn the_original_corpus_is_read_with_listed_splits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("text")).unwrap();
    fs::create_dir(at.join("labels")).unwrap();
    for id in 1..4 {
        fs::write(at.join(format!("text/{id}.txt")), format!("First of {id}.\nSecond.\nThird.\n"))
            .unwrap();
        let labels = "< <Resisting cell death--Apoptosis ANDCellular energetics--<NULL ";
        fs::write(at.join(format!("labels/{id}.txt")), labels).unwrap();
    }
    fs::write(at.join("hoc_splits.json"), r#"{"train":["1"],"dev":["2"],"test":["3"]}"#).unwrap();
    let data = load(at, "document", "listed").unwrap();
    assert_eq!(data.test[0].labels, [2, 7]);
    assert_eq!(data.test[0].passage, "First of 3. Second. Third.");
    fs::write(at.join("labels/2.txt"), "< < ").unwrap();
    let message = load(at, "document", "listed").unwrap_err().to_string();
    assert!(message.contains("2 entries for 3 sentences"), "{message}");
    fs::write(at.join("labels/2.txt"), "< < <Ageing--").unwrap();
    let message = load(at, "document", "listed").unwrap_err().to_string();
    assert!(message.contains("entry 3: unknown label 'Ageing'"), "{message}");
}

/// The real files, beside some checkouts.
fn real() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/hoc");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn score(form: &str, examples: &[Example], answers: &[Vec<String>], which: usize) -> f64 {
    let value = Hoc.score(form, examples, answers)[which].value;
    (value * 1e5).round() / 1e5
}

#[test]
fn published_fixtures_of_sentences_are_reproduced() {
    let Some(folder) = real() else { return };
    let data = load(&folder, "sentence", "biogpt").unwrap();
    let answer = |example: &Example| Hoc.parse(&Hoc.target(&example.labels));
    let gold: Vec<Vec<String>> = data.test.iter().map(answer).collect();
    assert_eq!(gold.len(), 4947);
    let score = |answers: &[Vec<String>]| score("sentence", &data.test, answers, 0);
    assert_eq!(score(&gold), 1.0);
    assert_eq!(score(&vec![vec![EMPTY.to_string()]; gold.len()]), 0.67899);
    let mut shifted = gold;
    shifted.rotate_right(1);
    assert_eq!(score(&shifted), 0.61885);
    // Without the eleventh class, as documents are scored.
    let value = Hoc.score("document", &data.test, &shifted)[0].value;
    assert_eq!((value * 1e5).round() / 1e5, 0.34144);
}

#[test]
fn published_fixtures_of_documents_are_reproduced() {
    let Some(folder) = real() else { return };
    let sentences = load(&folder, "sentence", "blurb").unwrap();
    let documents = load(&folder, "document", "blurb").unwrap();
    let sizes = [&documents.train, &documents.dev, &documents.test].map(Vec::len);
    assert_eq!(sizes, [1295, 186, 371]);
    assert_eq!(sentences.test.len(), 3547);
    // Labels of the previous sentence, the first getting the last's.
    let mut shifted: Vec<Vec<usize>> = sentences.test.iter().map(|e| e.labels.clone()).collect();
    shifted.rotate_right(1);
    let answers: Vec<Vec<String>> = documents
        .test
        .iter()
        .map(|document| {
            let of = |id: &str| id.split_once("_s").is_some_and(|(pmid, _)| pmid == document.id);
            let found = sentences.test.iter().zip(&shifted).filter(|(s, _)| of(&s.id));
            Hoc.words(&found.flat_map(|(_, labels)| labels.clone()).collect::<Vec<_>>())
        })
        .collect();
    let test = &documents.test;
    assert_eq!(score("document", test, &answers, 0), 0.83318);
    assert_eq!(score("document", test, &answers, 1), 0.80589);
    assert_eq!(score("document", test, &answers, 2), 0.85130);
    let eight = vec![Hoc.words(&[8]); test.len()];
    assert_eq!(score("document", test, &eight, 0), 0.24561);
    let support: Vec<usize> =
        (0..10).map(|label| test.iter().filter(|e| e.labels.contains(&label)).count()).collect();
    assert_eq!(support, [62, 14, 19, 24, 53, 65, 23, 79, 105, 40]);
    let labelled = test.iter().filter(|e| !e.labels.is_empty()).count();
    let flags = |answers: &[Vec<String>]| -> Vec<Flags> {
        answers.iter().map(|words| flags(words, false, false)).collect()
    };
    let truth: Vec<Vec<String>> = test.iter().map(|e| Hoc.words(&e.labels)).collect();
    let blue = example_based(&flags(&truth), &flags(&answers));
    assert_eq!(labelled, 318);
    assert_eq!([blue.precision, blue.recall].map(|x| (x * 1e5).round() / 1e5), [0.78244, 0.93344]);
}

#[test]
fn every_source_of_the_corpus_agrees() {
    let Some(folder) = real() else { return };
    let sizes = |split| {
        let data = load(&folder, "document", split).unwrap();
        [data.train.len(), data.dev.len(), data.test.len()]
    };
    assert_eq!(sizes("cambridge"), [1303, 183, 366]);
    assert_eq!(sizes("standin"), [1108, 157, 315]);
    assert_eq!(sizes("biogpt"), [948, 105, 527]);
    // BLURB's tables alone give the documents of the original corpus.
    let only = tempfile::tempdir().unwrap();
    for part in ["train", "dev", "test"] {
        let name = format!("blurb_hoc_{part}.tsv.gz");
        fs::copy(folder.join(&name), only.path().join(&name)).unwrap();
    }
    let tables = load(only.path(), "document", "blurb").unwrap();
    let documents = load(&folder, "document", "blurb").unwrap();
    let labels = |data: &TaskData| {
        let mut labels: Vec<_> =
            data.test.iter().map(|e| (e.id.clone(), e.labels.clone())).collect();
        labels.sort();
        labels
    };
    assert_eq!(labels(&tables), labels(&documents));
}
