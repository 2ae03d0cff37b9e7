//! White space, composition, and what nobody sees.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// One paragraph: composed, without invisible characters, runs of white space as one blank.
pub(crate) fn normalise(text: &str) -> String {
    if text.is_ascii() {
        return reduce(text.chars());
    }
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => reduce(text.chars()),
        _ => reduce(text.nfc()),
    }
}

fn reduce(characters: impl Iterator<Item = char>) -> String {
    let mut out = String::with_capacity(characters.size_hint().0);
    let mut blank = false;
    for character in characters {
        if character.is_whitespace() {
            blank = true;
        } else if !is_invisible(character) {
            if blank && !out.is_empty() {
                out.push(' ');
            }
            blank = false;
            out.push(character);
        }
    }
    out
}

/// Controls, soft hyphens, zero-width characters (joiners, marks of direction, invisible operators,
/// byte-order marks), and private-use characters, which mean nothing outside the font they were made
/// for.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}')
}
