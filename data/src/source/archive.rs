//! Archives: the members of a `.tar` whose names are those of inputs.
//!
//! A damaged member does not lose the others, nor does a damaged header: the next whole one is looked
//! for. Archives may stand one after the other, and zeros after the last. Names and headers are bounded,
//! so that an archive that was made to fill the memory does not.

use std::io::{self, Read};
use std::path::Path;

use mediswift_files::brief;

use super::format::{Compression, Format, RecordFormat, format_of};
use super::parse;
use super::passed_over::PassedOver;
use super::record::{Event, MAX_RECORD, Sink};
use super::stream::{Stream, explain};
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// Reads every member of a known format.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut blocks =
        Blocks { stream, budget: u64::MAX, found: None, read: 0, failed: None, cut: false };
    let mut passed_over = PassedOver::default();
    let outcome = loop {
        match members(&mut blocks, path, &mut passed_over, sink) {
            Ok(()) => break Ok(()),
            Err(Ended::Sink(error)) => return Err(error),
            Err(Ended::Damage(damage)) => {
                if let Some(problem) = blocks.failed.take() {
                    break Err(blocks.wrong(path, problem));
                }
                sink(Event::Damaged(damage))?;
                if !blocks.find_header() {
                    break blocks.failed.take().map_or(Ok(()), |why| Err(blocks.wrong(path, why)));
                }
            }
        }
    };
    if let Some(problem) = passed_over.problem() {
        sink(Event::Noted(DataError::input(path, None, problem)))?;
    }
    outcome
}

/// Why the members of an archive end.
enum Ended {
    /// Its sink takes no more.
    Sink(DataError),
    /// It does not go on as archives do.
    Damage(DataError),
}

/// Reads members up to the end of the archive, or to damage.
fn members(
    blocks: &mut Blocks,
    path: &Path,
    passed_over: &mut PassedOver,
    sink: Sink,
) -> Result<(), Ended> {
    let shared = std::cell::RefCell::new(blocks);
    let broken = |problem| Ended::Damage(shared.borrow().wrong(path, problem));
    let damaged =
        |error: io::Error| broken(InputProblem::ArchiveDamaged { why: error.to_string() });
    let mut archive = tar::Archive::new(Shared(&shared));
    archive.set_ignore_zeros(true);
    let mut entries = archive.entries().map_err(damaged)?;
    loop {
        // Long names and extended headers are held whole.
        shared.borrow_mut().budget = MAX_RECORD;
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(damaged)?;
        shared.borrow_mut().budget = u64::MAX;
        let name = entry.path().map(|p| p.into_owned()).unwrap_or_default();
        // For messages. Joined as it is, an absolute name would take the place of the archive's.
        let inside = brief(name.display());
        let inside = path.join(inside.trim_start_matches('/'));
        let kind = entry.header().entry_type();
        let mut told = false;
        match format_of(&name) {
            None if kind.is_file() => passed_over.name(&name),
            Some(_) if kind.is_symlink() || kind.is_hard_link() => {
                passed_over.add("link", name.display());
            }
            Some((Format::Tar, _)) if kind.is_file() => {
                let damage = DataError::input(&inside, None, InputProblem::NestedArchive);
                sink(Event::Damaged(damage)).map_err(Ended::Sink)?;
            }
            Some((Format::Records(format), compression)) if kind.is_file() => {
                told = true;
                let size = entry.size();
                member(
                    format,
                    compression,
                    &inside,
                    Whole { inner: &mut entry, left: size },
                    sink,
                )?;
            }
            _ => {}
        }
        // What is left is passed over here, where its length does not count.
        io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        if shared.borrow().cut {
            return if told { Ok(()) } else { Err(broken(InputProblem::Truncated)) };
        }
    }
}

/// Reads one member; its damage is an event, an error of `sink` is an error.
fn member(
    format: RecordFormat,
    compression: Compression,
    path: &Path,
    bytes: Whole<impl Read>,
    sink: Sink,
) -> Result<(), Ended> {
    let mut stopped = false;
    let mut watched = |event| sink(event).inspect_err(|_| stopped = true);
    let size = bytes.left;
    let outcome = Stream::over(bytes, size, compression, path)
        .and_then(|stream| parse::read(format, stream, path, &mut watched));
    match outcome {
        Err(damage) if !stopped => sink(Event::Damaged(damage)).map_err(Ended::Sink),
        outcome => outcome.map_err(Ended::Sink),
    }
}

/// A member, whose end must not come before it.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Bytes of a header; members begin at multiples of it.
const BLOCK: usize = 512;

/// An archive's bytes.
struct Blocks<'a> {
    stream: Stream<'a>,
    /// Bytes that may still be read, so that no name fills the memory.
    budget: u64,
    /// A header that was found, and is read again.
    found: Option<[u8; BLOCK]>,
    /// Bytes read of the stream.
    read: u64,
    /// Why the stream cannot be read further.
    failed: Option<InputProblem>,
    /// The stream has ended where a reader wanted more.
    cut: bool,
}

