//! The records of an XML file as pieces of bytes, found by their tags alone.
//!
//! An XML parser cannot go on after an error. So the file is cut into records first, at the tags with
//! which they begin and end, and each is parsed by itself: whatever is wrong in one record, the next one
//! is read. Between records only comments count, and whether the outermost element is closed.
//!
//! A record ends at its end tag, or, damaged, where the next one begins. In comments and CDATA sections
//! tags do not count, unless the record turns out to be damaged when they are passed over: it may be the
//! end of the comment that is. Every byte is looked at a bounded number of times.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use memchr::{memchr, memmem};

use super::record::MAX_RECORD;
use super::stream::{Stream, explain};
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// Elements that are records.
const RECORDS: [&[u8]; 5] = [OUTER, b"PubmedBookArticle", b"article", b"DeleteCitation", INNER];

/// The one record that another lies in.
const OUTER: &[u8] = b"PubmedArticle";

/// Within the outer one, or a record by itself as it was until 2016.
const INNER: &[u8] = b"MedlineCitation";

/// Outermost elements of files that may well hold no record.
const SETS: [&[u8]; 4] =
    [b"PubmedArticleSet", b"PubmedBookArticleSet", b"MedlineCitationSet", b"pmc-articleset"];

/// Most bytes of a tag that are looked at, to tell whether it is an empty element's.
const TAG: usize = 4096;

/// Bytes that are read at a time, at least.
const CHUNK: usize = 128 << 10;

/// A piece of the file.
pub(crate) enum Frame {
    /// A record from its start tag to its end tag, or to where it breaks off.
    Record(Piece),
    /// The end of a record whose beginning was not found.
    Stray(DataError),
    /// A record that is too long.
    TooLong(DataError),
}

/// A record's bytes, which [`Frames::bytes`] has until it is told how they were.
pub(crate) struct Piece {
    range: Range<usize>,
    /// Where it would end if what looks like comments were none.
    otherwise: Option<usize>,
}

/// A walk through the records of a file.
pub(crate) struct Frames<'a> {
    stream: Stream<'a>,
    path: &'a Path,
    bytes: Vec<u8>,
    /// Position of the first of `bytes` in the file.
    base: u64,
    ended: bool,
    /// Where to go on, in `bytes`.
    at: usize,
    /// Up to here comments are not believed, in the file.
    doubted: u64,
    /// The next end of a comment and of a CDATA section, as far as they are known.
    ends: [NextEnd; 2],
    root: Option<Vec<u8>>,
    /// Outermost elements that have begun and not ended.
    open: u64,
    found: bool,
    /// The record is too long whose end was not reached yet.
    skipped: Option<usize>,
}

/// Where the next of some bytes is: nowhere from `from` to `to`, and at `to` if it was found.
#[derive(Clone, Copy, Default)]
struct NextEnd {
    from: u64,
    to: u64,
    found: bool,
}

/// What a `<` begins.
enum Tag {
    Start(Name),
    End(Name),
    /// Comment or CDATA section, by its place in [`SECTIONS`].
    Section(usize),
    Other,
}

/// Range of the local name in `bytes`, and the place among [`RECORDS`].
struct Name {
    range: Range<usize>,
    record: Option<usize>,
}

/// Beginnings and ends of what may hold tags that are none.
const SECTIONS: [(&[u8], &[u8]); 2] = [(b"<!--", b"-->"), (b"<![CDATA[", b"]]>")];

impl<'a> Frames<'a> {
    pub fn new(stream: Stream<'a>, path: &'a Path) -> Self {
        Self {
            stream,
            path,
            bytes: Vec::new(),
            base: 0,
            ended: false,
            at: 0,
            doubted: 0,
            ends: [NextEnd::default(); 2],
            root: None,
            open: 0,
            found: false,
            skipped: None,
        }
    }

    /// The bytes of a record, and its position in the file.
    pub fn bytes(&self, piece: &Piece) -> (&[u8], u64) {
        (&self.bytes[piece.range.clone()], self.base + piece.range.start as u64)
    }

    /// The bytes were no record. There may be another piece to try instead; otherwise the damage is as
    /// it was found.
    pub fn damaged(&mut self, piece: Piece) {
        if let Some(end) = piece.otherwise {
            self.doubted = self.base + piece.range.end as u64;
            self.at = end;
        }
    }

