//! Moses tokenization of English, and back.
//!
//! The rules of the Moses tokenizer (`tokenizer.perl`) in the order and with the quirks of
//! sacremoses, which BioGPT's vocabulary was made with: white space is reduced to single blanks and
//! control characters vanish; everything but letters, digits and `. ' , - `` ` `` is a token; hyphens
//! between letters or digits become ` @-@ `; commas are split off except within numbers; English
//! apostrophes; full stops are split off except after abbreviations; and characters that mean
//! something to Moses are written as XML entities.
//!
//! Each rule is one linear pass over the text. A rule that looks at both neighbours of a character
//! consumes them, as a regular expression would, so that a neighbour shared by two matches counts for
//! the first alone.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// What to do besides splitting words. The defaults are BioGPT's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Normalise quotation marks, dashes and spaces first, as Moses' `normalize-punctuation` does
    /// (its rules for quotes, dashes, ellipses and non-breaking spaces).
    pub normalise: bool,
    /// Split words at hyphens: `beta-blocker` becomes `beta @-@ blocker`.
    pub split_hyphens: bool,
    /// Write `& | < > ' " [ ]` as entities.
    pub escape: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { normalise: false, split_hyphens: true, escape: true }
    }
}

/// Abbreviations after which a full stop does not end a sentence, besides single capitals.
const ABBREVIATIONS: [&str; 76] = [
    "Adj", "Adm", "Adv", "Apr", "Asst", "Aug", "Bart", "Bldg", "Brig", "Bros", "Capt", "Cmdr",
    "Col", "Comdr", "Con", "Corp", "Cpl", "DR", "Dec", "Dr", "Drs", "Ens", "Feb", "Gen", "Gov",
    "Hon", "Hosp", "Hr", "Insp", "Jan", "Jul", "Jun", "Lt", "MM", "MR", "MRS", "MS", "Maj", "Mar",
    "Messrs", "Mlle", "Mme", "Mr", "Mrs", "Ms", "Msgr", "Nos", "Nov", "Nr", "Oct", "Op", "Ord",
    "Pfc", "Ph", "Prof", "Pvt", "Rep", "Reps", "Res", "Rev", "Rs", "Rt", "Sen", "Sens", "Sep",
    "Sfc", "Sgt", "Sr", "St", "Supt", "Surg", "e.g", "i.e", "rev", "v", "vs",
];

/// Abbreviations only before a number.
const BEFORE_NUMBERS: [&str; 3] = ["No", "Art", "pp"];

/// The Moses words of `text`, separated by single blanks.
pub fn tokenize(text: &str, options: &Options) -> String {
    let text = if options.normalise { Cow::Owned(normalise(text)) } else { Cow::Borrowed(text) };
    let mut text = pad_specials(&without_control_characters(&text));
    if options.split_hyphens {
        text = split_hyphens(text);
    }
    text = set_dots_apart(text);
    text = split_commas(text);
    text = split_apostrophes(text);
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut words = words(&text).peekable();
    while let Some(word) = words.next() {
        let (word, stop) = split_full_stop(word, words.peek().copied());
        for part in [word, stop] {
            if !part.is_empty() {
                if !out.is_empty() {
                    out.push(' ');
                }
                push_escaped(part, options.escape, &mut out);
            }
        }
    }
    // A full stop and a quotation mark at the very end.
    let quote = if options.escape { "&apos;" } else { "'" };
    if let Some(rest) = out.strip_suffix(quote).and_then(|rest| rest.strip_suffix('.'))
        && !rest.ends_with("..")
        && !rest.ends_with('.')
    {
        let length = rest.trim_end_matches(' ').len();
        out.truncate(length);
        out.push_str(if length == 0 { ". " } else { " . " });
        out.push_str(quote);
    }
    out
}

/// What Python takes for white space.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Letters and marks that belong to words, and decimal digits; Chinese characters and Korean
/// syllables are no letters to Moses.
fn is_alphanumeric(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphanumeric();
    }
    is_alphabetic(character) || character.general_category() == GeneralCategory::DecimalNumber
}

