//! Reading an input, whatever its format and compression.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use mediswift_files as files;

use super::format::{Format, known_format};
use super::record::{Event, Sink};
use super::stream::Stream;
use super::{archive, parse};
use crate::DataError;
use crate::error::InputProblem;

/// Reads one file.
///
/// # Errors
/// When the file cannot be read to its end (what came before has been handed to `sink`), or `sink`
/// returns an error.
pub fn read(path: &Path, sink: Sink) -> Result<(), DataError> {
    read_counted(path, &AtomicU64::new(0), sink)
}

/// Reads one file, adding the bytes read from the disk to `bytes_read`.
pub(crate) fn read_counted(
    path: &Path,
    bytes_read: &AtomicU64,
    sink: Sink,
) -> Result<(), DataError> {
    let (format, compression) = known_format(path)?;
    let file = files::open(path)?;
    read_stream(format, Stream::file(file, compression, path, bytes_read)?, path, sink)
}

/// Reads what would be the file `name`, from memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &Path, bytes: &[u8], sink: Sink) -> Result<(), DataError> {
    let (format, compression) = known_format(name)?;
    read_stream(format, Stream::memory(bytes, compression, name)?, name, sink)
}

/// An input from which nothing came is told of, whatever else it held.
fn read_stream(format: Format, stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut nothing = true;
    let mut watched = |event| {
        nothing &= !matches!(event, Event::Record(_) | Event::Damaged(_));
        sink(event)
    };
    match format {
        Format::Records(format) => parse::read(format, stream, path, &mut watched),
        Format::Tar => archive::read(stream, path, &mut watched),
    }?;
    if nothing {
        sink(Event::Noted(DataError::input(path, None, InputProblem::NoRecord)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{notes, records};

    #[test]
    fn an_input_without_a_record_says_so() {
        for (name, bytes) in [
            ("a.jsonl", ""),
            ("a.jsonl", "\n \n"),
            ("a.txt", "\u{feff}\n\n"),
            ("a.tar", ""),
            ("a.xml", "<PubmedArticleSet></PubmedArticleSet>"),
            ("a.xml", "<PubmedArticleSet/>"),
            (
                "a.xml",
                "<MedlineCitationSet><DeleteCitation><PMID>9</PMID></DeleteCitation></MedlineCitationSet>",
            ),
        ] {
            assert!(records(name, bytes.as_bytes()).is_empty());
            let notes = notes(name, bytes.as_bytes());
            assert!(notes.len() == 1 && notes[0].contains("no record"), "{notes:?} of {bytes}");
        }
        assert!(notes("a.txt", b"one").is_empty());
        let old = "<MedlineCitationSet><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T\
                   </ArticleTitle></Article></MedlineCitation></MedlineCitationSet>";
        assert_eq!(records("a.xml", old.as_bytes())[0].identity.as_deref(), Some("PMID:1"));
    }
}
