//! What every format has to say, in one form.

use crate::DataError;

/// Longest accepted record, in bytes of decompressed input (64 MiB): a longer one is passed over and
/// never in memory.
pub(crate) const MAX_RECORD: u64 = 64 << 20;

/// One record of an input, before cleaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What the record is about, the same in every format: `PMID:…`, `PMC:…`, `DOI:…` or `ID:…`.
    pub identity: Option<String>,
    /// A number under which later records replace earlier ones, with the record's version.
    pub revision: Option<Revision>,
    /// Languages declared, as written; none if the source says nothing.
    pub languages: Vec<String>,
    /// The source says that the work was retracted.
    pub retracted: bool,
    /// The title, perhaps empty.
    pub title: String,
    /// Everything else, a paragraph each or, as texts come, several in lines.
    pub paragraphs: Vec<String>,
    /// Parts that declare another language than the record does.
    pub translations: Vec<Translation>,
}

/// A part of a record in a language of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The language, as written.
    pub language: String,
    /// The title in it, perhaps empty.
    pub title: String,
    /// Its paragraphs.
    pub paragraphs: Vec<String>,
}

/// A place in a registry whose records are revised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The registry.
    pub registry: Registry,
    /// The record's number there.
    pub number: u64,
    /// The record's version.
    pub version: u32,
}

/// Where records have numbers that others replace them under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// PubMed, by PMID.
    PubMed,
    /// PubMed Central, by PMCID.
    Pmc,
}

/// What a parser found.
#[derive(Debug)]
pub enum Event {
    /// A record.
    Record(Record),
    /// PMIDs that PubMed has withdrawn, wherever they came before.
    Deleted(Vec<u64>),
    /// A damaged record that was stepped over.
    Damaged(DataError),
    /// Something that costs no record but should be known, told once with its count.
    Noted(DataError),
}

/// Takes what a parser finds; an error stops the parser.
pub type Sink<'a> = &'a mut dyn FnMut(Event) -> Result<(), DataError>;
