//! Hallmarks of Cancer (Baker et al., 2016): which of ten hallmarks does a text speak of?
//!
//! Published scores differ in unit, split and metric; here all three are named with every number.
//!
//! * **document** (the paper's unit): source = the abstract's sentences joined by blanks, labels =
//!   their union, scored by micro-F1 over ten labels (BLURB), with macro-F1 and BLUE's example-based
//!   F1 beside it.
//! * **sentence** (BioGPT's unit): a sentence without hallmark has the label `empty`, and micro-F1
//!   is over eleven classes, that one included.
//!
//! Target (BioGPT's): `the type of this document is {labels}.`, labels joined by `|`, or `empty`.
//! The files and splits are those of the module [`corpus`].

pub mod corpus;

use super::metrics::{Flags, example_based, multilabel_macro_f1, multilabel_micro_f1};
use super::{
    Example, FAILED, Published, Recipe, Request, Task, TaskData, TaskScore, after_template, checks,
};
use crate::error::Error;
use corpus::{Document, EMPTY};

pub use corpus::LABELS;

/// The task.
pub struct Hoc;

const TEMPLATE: &str = "the type of this document is";

const SENTENCE: &str = "sentence";
const FORMS: &[&str] = &["document", SENTENCE];
const SPLITS: &[&str] = &["blurb", "cambridge", "biogpt", "standin", "listed"];

/// MediSwift Table 4: micro-F1 of documents in a split that cannot be had any more.
const PUBLISHED: &[Published] = &[
    Published::medi_swift("MediSwift-Med", 302e6, 0.0, 0.8515),
    Published::medi_swift("MediSwift-Med", 302e6, 0.5, 0.8448),
    Published::medi_swift("MediSwift-Med", 302e6, 0.75, 0.8395),
    Published::medi_swift("MediSwift-Large", 510e6, 0.0, 0.8522),
    Published::medi_swift("MediSwift-Large", 510e6, 0.5, 0.8463),
    Published::medi_swift("MediSwift-Large", 510e6, 0.75, 0.8412),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.0, 0.8546),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.5, 0.8498),
    Published::medi_swift("MediSwift-XL", 1.21e9, 0.75, 0.8471),
    Published::other("BioBERT", 0.8154),
    Published::other("PubMedBERT", 0.8232),
    Published::other("BioLinkBERT-large", 0.8457),
    Published::other("GPT-2-med", 0.8154),
    Published::other("BioGPT-med", 0.8512),
];

