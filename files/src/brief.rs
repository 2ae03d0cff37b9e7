//! [`brief`]: quoting what was found, which may be megabytes, and anything.

use std::fmt::{self, Display, Write};

/// The beginning of what is quoted, some 300 bytes, on one line: control characters are escaped.
pub fn brief(quoted: impl Display) -> String {
    let mut line = Brief(String::new());
    // Refuses only what is beyond the longest quote.
    let _ = write!(line, "{quoted}");
    line.0
}

struct Brief(String);

impl Brief {
    const LONGEST: usize = 300;
}

impl Write for Brief {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            if self.0.len() >= Self::LONGEST {
                self.0.push('…');
                return Err(fmt::Error);
            }
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_a_short_line() {
        assert_eq!(brief("naïve β"), "naïve β");
        assert_eq!(brief("a\nb\u{7f}\0"), "a\\nb\\u{7f}\\u{0}");
        let long = brief("é".repeat(1 << 20));
        assert!(long.len() < 310 && long.ends_with("é…"), "{long}");
    }
}
