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
    /// Damaged: a line, a record of XML, a member of an archive.
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
    /// Languages wanted, as two-letter codes; records, and parts of records, that declare others only
    /// are dropped, those that declare none are kept. Empty: any.
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

/// The text of a record, in its own language, as a document has it: title and paragraphs, a line each,
/// cleaned.
pub fn text_of(record: &Record) -> String {
    let mut text = normalise(&record.title);
    add(&mut text, &record.paragraphs);
    text
}

fn add(text: &mut String, paragraphs: &[String]) {
    for paragraph in paragraphs.iter().flat_map(|p| p.split('\n')) {
        let paragraph = normalise(paragraph);
        if !paragraph.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&paragraph);
        }
    }
}

impl Cleaning {
    /// The document of a record, or the first reason against it. Language is judged part by part: a
    /// document has what is in a wanted one, or declares none.
    pub fn clean(&self, record: Record) -> Result<Document, DropReason> {
        let is_wanted = |language: &String| {
            self.languages.is_empty() || self.languages.contains(&two_letters(language))
        };
        let is_own_wanted = record.languages.is_empty() || record.languages.iter().any(is_wanted);
        let mut translations =
            record.translations.iter().filter(|part| is_wanted(&part.language)).peekable();
        let (title, mut text) = match translations.peek() {
            Some(part) if !is_own_wanted => (normalise(&part.title), normalise(&part.title)),
            _ => (normalise(&record.title), text_of(&record)),
        };
        for part in translations.clone() {
            add(&mut text, &part.paragraphs);
        }
        if text.is_empty() {
            Err(DropReason::Empty)
        } else if text.len() == title.len() {
            Err(DropReason::TitleOnly)
        } else if !is_own_wanted && translations.next().is_none() {
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
    use crate::source::Translation;

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
        for (own, expected) in
            [("en", "t\none two three four five"), ("pt", "T\nuno dos tres cuatro cinco")]
        {
            let part = Translation {
                language: "Spanish".to_owned(),
                title: "T".to_owned(),
                paragraphs: vec!["uno dos tres cuatro cinco".to_owned()],
            };
            let record = Record { translations: vec![part], ..in_language(&[own]) };
            let wanted = |codes: &[&str]| Cleaning {
                languages: codes.iter().map(|c| (*c).to_owned()).collect(),
                ..cleaning.clone()
            };
            let text =
                |codes: &[&str]| wanted(codes).clean(record.clone()).map(|document| document.text);
            assert_eq!(text(&[if own == "en" { "en" } else { "es" }]).as_deref(), Ok(expected));
            assert_eq!(text(&["de"]), Err(DropReason::Language));
            assert_eq!(
                text(&["en", "pt", "es"]).expect("kept"),
                "t\none two three four five\nuno dos tres cuatro cinco"
            );
        }
        let any = Cleaning { languages: Vec::new(), keep_retracted: true, ..cleaning };
        assert!(any.clean(Record { retracted: true, ..in_language(&["jpn"]) }).is_ok());
    }
}