impl Blocks<'_> {
    fn wrong(&self, path: &Path, problem: InputProblem) -> DataError {
        DataError::input(path, Some(InputPlace { line: None, offset: self.read }), problem)
    }

    /// Goes to the next block that is a header; false if there is none.
    fn find_header(&mut self) -> bool {
        self.budget = u64::MAX;
        let mut block = [0; BLOCK];
        let within = self.read as usize % BLOCK;
        if within > 0 && !self.fill(&mut block[within..]) {
            return false;
        }
        while self.fill(&mut block) {
            if is_header(&block) {
                self.found = Some(block);
                return true;
            }
        }
        false
    }

    fn fill(&mut self, block: &mut [u8]) -> bool {
        match self.stream.read_exact(block) {
            Ok(()) => {
                self.read += block.len() as u64;
                true
            }
            Err(error) => {
                // Of an archive alone, the end is where it ends.
                let is_end =
                    error.get_ref().is_none() && error.kind() == io::ErrorKind::UnexpectedEof;
                self.failed = (!is_end).then(|| explain(&error));
                false
            }
        }
    }
}

/// Whether the sum of a block is that which it says, as of a header.
fn is_header(block: &[u8; BLOCK]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let said = std::str::from_utf8(&block[SUM]).unwrap_or_default();
    let said = u32::from_str_radix(said.trim_matches([' ', '\0']), 8);
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    said == Ok(sum(&block[..SUM.start]) + 8 * u32::from(b' ') + sum(&block[SUM.end..]))
}

/// One reader of an archive's bytes, beside whom others look at them.
struct Shared<'b, 's, 'a>(&'b std::cell::RefCell<&'s mut Blocks<'a>>);

impl Read for Shared<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut blocks = self.0.borrow_mut();
        if let Some(header) = blocks.found.take() {
            // Headers are read whole.
            let length = buffer.len().min(BLOCK);
            buffer[..length].copy_from_slice(&header[..length]);
            return Ok(length);
        }
        if blocks.budget == 0 {
            let limit = MAX_RECORD >> 20;
            return Err(io::Error::other(format!("a name is longer than {limit} MiB")));
        }
        let length = buffer.len().min(blocks.budget.try_into().unwrap_or(usize::MAX));
        match blocks.stream.read(&mut buffer[..length]) {
            Ok(read) => {
                blocks.budget -= read as u64;
                blocks.read += read as u64;
                blocks.cut |= read == 0 && length > 0;
                Ok(read)
            }
            Err(error) => {
                blocks.failed = Some(explain(&error));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damages, notes, parse, records};
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
        let (found, damages) = damages("all.tar", &bytes);
        assert_eq!(found.len(), 2);
        for (damage, says) in damages.iter().zip([
            r"all.tar/abs\n/b.jsonl, line 1, byte 0: ",
            "all.tar/c.xml.gz, byte 0: ",
            "all.tar/d.tar: ",
        ]) {
            assert!(damage.starts_with(says), "{damage}");
        }
        assert_eq!(damages.len(), 3);
        let notes = notes("all.tar", &bytes);
        assert!(notes.len() == 1 && notes[0].contains("1 .md (readme.md)"), "{notes:?}");
    }

    #[test]
    fn every_cut_is_found_and_loses_no_member_before_it() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", &[b'x'; 700])]);
        for cut in (513..3 * 512 + 700).step_by(50) {
            let (found, damages) = damages("a.tar", &bytes[..cut]);
            let whole = cut >= 512 + 3;
            assert_eq!(found.len(), usize::from(whole), "cut at {cut}");
            let at_an_edge = cut == 1024;
            assert!(at_an_edge || damages.len() == 1, "cut at {cut}: {damages:?}");
            assert!(damages.iter().all(|damage| damage.starts_with("a.tar")), "{damages:?}");
        }
    }

    /// A member lies in the blocks of its header and of its bytes; damage elsewhere is none of its.
    #[test]
    fn any_damaged_byte_costs_its_member_alone() {
        let texts = ["one", "two", "three"].map(|text| text.repeat(200));
        let members = [
            ("a.txt", texts[0].as_bytes()),
            ("b.txt", texts[1].as_bytes()),
            ("c.txt", texts[2].as_bytes()),
        ];
        let bytes = archive(&members);
        let whole = records("a.tar", &bytes);
        let mut starts = vec![0];
        for (_, text) in members {
            starts.push(starts[starts.len() - 1] + BLOCK + text.len().next_multiple_of(BLOCK));
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = if bytes[at] == 0xFF { 0 } else { 0xFF };
            let hit = starts.iter().filter(|&&start| at >= start).count() - 1;
            let (found, damages) = damages("a.tar", &damaged);
            for (number, record) in whole.iter().enumerate() {
                assert!(number == hit || found.contains(record), "byte {at}: {number}");
            }
            assert_eq!(
                found.len() + damages.len(),
                whole.len() + usize::from(hit == 3),
                "byte {at}: {damages:?}"
            );
        }
    }

    #[test]
    fn archives_one_after_the_other_and_padding_are_read() {
        let (one, two) = (archive(&[("a.txt", b"one")]), archive(&[("b.txt", b"two")]));
        let both = [&one[..], &vec![0; 10_240], &two, &vec![0; 10_240 - 512]].concat();
        let texts: Vec<_> =
            records("a.tar", &both).into_iter().map(|r| r.paragraphs.concat()).collect();
        assert_eq!(texts, ["one\n", "two\n"]);
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
        let (_, damages) = damages("a.tar", &bytes);
        assert!(damages[0].contains("longer than 64 MiB"), "{damages:?}");
        assert!(parse("a.tar", &bytes).1.is_none());
    }
}