fn is_alphabetic(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphabetic();
    }
    match character {
        '\u{2e80}'..='\u{2fdf}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3021}'..='\u{303b}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{1f000}'.. => false,
        // Signs of Indic scripts that silence or alter a consonant: parts of words.
        '\u{94d}' | '\u{93c}' | '\u{9cd}' | '\u{9bc}' | '\u{a4d}' | '\u{a3c}' | '\u{acd}'
        | '\u{abc}' | '\u{b4d}' | '\u{b3c}' | '\u{bcd}' | '\u{c4d}' | '\u{ccd}' | '\u{cbc}'
        | '\u{d4d}' | '\u{dca}' | '\u{1039}' => true,
        _ => character.is_alphabetic(),
    }
}

/// Numbers of any kind: ½ and ² too.
fn is_number(character: char) -> bool {
    if character.is_ascii() {
        character.is_ascii_digit()
    } else {
        character.is_numeric() && !matches!(character, '\u{10000}'..)
    }
}

fn without_control_characters(text: &str) -> Cow<'_, str> {
    let is_junk = |c: char| c < ' ' && !is_space(c);
    if text.contains(is_junk) {
        Cow::Owned(text.chars().filter(|&c| !is_junk(c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Reduces white space, and sets every special character between blanks.
fn pad_specials(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    let mut pending_space = false;
    let mut rest = text;
    while let Some(&byte) = rest.as_bytes().first() {
        // Most of a text: a run of ASCII that is kept as it is.
        let kept = rest.bytes().take_while(|&b| KEPT[b as usize]).count();
        if kept > 0 {
            if pending_space && !out.is_empty() {
                out.push(' ');
            }
            pending_space = false;
            out.push_str(&rest[..kept]);
            rest = &rest[kept..];
            continue;
        }
        let character = rest.chars().next().unwrap_or(char::from(byte));
        rest = &rest[character.len_utf8()..];
        if is_space(character) {
            pending_space = true;
            continue;
        }
        if pending_space && !out.is_empty() {
            out.push(' ');
        }
        pending_space = false;
        if is_alphanumeric(character) {
            out.push(character);
        } else {
            out.push(' ');
            out.push(character);
            out.push(' ');
        }
    }
    out
}

/// ASCII that stays part of words at first.
const KEPT: [bool; 256] = {
    let mut kept = [false; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        kept[at] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'\'' | b'`' | b',' | b'-');
        at += 1;
    }
    kept
};

/// Rewrites occurrences of `needle` (ASCII). `rule` sees the neighbours, `None` at the text's edges,
/// and returns the replacement. With `consume`, neighbours taken part in a match do not serve the next.
fn rewrite(
    text: String,
    needle: char,
    consume: (bool, bool),
    rule: impl Fn(Option<char>, Option<char>) -> Option<&'static str>,
) -> String {
    if !text.contains(needle) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let (mut copied, mut free) = (0, 0);
    for (at, _) in text.match_indices(needle) {
        let left = text[..at].chars().next_back();
        let right = text[at + 1..].chars().next();
        let begin = if consume.0 { at - left.map_or(0, char::len_utf8) } else { at };
        if begin < free {
            continue;
        }
        if let Some(replacement) = rule(left, right) {
            out.push_str(&text[copied..at]);
            out.push_str(replacement);
            copied = at + 1;
            free = at + 1 + if consume.1 { right.map_or(0, char::len_utf8) } else { 0 };
        }
    }
    out.push_str(&text[copied..]);
    out
}

fn split_hyphens(text: String) -> String {
    let word = |c: Option<char>| c.is_some_and(is_alphanumeric);
    rewrite(text, '-', (true, false), |left, right| (word(left) && word(right)).then_some(" @-@ "))
}

/// Two dots or more are a word.
fn set_dots_apart(text: String) -> String {
    if !text.contains("..") {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.as_str();
    while let Some(at) = rest.find("..") {
        let dots = rest[at..].bytes().take_while(|&b| b == b'.').count();
        out.push_str(&rest[..at]);
        out.push(' ');
        out.push_str(&rest[at..at + dots]);
        rest = &rest[at + dots..];
        if !rest.is_empty() {
            out.push(' ');
        }
    }
    out.push_str(rest);
    out
}

/// Sets commas apart unless they stand between two numbers.
fn split_commas(text: String) -> String {
    let no_number = |c: Option<char>| c.is_some_and(|c| !is_number(c));
    let text = rewrite(text, ',', (true, false), |l, _| no_number(l).then_some(" , "));
    let text = rewrite(text, ',', (false, true), |_, r| no_number(r).then_some(" , "));
    rewrite(text, ',', (true, false), |l, r| {
        (r.is_none() && l.is_some_and(is_number)).then_some(" , ")
    })
}

fn split_apostrophes(text: String) -> String {
    let letter = |c: Option<char>| c.is_some_and(is_alphabetic);
    let other = |c: Option<char>| c.is_some_and(|c| !is_alphabetic(c));
    let neither = |c: Option<char>| c.is_some_and(|c| !is_alphabetic(c) && !is_number(c));
    let number = |c: Option<char>| c.is_some_and(is_number);
    let both = (true, true);
    let text = rewrite(text, '\'', both, |l, r| (other(l) && other(r)).then_some(" ' "));
    let text = rewrite(text, '\'', both, |l, r| (neither(l) && letter(r)).then_some(" ' "));
    let text = rewrite(text, '\'', both, |l, r| (letter(l) && other(r)).then_some(" ' "));
    let text = rewrite(text, '\'', both, |l, r| (letter(l) && letter(r)).then_some(" '"));
    rewrite(text, '\'', both, |l, r| (number(l) && r == Some('s')).then_some(" '"))
}

/// Splits a full stop off the end of a word, unless the word is an abbreviation or the sentence goes
/// on.
fn split_full_stop<'a>(word: &'a str, next: Option<&str>) -> (&'a str, &'a str) {
    let whole = (word, "");
    let Some(prefix) = word.strip_suffix('.').filter(|prefix| !prefix.is_empty()) else {
        return whole;
    };
    if prefix.ends_with('.') {
        return whole; // a run of dots
    }
    let begins = |test: fn(char) -> bool| next.and_then(|n| n.chars().next()).is_some_and(test);
    let abbreviated = prefix.contains('.') && prefix.chars().any(is_alphabetic)
        || ABBREVIATIONS.contains(&prefix)
        || matches!(prefix.as_bytes(), [b'A'..=b'Z'])
        || begins(char::is_lowercase)
        || BEFORE_NUMBERS.contains(&prefix) && begins(|c| c.is_ascii_digit());
    if abbreviated { whole } else { (prefix, &word[prefix.len()..]) }
}

/// How Moses writes the characters that mean something to it.
const ENTITIES: [(char, &str); 8] = [
    ('&', "&amp;"),
    ('|', "&#124;"),
    ('<', "&lt;"),
    ('>', "&gt;"),
    ('\'', "&apos;"),
    ('"', "&quot;"),
    ('[', "&#91;"),
    (']', "&#93;"),
];

fn push_escaped(word: &str, escape: bool, out: &mut String) {
    let special = |b: u8| matches!(b, b'&' | b'|' | b'<' | b'>' | b'\'' | b'"' | b'[' | b']');
    if !escape || !word.bytes().any(special) {
        out.push_str(word);
        return;
    }
    for character in word.chars() {
        match ENTITIES.iter().find(|(plain, _)| *plain == character) {
            Some((_, entity)) => out.push_str(entity),
            None => out.push(character),
        }
    }
}

/// Typographic quotation marks, dashes and spaces as ASCII.
fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\r' => {}
            '„' | '“' | '”' | '«' | '»' => out.push('"'),
            '´' | '‘' | '‚' | '’' | '`' => out.push('\''),
            '–' => out.push('-'),
            '—' => out.push_str(" - "),
            '…' => out.push_str("..."),
            '\u{a0}' => out.push(' '),
            other => out.push(other),
        }
    }
    out.replace("''", "\"")
}

