//! Plain text: a blank line ends a document.

use std::path::Path;

use super::lines::Lines;
use super::record::{Event, Record, Sink};
use super::stream::Stream;
use crate::DataError;

/// Reads the documents of a text file.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut lines = Lines::new(stream, path);
    // One string of many lines: a string for each short line would take many times their bytes.
    let mut text = String::new();
    loop {
        let line = lines.next()?;
        match line {
            Some(line) if !line.trim().is_empty() => {
                text.push_str(line);
                text.push('\n');
            }
            ended => {
                let ended = ended.is_none();
                if !text.is_empty() {
                    let paragraphs = vec![std::mem::take(&mut text)];
                    sink(Event::Record(Record { paragraphs, ..Record::default() }))?;
                }
                lines.renew();
                if ended {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{parse, records};

    #[test]
    fn blank_lines_end_documents() {
        let found = records("a.txt", b"\xEF\xBB\xBFone\ntwo\r\n\n\n  \nthree");
        let paragraphs: Vec<Vec<String>> = found.into_iter().map(|r| r.paragraphs).collect();
        assert_eq!(paragraphs, [["one\ntwo\n"], ["three\n"]]);
        assert!(records("a.txt", b"").is_empty());
        let message = parse("a.txt", b"fine\nna\xefve").1.expect("not UTF-8").to_string();
        assert!(message.contains("a.txt, line 2, byte 7: "), "{message}");
    }
}
