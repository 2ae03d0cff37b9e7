//! A file line by line.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::Path;
use std::rc::Rc;

use mediswift_files::without_mark;

use super::record::MAX_RECORD;
use super::stream::{Stream, explain};
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// The lines of a file, as UTF-8 without line ends and byte-order marks, which stand at the beginnings
/// of files, also of such as were put behind others.
pub(crate) struct Lines<'a> {
    stream: Stream<'a>,
    path: &'a Path,
    line: Vec<u8>,
    number: u64,
    /// Where the line begins, or what is wrong in it.
    offset: u64,
    position: Rc<Cell<u64>>,
}

/// A line of a file.
pub(crate) enum Line<'l> {
    /// What stands in it.
    Text(&'l str),
    /// It is no text, or too long; the next one may be read.
    Damaged(InputProblem),
}

impl<'a> Lines<'a> {
    pub fn new(stream: Stream<'a>, path: &'a Path) -> Self {
        let position = stream.position();
        Self { stream, path, line: Vec::new(), number: 0, offset: 0, position }
    }

    /// An error in the line handed out last.
    pub fn wrong(&self, problem: InputProblem) -> DataError {
        self.wrong_at(self.place(), problem)
    }

    /// An error at a place that was handed out.
    pub fn wrong_at(&self, place: InputPlace, problem: InputProblem) -> DataError {
        DataError::input(self.path, Some(place), problem)
    }

    /// Where the line handed out last is.
    pub fn place(&self) -> InputPlace {
        InputPlace { line: Some(self.number), offset: self.offset }
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, DataError> {
        self.line.clear();
        self.number += 1;
        self.offset = self.position.get();
        let read = (&mut self.stream).take(MAX_RECORD + 1).read_until(b'\n', &mut self.line);
        let too_long = self.line.len() as u64 > MAX_RECORD;
        let read = match read {
            Ok(_) if too_long => {
                self.line = Vec::new();
                self.stream.skip_until(b'\n')
            }
            read => read,
        };
        if let Err(error) = read {
            self.offset = self.position.get();
            return Err(self.wrong(explain(&error)));
        }
        if too_long {
            return Ok(Some(Line::Damaged(InputProblem::RecordTooLong { limit: MAX_RECORD })));
        }
        if self.line.is_empty() {
            return Ok(None);
        }
        let bytes = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        match std::str::from_utf8(without_mark(bytes)) {
            Ok(line) => Ok(Some(Line::Text(line))),
            Err(_) => {
                let end = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
                let byte = bytes.get(end).copied().unwrap_or_default();
                self.offset += end as u64;
                Ok(Some(Line::Damaged(InputProblem::NotUtf8 { byte })))
            }
        }
    }
}