/// A text from Moses words: entities resolved, hyphens joined, punctuation moved to its words.
///
/// Moses does not record where blanks were, so the result has the characters of the original but not
/// always its blanks: those around slashes, operators and within quotations are guessed.
pub fn detokenize(words: &str) -> String {
    let joined = format!(" {words} ").replace(" @-@ ", "-");
    let plain = unescape(&joined);
    let mut out = String::with_capacity(plain.len());
    let mut blank = true;
    let (mut single_quotes, mut double_quotes, mut back_quotes) = (0, 0, 0);
    let mut previous = "";
    for word in self::words(&plain) {
        let is_made_of = |set: &str| word.chars().all(|c| set.contains(c));
        let begins_contraction =
            word.strip_prefix('\'').and_then(|w| w.chars().next()).is_some_and(is_alphabetic);
        let (before, after) = if is_made_of("([{¿¡") || word.chars().all(is_currency_or_opening) {
            (true, false)
        } else if is_made_of(",.?!:;\\%}])") || (begins_contraction && !previous.is_empty()) {
            (false, true)
        } else if is_made_of("'\"„“`") {
            let seen = match word {
                "'" => &mut single_quotes,
                "`" => &mut back_quotes,
                _ => &mut double_quotes,
            };
            let opens = *seen % 2 == 0;
            if opens && word == "'" && previous.ends_with('s') {
                (false, true) // a possessive: the patients' consent
            } else {
                *seen += 1;
                (opens, !opens)
            }
        } else {
            (true, true)
        };
        if before && blank && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        blank = after;
        previous = word;
    }
    out
}

