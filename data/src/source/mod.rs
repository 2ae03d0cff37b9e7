//! Input files → records: what every format has to say, in one form.
//!
//! | module | reads | by its name |
//! |---|---|---|
//! | [`pubmed`] | PubMed citations, baseline and update files | `.xml` |
//! | [`jats`] | PubMed Central articles | `.nxml`, `.xml` |
//! | [`jsonl`] | one JSON object a line | `.jsonl` |
//! | [`text`] | plain text, a blank line between documents | `.txt` |
//!
//! each plain, gzip (several members too) or zstd, or inside a `.tar`. Whether XML is PubMed's or
//! JATS is told by its first element. Parsers push [`Event`]s, hold one record at a time, and name
//! path and byte when something is wrong; what came before the damage has then been handed out.

mod archive;
pub mod jats;
pub mod jsonl;
pub mod pubmed;
mod stream;
pub mod text;
mod xml;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use crate::DataError;
use stream::Stream;

/// Longest accepted record, in bytes of decompressed input (64 MiB): a decompression bomb ends in an
/// error and not in memory.
pub const MAX_RECORD: u64 = 64 << 20;

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
    /// A damaged record that could be stepped over.
    Damaged(DataError),
}

/// Takes what a parser finds; an error stops the parser.
pub type Sink<'a> = &'a mut dyn FnMut(Event) -> Result<(), DataError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Jsonl,
    Xml,
    Text,
    Tar,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

const ENDINGS: [(&str, Format); 5] = [
    (".jsonl", Format::Jsonl),
    (".xml", Format::Xml),
    (".nxml", Format::Xml),
    (".txt", Format::Text),
    (".tar", Format::Tar),
];

/// For messages: the names that are read.
const KNOWN: &str =
    "inputs end in .xml, .nxml, .jsonl, .txt or .tar, perhaps followed by .gz or .zst";

fn format_of(path: &Path) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    if name.starts_with('.') {
        return None;
    }
    let (name, compression) = if let Some(plain) = name.strip_suffix(".gz") {
        (plain.to_owned(), Compression::Gzip)
    } else if let Some(archive) = name.strip_suffix(".tgz") {
        (format!("{archive}.tar"), Compression::Gzip)
    } else if let Some(plain) = name.strip_suffix(".zst") {
        (plain.to_owned(), Compression::Zstd)
    } else {
        (name, Compression::None)
    };
    let (_, format) = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending))?;
    Some((*format, compression))
}

/// How a JSONL file is compressed, by its name; `None` if it is not JSONL by its name.
pub(crate) fn jsonl_compression(path: &Path) -> Option<Compression> {
    format_of(path).filter(|(format, _)| *format == Format::Jsonl).map(|(_, c)| c)
}

/// The files that `inputs` stand for, in order, each with the index of its input. A folder stands
/// for the files of known formats in it and below, sorted by path.
///
/// # Errors
/// When an input does not exist or is of no known format, or a folder holds none.
pub fn find(inputs: &[PathBuf]) -> Result<Vec<(usize, PathBuf)>, DataError> {
    let mut files = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let kind = fs::metadata(input).map_err(|e| DataError::io("open", input, e))?;
        let before = files.len();
        if kind.is_dir() {
            let mut found = Vec::new();
            walk(input, &mut found)?;
            found.sort();
            files.extend(found.into_iter().map(|path| (index, path)));
        } else if !kind.is_file() {
            return Err(DataError::file(input, "not a regular file", "name a file or a folder"));
        } else if format_of(input).is_none() {
            return Err(DataError::file(input, "not known as an input by its name", KNOWN));
        } else {
            files.push((index, input.clone()));
        }
        if files.len() == before {
            return Err(DataError::file(input, "the folder holds no input", KNOWN));
        }
    }
    if files.is_empty() {
        return Err(DataError::request("no input was named", "name files or folders"));
    }
    Ok(files)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(|e| DataError::io("list", folder, e))? {
        let path = entry.map_err(|e| DataError::io("list", folder, e))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_dir());
        if is_folder {
            walk(&path, found)?;
        } else if format_of(&path).is_some() && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads one file, adding the bytes read from the disk to `bytes_read`.
///
/// # Errors
/// When the file cannot be read to its end (what came before has been handed to `sink`), or `sink`
/// returns an error.
pub fn read(path: &Path, bytes_read: &AtomicU64, sink: Sink) -> Result<(), DataError> {
    let (format, compression) = known_format(path)?;
    let file = fs::File::open(path).map_err(|e| DataError::io("open", path, e))?;
    read_stream(format, Stream::decompress(file, compression, path, bytes_read)?, path, sink)
}

/// Reads what would be the file `name`, from memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &Path, bytes: &[u8], sink: Sink) -> Result<(), DataError> {
    let (format, compression) = known_format(name)?;
    read_stream(format, Stream::memory(bytes, compression, name)?, name, sink)
}

fn known_format(path: &Path) -> Result<(Format, Compression), DataError> {
    format_of(path).ok_or_else(|| DataError::file(path, "not known as an input by its name", KNOWN))
}

fn read_stream(format: Format, stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    match format {
        Format::Jsonl => jsonl::read(stream, path, sink),
        Format::Text => text::read(stream, path, sink),
        Format::Xml => xml::read(stream, path, sink),
        Format::Tar => archive::read(stream, path, sink),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Running a parser on bytes.

    use super::*;

    /// What the parser of `name`'s format makes of `bytes`.
    pub fn parse(name: &str, bytes: &[u8]) -> (Vec<Event>, Option<DataError>) {
        let mut events = Vec::new();
        let outcome = read_bytes(Path::new(name), bytes, &mut |event| {
            events.push(event);
            Ok(())
        });
        (events, outcome.err())
    }

    /// The records of an undamaged input.
    pub fn records(name: &str, bytes: &[u8]) -> Vec<Record> {
        let (events, error) = parse(name, bytes);
        assert!(error.is_none(), "{error:?}");
        let record = |event| match event {
            Event::Record(record) => Some(record),
            Event::Damaged(damage) => panic!("{damage}"),
            Event::Deleted(_) => None,
        };
        events.into_iter().filter_map(record).collect()
    }
}