impl Task for Hoc {
    fn name(&self) -> &'static str {
        "hoc"
    }

    fn title(&self) -> &'static str {
        "Hallmarks of Cancer"
    }

    fn labels(&self) -> &'static [&'static str] {
        LABELS
    }

    fn one_label(&self) -> bool {
        false
    }

    fn forms(&self) -> &'static [&'static str] {
        FORMS
    }

    fn splits(&self) -> &'static [&'static str] {
        SPLITS
    }

    /// MediSwift §3.3.2.
    fn recipe(&self) -> Recipe {
        Recipe {
            epochs: 100,
            patience: 5,
            batch: &[16, 32, 64],
            lr: &[8e-5, 4e-5, 2e-5, 1e-5],
            prompt_tokens: 1,
        }
    }

    fn load(&self, request: &Request<'_>) -> Result<TaskData, Error> {
        let sentences = request.form == SENTENCE;
        let corpus = corpus::load(request.folders, request.split, sentences)?;
        let folder = &request.folders[0];
        checks::ids(folder, "", corpus.documents.iter().map(|(_, document)| &*document.id))?;
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (part, document) in &corpus.documents {
            let examples = &mut parts[*part as usize];
            if sentences {
                examples.extend(sentence_examples(document));
            } else {
                examples.push(document_example(document));
            }
        }
        let [mut train, mut dev, test] = parts;
        let mut notes = Vec::new();
        if dev.is_empty() {
            // BioGPT's release validates on its test set.
            dev = train.split_off(train.len() - train.len() / 10);
            notes.push("the split has no dev set: the last tenth of train serves".to_string());
        }
        let empty = [("train", &train), ("dev", &dev), ("test", &test)];
        if let Some((part, _)) = empty.iter().find(|(_, examples)| examples.is_empty()) {
            return Err(Error::malformed(
                folder,
                format!("the {} split has no {part}", request.split),
            ));
        }
        let sizes = [train.len(), dev.len(), test.len()].map(|n| n.to_string()).join("/");
        let split = format!("{} split, {sizes} {}s", request.split, request.form);
        let data = TaskData { stages: Vec::new(), train, dev, test, split, notes };
        // Short sentences may well be written twice.
        checks::overlap(&data, request, !sentences)?;
        Ok(data)
    }

    fn template(&self) -> &'static str {
        TEMPLATE
    }

    fn target(&self, labels: &[usize]) -> String {
        let words: Vec<&str> = labels.iter().map(|&label| LABELS[label]).collect();
        let words = if words.is_empty() { EMPTY.into() } else { words.join("|") };
        format!("{TEMPLATE} {words}.")
    }

    fn parse(&self, text: &str) -> Vec<String> {
        let words = after_template(text, TEMPLATE).unwrap_or(FAILED);
        words.split('|').map(|word| word.trim().to_string()).collect()
    }

    fn score(&self, form: &str, examples: &[Example], answers: &[Vec<String>]) -> Vec<TaskScore> {
        let sentences = form == SENTENCE;
        let truth: Vec<Flags> = examples
            .iter()
            .map(|example| {
                flags(
                    &self.words(&example.labels),
                    sentences && example.labels.is_empty(),
                    sentences,
                )
            })
            .collect();
        let answers: Vec<Flags> =
            answers.iter().map(|words| flags(words, false, sentences)).collect();
        let score = |name: &str, value| TaskScore { name: format!("{name} per {form}"), value };
        if sentences {
            return vec![
                score("micro-F1 over 11 classes", multilabel_micro_f1(&truth, &answers)),
                score("macro-F1 over 11 classes", multilabel_macro_f1(&truth, &answers)),
            ];
        }
        let labelled = "example-based F1 (BLUE)";
        vec![
            score("micro-F1 over 10 labels", multilabel_micro_f1(&truth, &answers)),
            score("macro-F1 over 10 labels", multilabel_macro_f1(&truth, &answers)),
            score(labelled, example_based(&truth, &answers).f1),
        ]
    }

    fn published(&self) -> &'static [Published] {
        PUBLISHED
    }
}

/// Which labels the words name; with `sentences`, `empty` is the eleventh. Other words name none.
fn flags(words: &[String], empty: bool, sentences: bool) -> Flags {
    let mut flags = vec![false; LABELS.len() + usize::from(sentences)];
    for word in words {
        if let Some(label) = LABELS.iter().position(|label| label == word) {
            flags[label] = true;
        }
    }
    if sentences {
        flags[LABELS.len()] = empty || words.iter().any(|word| word == EMPTY);
    }
    flags
}

fn document_example(document: &Document) -> Example {
    let text: Vec<&str> = document.sentences.iter().map(|(text, _)| &**text).collect();
    let mut labels: Vec<usize> = document.sentences.iter().flat_map(|(_, l)| l.clone()).collect();
    labels.sort_unstable();
    labels.dedup();
    Example { id: document.id.clone(), head: String::new(), passage: text.join(" "), labels }
}

fn sentence_examples(document: &Document) -> impl Iterator<Item = Example> {
    document.sentences.iter().enumerate().map(|(at, (text, labels))| Example {
        id: format!("{}_s{at}", document.id),
        head: String::new(),
        passage: if text.ends_with('.') { text.clone() } else { format!("{text}.") },
        labels: labels.clone(),
    })
}

#[cfg(test)]
mod tests;
