//! Lines and fields of the formats that are text.

use super::error::Problem;
use mediswift_files::without_mark;
use std::io::{BufRead, BufReader, Read};

/// Longest file that is read, and longest array after decompression: 2 GiB (less in tests, which try to
/// pass it).
pub(super) const LONGEST: u64 = if cfg!(test) { 1 << 20 } else { 2 << 30 };

/// Fields of a line: apart by blanks and commas.
pub(super) fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || c == ',').filter(|field| !field.is_empty())
}

pub(super) fn number(field: &str, what: &str, line: usize) -> Result<u32, Problem> {
    field.parse().map_err(|_| {
        Problem::new(format!("line {line}: {what} '{field}' is no whole number below 2³²"))
    })
}

/// The lines of a file that have anything in them. What is not UTF-8 may stand in comments.
pub(super) struct Lines<R> {
    reader: BufReader<std::io::Take<R>>,
    number: usize,
}

impl<R: Read> Lines<R> {
    pub fn new(file: R) -> Self {
        Self { reader: BufReader::new(file.take(LONGEST + 1)), number: 0 }
    }

    /// The next line, of at most `longest` bytes, and its number from 1; `what` should be there.
    pub fn next(&mut self, what: &str, longest: u64) -> Result<(usize, String), Problem> {
        let end = || Problem::new(format!("ends before {what}"));
        self.next_if_any(longest)?.ok_or_else(end)
    }

    /// The next line, if there is one.
    pub fn next_if_any(&mut self, longest: u64) -> Result<Option<(usize, String)>, Problem> {
        loop {
            self.number += 1;
            let mut line = Vec::new();
            self.reader.by_ref().take(longest.saturating_add(1)).read_until(b'\n', &mut line)?;
            let at = self.number;
            if line.len() as u64 > longest {
                return Err(Problem::new(format!("line {at}: longer than {longest} bytes")));
            }
            if self.reader.get_ref().limit() == 0 && self.reader.buffer().is_empty() {
                return Err(Problem::new(format!(
                    "line {at}: the file has more than {LONGEST} bytes"
                )));
            }
            if line.is_empty() {
                return Ok(None);
            }
            let bytes = if at == 1 { without_mark(&line) } else { &line };
            let text = String::from_utf8_lossy(bytes);
            if !text.trim().is_empty() {
                return Ok(Some((at, text.into_owned())));
            }
        }
    }
}

/// Bytes that a line of `count` numbers of 32 bits takes at most, if nobody pads it.
pub(super) fn length_of(count: u64) -> u64 {
    4096 + 16 * count
}
