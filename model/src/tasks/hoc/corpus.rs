//! The files of Hallmarks of Cancer, in the four shapes that they go about in.
//!
//! | split | files, in the order in which they are looked for |
//! |---|---|
//! | blurb | `hoc_documents.jsonl` by `blurb_split`; `blurb_hoc_{train,dev,test}.tsv` (for sentences, these come first) |
//! | cambridge, standin | `hoc_documents.jsonl` by `cambridge_split`, `standin_split` |
//! | biogpt | for sentences `biogpt_hoc_{train,test}.tsv`; else `hoc_documents.jsonl` by `biogpt_split` |
//! | listed | the original corpus (`text/*.txt` and `labels/*.txt`) with ids in `hoc_splits.json` |
//!
//! The original corpus has one sentence a line, and one line of labels a file: an entry per
//! sentence, each after a `<`; hallmarks joined by `AND`, refinements after `--`, none or `NULL` for
//! no hallmark.

use crate::error::Error;
use crate::tasks::checks;
use crate::tasks::files;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The hallmarks, in alphabetical order, as every source numbers them.
pub const LABELS: &[&str] = &[
    "activating invasion and metastasis",
    "avoiding immune destruction",
    "cellular energetics",
    "enabling replicative immortality",
    "evading growth suppressors",
    "genomic instability and mutation",
    "inducing angiogenesis",
    "resisting cell death",
    "sustaining proliferative signaling",
    "tumor promoting inflammation",
];

/// The word for no label.
pub(super) const EMPTY: &str = "empty";

/// An abstract, or with BioGPT's files a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// PMID, or file and line.
    pub id: String,
    /// Sentences with their labels in rising order.
    pub sentences: Vec<(String, Vec<usize>)>,
}

/// What a document is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Training.
    Train,
    /// Choosing and stopping.
    Dev,
    /// Judging.
    Test,
}

/// Documents of one split.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// In the order of their files.
    pub documents: Vec<(Part, Document)>,
}

/// Reads the documents of a split.
/// # Errors
/// If files are missing or malformed, or a label is unknown.
pub fn load(folders: &[PathBuf], split: &str, sentences: bool) -> Result<Corpus, Error> {
    let has = |name| files::find(folders, name).is_some();
    let documents = match split {
        "listed" => original(folders)?,
        "biogpt" if sentences && has("biogpt_hoc_train.tsv") => biogpt(folders)?,
        "blurb" if has("blurb_hoc_train.tsv") && (sentences || !has("hoc_documents.jsonl")) => {
            blurb(folders)?
        }
        _ => jsonl(&files::need(folders, "hoc_documents.jsonl")?, split)?,
    };
    Ok(Corpus { documents })
}

/// The number of a label, whatever its case.
fn label(path: &Path, place: &str, word: &str) -> Result<usize, Error> {
    let lower = word.trim().to_lowercase();
    LABELS.iter().position(|label| *label == lower).ok_or_else(|| {
        Error::malformed(
            path,
            format!("{place}: unknown label '{word}' (known: {})", LABELS.join(", ")),
        )
    })
}

fn labels<'w>(
    path: &Path,
    place: &str,
    words: impl Iterator<Item = &'w str>,
) -> Result<Vec<usize>, Error> {
    let mut labels = words.map(|word| label(path, place, word)).collect::<Result<Vec<_>, _>>()?;
    labels.sort_unstable();
    labels.dedup();
    Ok(labels)
}

fn sentence(path: &Path, place: &str, text: &str) -> Result<String, Error> {
    match files::one_line(text) {
        text if text.is_empty() => {
            Err(Error::malformed(path, format!("{place}: the sentence is empty")))
        }
        text => Ok(text),
    }
}

/// A line of `hoc_documents.jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    pmid: u64,
    sentences: Vec<String>,
    sentence_labels: Vec<Vec<String>>,
    raw_labels: Option<Vec<String>>,
    labels: Option<Vec<String>>,
    blurb_split: Option<String>,
    cambridge_split: Option<String>,
    biogpt_split: Option<String>,
    standin_split: Option<String>,
}

