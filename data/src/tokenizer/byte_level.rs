//! Byte-level words: how GPT-2 cuts a text before its byte-pair encoding, and how it writes bytes.
//!
//! A text is cut, without losing a byte, into English contractions, runs of letters, of digits, and
//! of anything else (each with at most one blank before it), and white space. Every word is then
//! encoded byte by byte, so any UTF-8 has tokens. In files, each byte is written as one visible
//! character: itself where it is visible, else one from U+0100 upwards.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if byte.is_ascii_alphabetic() {
            classes[at] = Class::Letter;
        } else if byte.is_ascii_digit() {
            classes[at] = Class::Number;
        } else if matches!(byte, b'\t'..=b'\r' | b' ') {
            classes[at] = Class::Space;
        }
        at += 1;
    }
    classes
};

fn class_of(character: char) -> Class {
    if character.is_ascii() {
        return ASCII[character as usize];
    }
    match character.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ if character.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// The words of `text`; together they are the text.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(word_length(rest));
        rest = after;
        Some(word)
    })
}

/// Bytes of the first word of a text that is not empty.
fn word_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes[0] == b'\'' {
        match bytes.get(1..3) {
            Some(b"re" | b"ve" | b"ll") => return 3,
            _ if matches!(bytes.get(1), Some(b's' | b't' | b'm' | b'd')) => return 2,
            _ => {}
        }
    }
    let blank = usize::from(bytes[0] == b' ');
    match first_class(&text[blank..]) {
        None => blank,
        Some(Class::Space) => spaces(text),
        Some(class) => blank + run(&text[blank..], class),
    }
    .max(1)
}

fn first_class(text: &str) -> Option<Class> {
    text.chars().next().map(class_of)
}

/// White space up to the last blank before a word, which belongs to the word.
fn spaces(text: &str) -> usize {
    let all = run(text, Class::Space);
    let last = text[..all].chars().next_back().map_or(0, char::len_utf8);
    if all == text.len() || all == last { all } else { all - last }
}

/// Bytes of the run of `class` at the beginning of `text`.
fn run(text: &str, class: Class) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii() {
            if ASCII[byte as usize] != class {
                break;
            }
            at += 1;
        } else {
            let character = text[at..].chars().next().expect("a character begins here");
            if class_of(character) != class {
                break;
            }
            at += character.len_utf8();
        }
    }
    at
}

/// The character each byte is written as.
pub(crate) static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut hidden = '\u{100}'..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if visible(byte) { char::from(byte) } else { hidden.next().expect("few bytes are hidden") }
    })
});

static BYTES: LazyLock<FxHashMap<char, u8>> =
    LazyLock::new(|| CHARACTERS.iter().zip(0..=255).map(|(&c, byte)| (c, byte)).collect());

/// The bytes of a token as written in a file; `None` if it is not written that way.
pub(crate) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|character| BYTES.get(&character).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_as_gpt2_does() {
        for (text, expected) in [
            ("It's 42 patients' data", &["It", "'s", " 42", " patients", "'", " data"][..]),
            ("we'll they've 'tis", &["we", "'ll", " they", "'ve", " '", "tis"]),
            ("a  b\n\n c \t", &["a", " ", " b", "\n\n", " c", " \t"]),
            ("  ", &["  "]),
            ("\u{a0}x \u{a0}y", &["\u{a0}", "x", " ", "\u{a0}", "y"]),
            ("β-blocker½²", &["β", "-", "blocker", "½²"]),
            ("'", &["'"]),
            (" ", &[" "]),
        ] {
            assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn bytes_are_written_as_gpt2_does() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(
            CHARACTERS.iter().copied().collect::<std::collections::HashSet<_>>(),
            alphabet.into_iter().collect()
        );
        assert_eq!(bytes_of("Ġé"), Some(vec![b' ', 0xE9]));
        assert_eq!(bytes_of("日"), None);
    }
}