    /// The next record; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Frame>, DataError> {
        loop {
            // Not for every record: what is left is moved.
            if self.at > CHUNK {
                self.release();
            }
            let Some(start) = self.next_tag()? else { return self.end().map(|()| None) };
            match self.tag_at(start)? {
                Tag::Section(0) if !self.is_doubted(start) => self.at = self.comment(start)?,
                Tag::Start(name) => {
                    if let Some(record) = name.record {
                        self.found = true;
                        self.skipped = None;
                        return self.record(start, record).map(Some);
                    }
                    let name = self.bytes[name.range].to_vec();
                    let is_root = *self.root.get_or_insert(name.clone()) == name;
                    self.open += u64::from(is_root && self.empty(start)?.is_none());
                    self.at = start + 1;
                }
                Tag::End(name) => {
                    self.at = name.range.end;
                    match name.record {
                        Some(record) if self.skipped == Some(record) => self.skipped = None,
                        Some(_) => {
                            let problem = InputProblem::StrayEnd;
                            return Ok(Some(Frame::Stray(self.wrong(start, problem))));
                        }
                        None if self.root.as_deref() == Some(&self.bytes[name.range]) => {
                            self.open = self.open.saturating_sub(1);
                        }
                        None => {}
                    }
                }
                Tag::Section(_) | Tag::Other => self.at = start + 1,
            }
        }
    }

    /// What is to be said at the end of the file.
    fn end(&self) -> Result<(), DataError> {
        if self.open > 0 {
            return Err(self.wrong(self.bytes.len(), InputProblem::Unclosed));
        }
        let is_set = self.root.as_deref().is_some_and(|root| SETS.contains(&root));
        if !self.found && !is_set {
            return Err(self.wrong(self.bytes.len(), InputProblem::NoLiterature));
        }
        Ok(())
    }

    fn wrong(&self, at: usize, problem: InputProblem) -> DataError {
        let place = InputPlace { line: None, offset: self.base + at as u64 };
        DataError::input(self.path, Some(place), problem)
    }

    /// Lets go of what is behind.
    fn release(&mut self) {
        self.bytes.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
    }

    /// Reads on; false at the end of the file.
    fn more(&mut self) -> Result<bool, DataError> {
        let before = self.bytes.len();
        // At least as much again, so that what is looked through anew stays in proportion.
        let chunk = CHUNK.max(before / 2) as u64;
        match (&mut self.stream).take(chunk).read_to_end(&mut self.bytes) {
            Ok(_) => {}
            Err(error) => return Err(self.wrong(self.bytes.len(), explain(&error))),
        }
        self.ended |= self.bytes.len() == before;
        Ok(!self.ended)
    }

    /// Makes `count` bytes from `at` available, or as many as there are.
    fn ensure(&mut self, at: usize, count: usize) -> Result<(), DataError> {
        while self.bytes.len() < at + count && self.more()? {}
        Ok(())
    }

    /// Goes to the next `<` and says where it is.
    fn next_tag(&mut self) -> Result<Option<usize>, DataError> {
        loop {
            if let Some(found) = memchr(b'<', &self.bytes[self.at..]) {
                self.at += found;
                return Ok(Some(self.at));
            }
            self.at = self.bytes.len();
            self.release();
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn tag_at(&mut self, at: usize) -> Result<Tag, DataError> {
        self.ensure(at, 64)?;
        let rest = &self.bytes[at..];
        if let Some(section) = SECTIONS.iter().position(|(begin, _)| rest.starts_with(begin)) {
            return Ok(Tag::Section(section));
        }
        let is_end = rest.get(1) == Some(&b'/');
        let from = at + 1 + usize::from(is_end);
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        let length = self.bytes[from..].iter().take(64).take_while(|byte| is_name(byte)).count();
        // A name at the end of the file may have been a longer one.
        if length == 0
            || !self.bytes[from].is_ascii_alphabetic()
            || from + length == self.bytes.len()
        {
            return Ok(Tag::Other);
        }
        let local = self.bytes[from..from + length].iter().position(|&byte| byte == b':');
        let range = from + local.map_or(0, |colon| colon + 1)..from + length;
        let record = RECORDS.iter().position(|record| **record == self.bytes[range.clone()]);
        let name = Name { range, record };
        Ok(if is_end { Tag::End(name) } else { Tag::Start(name) })
    }

    /// Where to go on after the beginning of a comment between records. One that is not well-formed is
    /// none.
    fn comment(&mut self, start: usize) -> Result<usize, DataError> {
        let from = start + SECTIONS[0].0.len();
        let mut searched = from;
        loop {
            if let Some(found) = memmem::find(&self.bytes[searched..], b"--") {
                let end = searched + found + 2;
                self.ensure(end, 1)?;
                return Ok(if self.bytes.get(end) == Some(&b'>') { end + 1 } else { from });
            }
            searched = self.bytes.len().saturating_sub(1).max(from);
            if self.bytes.len() - start > MAX_RECORD as usize || !self.more()? {
                return Ok(from);
            }
        }
    }

    fn is_doubted(&self, at: usize) -> bool {
        self.base + (at as u64) < self.doubted
    }

    /// End of the section that begins at `start`, if it is within reach. One that holds the beginning of
    /// another is none: its own end is damaged.
    fn section_end(
        &mut self,
        section: usize,
        start: usize,
        limit: usize,
    ) -> Result<Option<usize>, DataError> {
        let (begin, end) = SECTIONS[section];
        let from = self.base + (start + begin.len()) as u64;
        let known = self.ends[section];
        let mut next = if (known.from..=known.to).contains(&from) {
            known
        } else {
            NextEnd { from, to: from, found: false }
        };
        while !next.found {
            let at = (next.to - self.base) as usize;
            let found = memmem::find(self.bytes.get(at..).unwrap_or_default(), end);
            if let Some(found) = found {
                (next.to, next.found) = (next.to + found as u64, true);
                break;
            }
            // The end may lie across the edge.
            let edge = self.bytes.len().saturating_sub(end.len() - 1).max(at);
            next.to = self.base + edge as u64;
            if edge > limit || !self.more()? {
                break;
            }
        }
        self.ends[section] = next;
        if !next.found {
            return Ok(None);
        }
        let (from, to) = (start + begin.len(), (next.to - self.base) as usize);
        let is_one = memmem::find(&self.bytes[from..to], begin).is_none();
        Ok(is_one.then_some(to + end.len()))
    }

    /// The record that begins at `start`.
    fn record(&mut self, start: usize, record: usize) -> Result<Frame, DataError> {
        let limit = start + MAX_RECORD as usize;
        if let Some(end) = self.empty(start)? {
            self.at = end;
            return Ok(Frame::Record(Piece { range: start..end, otherwise: None }));
        }
        let mut otherwise = None;
        // Up to here is a section whose tags count only otherwise.
        let mut section_until = start;
        let mut at = start + 1;
        loop {
            let Some(tag) = self.find_tag(at, limit)? else {
                // What was passed over on the way may have been its end.
                let end = otherwise.unwrap_or(self.bytes.len().min(limit));
                if end < limit || self.ended {
                    self.at = end;
                    return Ok(Frame::Record(Piece { range: start..end, otherwise: None }));
                }
                let problem = InputProblem::RecordTooLong { limit: MAX_RECORD };
                let wrong = self.wrong(start, problem);
                (self.at, self.skipped) = (end, Some(record));
                return Ok(Frame::TooLong(wrong));
            };
            at = tag + 1;
            let in_section = tag < section_until;
            match self.tag_at(tag)? {
                Tag::Section(section) if !in_section && !self.is_doubted(tag) => {
                    if let Some(end) = self.section_end(section, tag, limit)? {
                        section_until = end;
                    }
                }
                Tag::Start(name) => {
                    let Some(other) = name.record else { continue };
                    if RECORDS[other] == INNER && RECORDS[record] == OUTER {
                        continue;
                    }
                    if in_section {
                        otherwise.get_or_insert(tag);
                        continue;
                    }
                    // The record breaks off.
                    self.at = tag;
                    let otherwise = otherwise.filter(|&otherwise| otherwise < tag);
                    return Ok(Frame::Record(Piece { range: start..tag, otherwise }));
                }
                Tag::End(name) if name.record == Some(record) => {
                    let rest = &self.bytes[name.range.end..];
                    let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                    let is_closed = rest.get(blanks) == Some(&b'>');
                    let end = name.range.end + if is_closed { blanks + 1 } else { 0 };
                    if in_section {
                        otherwise.get_or_insert(end);
                        continue;
                    }
                    self.at = end;
                    return Ok(Frame::Record(Piece { range: start..end, otherwise }));
                }
                _ => {}
            }
        }
    }

    /// The next `<` from `at` on, before `limit`.
    fn find_tag(&mut self, at: usize, limit: usize) -> Result<Option<usize>, DataError> {
        let mut searched = at;
        loop {
            if let Some(found) = memchr(b'<', self.bytes.get(searched..).unwrap_or_default()) {
                return Ok(Some(searched + found).filter(|&found| found < limit));
            }
            searched = self.bytes.len().max(at);
            if searched >= limit || !self.more()? {
                return Ok(None);
            }
        }
    }

    /// End of the tag that begins at `start`, if the element is empty.
    fn empty(&mut self, start: usize) -> Result<Option<usize>, DataError> {
        self.ensure(start, TAG)?;
        let tag = &self.bytes[start + 1..self.bytes.len().min(start + TAG)];
        let mut quote = None;
        for (at, &byte) in tag.iter().enumerate() {
            match (quote, byte) {
                (Some(open), _) if open == byte => quote = None,
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'>') => {
                    return Ok((tag[at.saturating_sub(1)] == b'/').then_some(start + at + 2));
                }
                (_, b'<') => break,
                _ => {}
            }
        }
        Ok(None)
    }
}
