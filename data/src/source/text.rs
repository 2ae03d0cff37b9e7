//! Plain text: a blank line ends a document. Damage in one of its lines costs a document, and no other.

use std::path::Path;

use super::lines::{Line, Lines};
use super::record::{Event, MAX_RECORD, Record, Sink};
use super::stream::Stream;
use crate::DataError;
use crate::error::InputProblem;

/// Reads the documents of a text file.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut lines = Lines::new(stream, path);
    // One string of many lines: a string for each short line would take many times their bytes.
    let mut text = String::new();
    let mut damaged = false;
    loop {
        let problem = match lines.next()? {
            Some(Line::Text(line)) if !line.trim().is_empty() => {
                if !damaged {
                    text.push_str(line);
                    text.push('\n');
                }
                if (text.len() as u64) <= MAX_RECORD {
                    continue;
                }
                InputProblem::RecordTooLong { limit: MAX_RECORD }
            }
            Some(Line::Damaged(problem)) => problem,
            ended => {
                let ended = ended.is_none();
                if !text.is_empty() {
                    let paragraphs = vec![std::mem::take(&mut text)];
                    sink(Event::Record(Record { paragraphs, ..Record::default() }))?;
                }
                damaged = false;
                if ended {
                    return Ok(());
                }
                continue;
            }
        };
        text = String::new();
        if !damaged {
            sink(Event::Damaged(lines.wrong(problem)))?;
        }
        damaged = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damages, records};
    use super::*;

    #[test]
    fn blank_lines_end_documents() {
        let found = records("a.txt", b"\xEF\xBB\xBFone\ntwo\r\n\n\n  \nthree");
        let paragraphs: Vec<Vec<String>> = found.into_iter().map(|r| r.paragraphs).collect();
        assert_eq!(paragraphs, [["one\ntwo\n"], ["three\n"]]);
        assert!(records("a.txt", b"").is_empty());
        let (_, damages) = damages("a.txt", b"fine\nna\xefve");
        assert!(damages[0].contains("a.txt, line 2, byte 7: "), "{damages:?}");
    }

    #[test]
    fn a_document_too_long_loses_no_other() {
        let long = "many words\n".repeat(MAX_RECORD as usize / 11 + 1);
        let bytes = format!("one\n\n{long}{long}\nthree\n");
        let (found, damages) = damages("a.txt", bytes.as_bytes());
        let paragraphs: Vec<Vec<String>> = found.into_iter().map(|r| r.paragraphs).collect();
        assert_eq!(paragraphs, [["one\n"], ["three\n"]]);
        assert!(damages.len() == 1 && damages[0].contains("longer than 64 MiB"), "{damages:?}");
    }

    #[test]
    fn any_damaged_byte_costs_its_document_alone() {
        let text = "first of them\nhas two lines\n\nsecond one\n\nthird of all\nends here\n";
        let whole = records("a.txt", text.as_bytes());
        // Where each document ends, with the blank line.
        let ends: Vec<usize> = text.match_indices("\n\n").map(|(at, _)| at + 1).collect();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = 0xFF;
            let hit = ends.iter().filter(|&&end| at > end).count();
            let (found, damages) = damages("a.txt", &bytes);
            let line = 1 + text[..at].matches('\n').count();
            assert_eq!(damages.len(), 1, "byte {at}");
            assert!(damages[0].starts_with(&format!("a.txt, line {line}, byte {at}: 0xff ")));
            // A blank line between two documents is damage to both.
            let lost = if ends.contains(&at) || ends.contains(&(at + 1)) { 2 } else { 1 };
            let kept: Vec<_> = whole
                .iter()
                .enumerate()
                .filter(|(number, _)| !(hit..hit + lost).contains(number))
                .map(|(_, record)| record.clone())
                .collect();
            assert!(kept.iter().all(|record| found.contains(record)), "byte {at}: {found:?}");
        }
    }
}
