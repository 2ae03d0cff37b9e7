//! What Python's `json` writes and no JSON is.

use std::borrow::Cow;

/// A line with `null` for the numbers that JSON does not know (`NaN`, `Infinity`, `-Infinity`) and the
/// replacement character for halves of surrogate pairs; none if it has neither.
pub(crate) fn mend(line: &str) -> Option<String> {
    const NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
    let mut out = String::new();
    let mut changed = false;
    let mut in_text = false;
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        let (taken, put) = if in_text && character == '\\' {
            escape(rest)
        } else if let Some(number) = NUMBERS.iter().find(|n| !in_text && rest.starts_with(**n)) {
            (number.len(), Cow::Borrowed("null"))
        } else {
            in_text ^= character == '"';
            let length = character.len_utf8();
            (length, Cow::Borrowed(&rest[..length]))
        };
        changed |= put != rest[..taken];
        out.push_str(&put);
        rest = &rest[taken..];
    }
    changed.then_some(out)
}

/// Bytes of the escape that a text begins with, and what to write for it.
fn escape(text: &str) -> (usize, Cow<'_, str>) {
    let unit = |from: usize| {
        let digits = text.get(from..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, text[..12].into()),
        (Some(0xD800..=0xDFFF), _) => (6, Cow::Borrowed("\\ufffd")),
        _ => {
            let length = 1 + text[1..].chars().next().map_or(0, char::len_utf8);
            (length, text[..length].into())
        }
    }
}
