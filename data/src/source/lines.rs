//! A file line by line.

use std::cell::Cell;
use std::io::BufRead;
use std::path::Path;
use std::rc::Rc;

use super::record::MAX_RECORD;
use super::stream::{Stream, explain};
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// The lines of a file, as UTF-8 without a byte-order mark and line ends.
pub(crate) struct Lines<'a> {
    stream: Stream<'a>,
    path: &'a Path,
    line: Vec<u8>,
    number: u64,
    /// Where the line begins.
    offset: u64,
    position: Rc<Cell<u64>>,
    budget: Rc<Cell<u64>>,
}

impl<'a> Lines<'a> {
    pub fn new(stream: Stream<'a>, path: &'a Path) -> Self {
        let (position, budget) = (stream.position(), stream.budget());
        Self { stream, path, line: Vec::new(), number: 0, offset: 0, position, budget }
    }

    /// A record is complete: the next may be as long again.
    pub fn renew(&self) {
        self.budget.set(MAX_RECORD);
    }

    /// An error in the line handed out last.
    pub fn wrong(&self, problem: InputProblem) -> DataError {
        let place = InputPlace { line: Some(self.number), offset: self.offset };
        DataError::input(self.path, Some(place), problem)
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> Result<Option<&str>, DataError> {
        self.line.clear();
        self.number += 1;
        self.offset = self.position.get();
        if let Err(error) = self.stream.read_until(b'\n', &mut self.line) {
            self.offset = self.position.get();
            return Err(self.wrong(explain(&error)));
        }
        if self.line.is_empty() {
            return Ok(None);
        }
        let bytes = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let bytes = if self.number == 1 {
            bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
        } else {
            bytes
        };
        match std::str::from_utf8(bytes) {
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
                self.offset += error.valid_up_to() as u64;
                Err(self.wrong(InputProblem::NotUtf8 { byte }))
            }
        }
    }
}