fn is_currency_or_opening(character: char) -> bool {
    matches!(character, '(' | '[' | '{' | '¿' | '¡')
        || character.general_category() == GeneralCategory::CurrencySymbol
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = text.to_owned();
    // The ampersand last, or "&amp;lt;" would become "<".
    for (character, entity) in ENTITIES.iter().skip(1).chain(&ENTITIES[..1]) {
        plain = plain.replace(entity, character.encode_utf8(&mut [0; 4]));
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_moses() {
        for (text, expected) in [
            ("Aspirin, 5,300 mg (daily).", "Aspirin , 5,300 mg ( daily ) ."),
            ("beta-blocker-treated -- x", "beta @-@ blocker @-@ treated -- x"),
            (
                "Crohn's disease; don't: 1990's",
                "Crohn &apos;s disease ; don &apos;t : 1990 &apos;s",
            ),
            (
                "e.g. this vs. that. Dr. No. 5 etc. The end.",
                "e.g. this vs. that . Dr. No. 5 etc . The end .",
            ),
            ("wait... what.. [1]", "wait ... what .. &#91; 1 &#93;"),
            ("p<0.05 & n>3", "p &lt; 0.05 &amp; n &gt; 3"),
            ("a\u{1}b\tc\n", "ab c"),
            ("he said 'no.'", "he said &apos; no . &apos;"),
            (",5 5,", ",5 5 ,"),
            ("", ""),
        ] {
            assert_eq!(tokenize(text, &Options::default()), expected, "{text:?}");
        }
    }

    #[test]
    fn options_turn_rules_off() {
        let options = Options { normalise: true, split_hyphens: false, escape: false };
        assert_eq!(tokenize("“well-known”\u{a0}x…", &options), "\" well-known \" x ...");
    }

    #[test]
    fn words_become_a_text_again() {
        for text in [
            "Aspirin (5,300 mg), given to Crohn's patients, isn't new.",
            "A beta-blocker & the patients' \"consent\": p < 0.05; 50% [CI].",
        ] {
            assert_eq!(detokenize(&tokenize(text, &Options::default())), text);
        }
    }
}