fn jsonl(path: &Path, split: &str) -> Result<Vec<(Part, Document)>, Error> {
    let mut documents = Vec::new();
    for (line, record) in files::json_lines::<Record>(path)? {
        let place = format!("line {line}");
        let refuse = |what: String| Err(Error::malformed(path, format!("{place}: {what}")));
        let (count, labelled) = (record.sentences.len(), record.sentence_labels.len());
        if count != labelled || record.raw_labels.as_ref().is_some_and(|raw| raw.len() != count) {
            return refuse(format!("{count} sentences have {labelled} entries of labels"));
        }
        if count == 0 {
            return refuse(format!("document {} has no sentence", record.pmid));
        }
        let mut sentences = Vec::with_capacity(count);
        for (at, (text, words)) in record.sentences.iter().zip(&record.sentence_labels).enumerate()
        {
            let found = labels(path, &place, words.iter().map(String::as_str))?;
            if let Some(raw) = &record.raw_labels
                && raw_labels(path, &place, &raw[at])? != found
            {
                return refuse(format!("sentence {at}: raw_labels and sentence_labels disagree"));
            }
            sentences.push((sentence(path, &place, text)?, found));
        }
        if let Some(words) = &record.labels {
            let mut union: Vec<usize> = sentences.iter().flat_map(|(_, l)| l.clone()).collect();
            union.sort_unstable();
            union.dedup();
            if labels(path, &place, words.iter().map(String::as_str))? != union {
                return refuse("labels are not the union of the sentences' labels".into());
            }
        }
        let part = match split {
            "blurb" => record.blurb_split,
            "cambridge" => record.cambridge_split,
            "biogpt" => record.biogpt_split,
            _ => record.standin_split,
        };
        let part = match part.as_deref() {
            None => continue,
            Some("train") => Part::Train,
            Some("dev" | "devel" | "val") => Part::Dev,
            Some("test") => Part::Test,
            Some(other) => return refuse(format!("{split}_split is '{other}', which is no part")),
        };
        documents.push((part, Document { id: record.pmid.to_string(), sentences }));
    }
    Ok(documents)
}

/// Rows of a tab-separated file with their line numbers; blank lines are passed over.
fn rows<const COLUMNS: usize>(
    path: &Path,
    text: &str,
) -> Result<Vec<(usize, [String; COLUMNS])>, Error> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let row = |(number, line): (usize, &str)| {
        let columns: Vec<String> = line.split('\t').map(str::to_string).collect();
        let found = columns.len();
        let columns = columns.try_into().map_err(|_| {
            let what = format!("line {number} has {found} columns between tabs, not {COLUMNS}");
            Error::malformed(path, what)
        })?;
        Ok((number, columns))
    };
    lines.map(row).collect()
}

fn blurb(folders: &[PathBuf]) -> Result<Vec<(Part, Document)>, Error> {
    let mut documents: Vec<(Part, Document)> = Vec::new();
    for (name, part) in [("train", Part::Train), ("dev", Part::Dev), ("test", Part::Test)] {
        let path = files::need(folders, &format!("blurb_hoc_{name}.tsv"))?;
        let first = documents.len();
        let mut rows = rows::<3>(&path, &files::read(&path)?)?.into_iter();
        match rows.next() {
            Some((_, header)) if header == ["labels", "sentence", "index"] => {}
            _ => return Err(Error::malformed(&path, "line 1 must be: labels, sentence, index")),
        }
        for (number, [flags, text, index]) in rows {
            let place = format!("line {number}");
            let labels = numbered(&flags)
                .map_err(|what| Error::malformed(&path, format!("{place}: {what}")))?;
            let Some((id, _)) = index.rsplit_once("_s") else {
                let what = format!("{place}: index '{index}' is not PMID_sNUMBER");
                return Err(Error::malformed(&path, what));
            };
            let sentence = (sentence(&path, &place, &text)?, labels);
            match documents[first..].last_mut() {
                Some((_, last)) if last.id == id => last.sentences.push(sentence),
                _ => {
                    let document = Document { id: id.to_string(), sentences: vec![sentence] };
                    documents.push((part, document));
                }
            }
        }
    }
    Ok(documents)
}

