//! Records → documents, or reasons why not.
//!
//! A document is a title and paragraphs, a line each, in Unicode's composed form (NFC), with white
//! space reduced and characters that nobody sees removed. What depends on other documents
//! (duplicates, revisions) is decided later, from the sketch of each.

mod language;
mod normalise;
pub(crate) mod sketch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::normalise::normalise;
use crate::source::Record;

pub use language::two_letters;

/// A text to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What the document is about; see [`Record::identity`].
    pub identity: Option<String>,
    /// Title and paragraphs; never empty in a dataset.
    pub text: String,
}

/// Why a record is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No text at all.
    Empty = 1,
    /// A title without an abstract: too little to learn from, and a third of PubMed (paper, §3.1).
    TitleOnly,
    /// In another language than those wanted.
    Language,
    /// Retracted.
    Retracted,
    /// Fewer words than wanted.
    TooShort,
    /// A record of JSONL or an archive that is damaged.
    Malformed,
    /// A later record of the same number took its place.
    Replaced,
    /// Withdrawn by PubMed.
    Deleted,
    /// The same text as an earlier document.
    Duplicate,
    /// Nearly the same text as an earlier document.
    NearDuplicate,
}

impl DropReason {
    /// All reasons, in the order in which they are looked for.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Empty,
        Self::TitleOnly,
        Self::Language,
        Self::Retracted,
        Self::TooShort,
        Self::Replaced,
        Self::Deleted,
        Self::Duplicate,
        Self::NearDuplicate,
    ];

    /// The name under which drops of this kind are counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TitleOnly => "title_only",
            Self::Language => "language",
            Self::Retracted => "retracted",
            Self::TooShort => "too_short",
            Self::Malformed => "malformed",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near_duplicate",
        }
    }

    /// A count of zero for every reason.
    pub(crate) fn zeros() -> BTreeMap<String, u64> {
        Self::ALL.iter().map(|reason| (reason.name().to_owned(), 0)).collect()
    }
}

/// Which records to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Languages wanted, as two-letter codes; records that declare others only are dropped, those
    /// that declare none are kept. Empty: any.
    pub languages: Vec<String>,
    /// Fewest words of a document.
    pub min_words: usize,
    /// Keep retracted work.
    pub keep_retracted: bool,
    /// Drop documents that share at least this fraction (Jaccard similarity) of their runs of five
    /// words with an earlier one; `None`: only exact duplicates.
    pub near_duplicates: Option<f64>,
}

impl Default for Cleaning {
    fn default() -> Self {
        Self {
            languages: vec!["en".to_owned()],
            min_words: 5,
            keep_retracted: false,
            near_duplicates: Some(0.8),
        }
    }
}

/// The text of a record as a document has it: title and paragraphs, a line each, cleaned.
pub fn text_of(record: &Record) -> String {
    let mut text = normalise(&record.title);
    for paragraph in record.paragraphs.iter().flat_map(|p| p.split('\n')) {
        let paragraph = normalise(paragraph);
        if !paragraph.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&paragraph);
        }
    }
    text
}

impl Cleaning {
    /// The document of a record, or the first reason against it.
    pub fn clean(&self, record: Record) -> Result<Document, DropReason> {
        let text = text_of(&record);
        let unwanted = |language: &String| !self.languages.contains(&two_letters(language));
        if text.is_empty() {
            Err(DropReason::Empty)
        } else if text.len() == normalise(&record.title).len() {
            Err(DropReason::TitleOnly)
        } else if !self.languages.is_empty()
            && !record.languages.is_empty()
            && record.languages.iter().all(unwanted)
        {
            Err(DropReason::Language)
        } else if record.retracted && !self.keep_retracted {
            Err(DropReason::Retracted)
        } else if text.split_whitespace().take(self.min_words).count() < self.min_words {
            Err(DropReason::TooShort)
        } else {
            Ok(Document { identity: record.identity, text })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(title: &str, paragraphs: &[&str]) -> Record {
        Record {
            title: title.to_owned(),
            paragraphs: paragraphs.iter().map(|p| (*p).to_owned()).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn text_is_normalised() {
        let messy = record(
            " A\u{a0}\u{2009}title\u{ad}s ",
            &["e\u{301}\u{200b} \t x\u{1}", " ", "two\r\nli\u{2060}nes and wo\u{200f}rds"],
        );
        let document = Cleaning::default().clean(messy).expect("kept");
        assert_eq!(document.text, "A titles\né x\ntwo\nlines and words");
    }

    #[test]
    fn every_reason_is_given() {
        let cleaning = Cleaning::default();
        let body = "one two three four five";
        let in_language = |languages: &[&str]| Record {
            languages: languages.iter().map(|l| (*l).to_owned()).collect(),
            ..record("t", &[body])
        };
        for (record, expected) in [
            (record(" ", &["\u{feff}"]), Err(DropReason::Empty)),
            (record("title", &[" "]), Err(DropReason::TitleOnly)),
            (in_language(&["ger"]), Err(DropReason::Language)),
            (in_language(&["ger", "eng"]), Ok(())),
            (in_language(&["en-GB"]), Ok(())),
            (in_language(&[]), Ok(())),
            (Record { retracted: true, ..record("t", &[body]) }, Err(DropReason::Retracted)),
            (record("t", &["one two three"]), Err(DropReason::TooShort)),
            (record("", &[body]), Ok(())),
        ] {
            assert_eq!(cleaning.clean(record).map(drop), expected);
        }
        let any = Cleaning { languages: Vec::new(), keep_retracted: true, ..cleaning };
        assert!(any.clean(Record { retracted: true, ..in_language(&["jpn"]) }).is_ok());
    }
}
