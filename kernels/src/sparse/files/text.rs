//! Lines and fields of the formats that are text.

use super::error::Problem;

/// Longest file that is read, after decompression: 4 GiB (less in tests, which try to pass it).
pub(super) const LONGEST: u64 = if cfg!(test) { 1 << 20 } else { 4 << 30 };

/// Fields of a line: apart by blanks and commas.
pub(super) fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || c == ',').filter(|field| !field.is_empty())
}

pub(super) fn number(field: &str, what: &str, line: usize) -> Result<u32, Problem> {
    field.parse().map_err(|_| {
        Problem::new(format!("line {line}: {what} '{field}' is no whole number below 2³²"))
    })
}

/// The next line with anything in it, and its number from 1.
pub(super) fn next_line(
    lines: &mut impl Iterator<Item = (usize, std::io::Result<String>)>,
    what: &str,
) -> Result<(usize, String), Problem> {
    for (at, line) in lines {
        let line = line?;
        if !line.trim().is_empty() {
            return Ok((at + 1, line));
        }
    }
    Err(Problem::new(format!("ends before {what}")))
}