/// `0_0,1_1,…`: a label's number and whether it applies.
fn numbered(flags: &str) -> Result<Vec<usize>, String> {
    let mut labels = Vec::new();
    for (at, flag) in flags.split(',').enumerate() {
        match flag.split_once('_') {
            Some((number, "0" | "1")) if number == at.to_string() && at < LABELS.len() => {
                if flag.ends_with("_1") {
                    labels.push(at);
                }
            }
            _ => return Err(format!("labels: '{flag}' is not {at}_0 or {at}_1")),
        }
    }
    match flags.split(',').count() {
        count if count == LABELS.len() => Ok(labels),
        count => Err(format!("{count} labels, not {}", LABELS.len())),
    }
}

fn biogpt(folders: &[PathBuf]) -> Result<Vec<(Part, Document)>, Error> {
    let mut documents = Vec::new();
    for (name, part) in [("train", Part::Train), ("test", Part::Test)] {
        let path = files::need(folders, &format!("biogpt_hoc_{name}.tsv"))?;
        for (number, [text, words]) in rows::<2>(&path, &files::read(&path)?)? {
            let place = format!("line {number}");
            let words = words.split('|').filter(|word| word.trim() != EMPTY);
            let labels = labels(&path, &place, words)?;
            let sentences = vec![(sentence(&path, &place, &text)?, labels)];
            documents.push((part, Document { id: format!("{name}-{number}"), sentences }));
        }
    }
    Ok(documents)
}

/// One entry of the original corpus.
fn raw_labels(path: &Path, place: &str, entry: &str) -> Result<Vec<usize>, Error> {
    let names = entry.split("AND").map(|name| name.split("--").next().unwrap_or(name).trim());
    labels(path, place, names.filter(|name| !name.is_empty() && *name != "NULL"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    train: Vec<String>,
    dev: Vec<String>,
    test: Vec<String>,
}

fn original(folders: &[PathBuf]) -> Result<Vec<(Part, Document)>, Error> {
    let splits = files::need(folders, "hoc_splits.json")?;
    let listed: Listed = files::json(&splits)?;
    let Some(folder) =
        folders.iter().find(|f| f.join("text").is_dir() && f.join("labels").is_dir())
    else {
        let problem = "it lacks the folders text and labels of the corpus";
        return Err(Error::not_found(&folders[0], problem));
    };
    let mut texts: HashMap<String, Vec<(String, Vec<usize>)>> = HashMap::new();
    for id in files::list(&folder.join("text"), ".txt")? {
        let (text, entries) =
            (folder.join("text").join(format!("{id}.txt")), folder.join("labels"));
        let entries = entries.join(format!("{id}.txt"));
        let labels = files::read(&entries)?;
        let labels: Vec<&str> = labels.split('<').skip(1).collect();
        let lines = files::read(&text)?;
        let lines: Vec<&str> = lines.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.len() != labels.len() {
            let what = format!("{} entries for {} sentences", labels.len(), lines.len());
            return Err(Error::malformed(&entries, what));
        }
        let mut sentences = Vec::with_capacity(lines.len());
        for (at, (line, entry)) in lines.iter().zip(labels).enumerate() {
            let place = format!("entry {}", at + 1);
            let labels = raw_labels(&entries, &place, entry)?;
            sentences.push((sentence(&text, &format!("line {}", at + 1), line)?, labels));
        }
        texts.insert(id, sentences);
    }
    let mut documents = Vec::new();
    let parts = [(Part::Train, listed.train), (Part::Dev, listed.dev), (Part::Test, listed.test)];
    checks::ids(&splits, "", parts.iter().flat_map(|(_, l)| l).map(|id| &**id))?;
    for (part, id) in
        parts.into_iter().flat_map(|(part, ids)| ids.into_iter().map(move |id| (part, id)))
    {
        let Some(sentences) = texts.remove(&id) else {
            return Err(Error::malformed(
                &splits,
                format!("it lists {id}, which the corpus does not hold"),
            ));
        };
        documents.push((part, Document { id, sentences }));
    }
    Ok(documents)
}
