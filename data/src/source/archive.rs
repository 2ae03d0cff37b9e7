//! Archives: the members of a `.tar` whose names are those of inputs.
//!
//! A damaged member does not lose the others. Names and headers are bounded like records, so that an
//! archive that was made to fill the memory does not.

use std::io::{self, Read};
use std::path::Path;

use super::format::{Compression, Format, RecordFormat, format_of};
use super::parse;
use super::record::{Event, MAX_RECORD, Sink};
use super::stream::Stream;
use crate::DataError;
use crate::error::{InputPlace, InputProblem, brief};

/// Reads every member of a known format.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let (position, budget) = (stream.position(), stream.budget());
    let broken = |problem| {
        DataError::input(path, Some(InputPlace { line: None, offset: position.get() }), problem)
    };
    let damaged =
        |error: io::Error| broken(InputProblem::ArchiveDamaged { why: error.to_string() });
    let mut archive = tar::Archive::new(stream);
    let mut entries = archive.entries().map_err(damaged)?;
    loop {
        // Long names and extended headers are held whole.
        budget.set(MAX_RECORD);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(damaged)?;
        budget.set(u64::MAX);
        let name = entry.path().map(|p| p.into_owned()).unwrap_or_default();
        if entry.header().entry_type().is_file()
            && let Some((format, compression)) = format_of(&name)
        {
            // For messages. Joined as it is, an absolute name would take the place of the archive's.
            let inside = brief(name.display());
            let inside = path.join(inside.trim_start_matches('/'));
            let size = entry.size();
            match format {
                Format::Tar => {
                    let problem = InputProblem::NestedArchive;
                    sink(Event::Damaged(DataError::input(&inside, None, problem)))?;
                }
                Format::Records(_) if size > MAX_RECORD => {
                    let problem = InputProblem::MemberTooLong { size, limit: MAX_RECORD };
                    sink(Event::Damaged(DataError::input(&inside, None, problem)))?;
                }
                Format::Records(format) => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(damaged)?;
                    if (bytes.len() as u64) < size {
                        return Err(broken(InputProblem::MemberCut { member: inside }));
                    }
                    member(format, compression, &inside, &bytes, sink)?;
                }
            }
        }
        // What is left is passed over here, where its length does not count.
        io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
    }
}

/// Reads one member; its damage is an event, an error of `sink` is an error.
fn member(
    format: RecordFormat,
    compression: Compression,
    path: &Path,
    bytes: &[u8],
    sink: Sink,
) -> Result<(), DataError> {
    let mut stopped = false;
    let mut watched = |event| sink(event).inspect_err(|_| stopped = true);
    let outcome = Stream::memory(bytes, compression, path)
        .and_then(|stream| parse::read(format, stream, path, &mut watched));
    match outcome {
        Err(damage) if !stopped => sink(Event::Damaged(damage)),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::parse;
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append(&header, *bytes).expect("append");
        }
        archive.into_inner().expect("archive")
    }

    #[test]
    fn members_are_read_and_damage_names_archive_and_member() {
        let bytes = archive(&[
            ("x/a.jsonl", b"{\"text\": \"one\"}\n"),
            ("readme.md", b"no input"),
            ("/abs\n/b.jsonl", b"{\"text\": \n"),
            ("c.xml.gz", b"not gzip"),
            ("d.tar", b"archive"),
            ("e.txt", b"two"),
        ]);
        let (events, error) = parse("all.tar", &bytes);
        assert!(error.is_none(), "{error:?}");
        let damage = |event: &Event| match event {
            Event::Damaged(damage) => damage.to_string(),
            _ => String::new(),
        };
        let damages: Vec<String> = events.iter().map(damage).collect();
        assert_eq!(damages.len(), 5);
        for (damage, says) in damages.iter().zip([
            "",
            r"all.tar/abs\n/b.jsonl, line 1, byte 0: ",
            "all.tar/c.xml.gz, byte 0: ",
            "all.tar/d.tar: ",
            "",
        ]) {
            assert!(damage.starts_with(says) && damage.is_empty() == says.is_empty(), "{damage}");
        }
    }

    #[test]
    fn every_cut_is_found_and_loses_no_member_before_it() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", &[b'x'; 700])]);
        for cut in (513..3 * 512 + 700).step_by(50) {
            let (events, error) = parse("a.tar", &bytes[..cut]);
            let whole = cut >= 512 + 3;
            assert_eq!(events.len(), usize::from(whole), "cut at {cut}");
            let at_an_edge = cut == 1024;
            assert!(at_an_edge || error.is_some_and(|e| e.to_string().starts_with("a.tar, byte ")));
        }
    }

    #[test]
    fn a_name_without_end_is_not_held() {
        let mut header = tar::Header::new_gnu();
        header.set_path("././@LongLink").expect("short");
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 33);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(MAX_RECORD as usize + (1 << 20), b'x');
        let message = parse("a.tar", &bytes).1.expect("too long").to_string();
        assert!(message.contains("longer than 64 MiB"), "{message}");
    }
}
