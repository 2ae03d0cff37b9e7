//! Running text of XML: white space, and the traces of what is left out of it.
//!
//! A number that points to the list of references, a formula, a figure in the middle of a paragraph:
//! none of it is text, and each leaves a *mark* where it stood, until the paragraph is whole. Then marks
//! go with what only they needed: a bracket that holds nothing but marks, what joins them (commas, `and`,
//! dashes) and signal words (`see`, `reviewed in`, `refs.`, `p. 33`); within other brackets the part
//! between commas or semicolons that holds nothing else. A mark that its sentence needs stays as it was
//! written: `in ref. 4`, `according to [5]`. Where two words would touch, a blank is put.

/// The text with every run of white space as one blank, and none at its ends.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// A paragraph while it is read.
#[derive(Default)]
pub(crate) struct Paragraph {
    /// With [`MARK`] for each of `marks`.
    text: String,
    marks: Vec<Mark>,
}

/// Means nothing in text, where it is in use for nobody and is left out.
const MARK: char = '\u{E000}';

/// In longer paragraphs, which nobody writes, marks go without a look at their sentences.
const LONGEST: usize = 1 << 20;

/// Brackets within brackets are looked at so many deep, counted from the innermost.
const LEVELS: usize = 4;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Character(char),
    Mark(Mark),
}

use Token::Character;

/// What is left out, perhaps with all that joins it to others.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    /// As it was written; empty if it never was text.
    text: String,
    /// Above the line, where no sentence needs it.
    raised: bool,
}

impl Paragraph {
    /// Text goes on.
    pub fn push(&mut self, text: &str) {
        self.text.extend(text.split(MARK));
    }

    /// Something that is no text stood here.
    pub fn gap(&mut self) {
        self.mark(Mark { text: String::new(), raised: false });
    }

    /// A reference to the literature stood here. Author and year are part of their sentence.
    pub fn reference(&mut self, text: &str, raised: bool) {
        if is_number(text) {
            self.mark(Mark { text: one_line(text), raised });
        } else {
            self.push(text);
        }
    }

    fn mark(&mut self, mark: Mark) {
        self.text.push(MARK);
        self.marks.push(mark);
    }

    /// The paragraph, which may be empty; another one begins.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        let mut marks = std::mem::take(&mut self.marks).into_iter();
        if marks.len() == 0 {
            return one_line(&text);
        }
        if text.len() > LONGEST {
            return one_line(&text.replace(MARK, " "));
        }
        let token = |character| match character {
            MARK => marks.next().map(Token::Mark),
            _ => Some(Character(character)),
        };
        let tokens = text.chars().filter_map(token).collect();
        let text = one_line(&written(&without_marks(brackets(tokens), false)));
        if text.contains(char::is_alphanumeric) { text } else { String::new() }
    }
}

/// Whether the text of a reference is a number, or several, and no name or year.
fn is_number(text: &str) -> bool {
    words(text).all(|word| {
        if word.get(..4).is_some_and(|year| ("1800".."2100").contains(&year)) {
            return false;
        }
        let letters = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_lettered = letters.len() < word.len() && letters.chars().count() <= 1;
        is_lettered || JOINERS.contains(&word) || matches!(&*word.to_lowercase(), "ref" | "refs")
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn written(tokens: &[Token]) -> String {
    let mut text = String::with_capacity(tokens.len());
    for token in tokens {
        match token {
            Character(character) => text.push(*character),
            Token::Mark(mark) => text.push_str(&mark.text),
        }
    }
    text
}

/// Words between marks.
const JOINERS: [&str; 4] = ["and", "or", "to", "through"];

/// Words that only lead to a mark, or away from it.
const SIGNALS: [&str; 79] = [
    "a",
    "adapted",
    "after",
    "also",
    "among",
    "an",
    "and",
    "article",
    "as",
    "both",
    "but",
    "by",
    "cf",
    "citation",
    "citations",
    "cited",
    "compare",
    "comprehensive",
    "data",
    "described",
    "detail",
    "details",
    "discussed",
    "discussion",
    "e",
    "eg",
    "elsewhere",
    "especially",
    "etc",
    "example",
    "excellent",
    "extensively",
    "for",
    "from",
    "further",
    "g",
    "i",
    "ie",
    "in",
    "including",
    "information",
    "instance",
    "modified",
    "more",
    "most",
    "no",
    "nos",
    "notably",
    "of",
    "on",
    "or",
    "other",
    "others",
    "overview",
    "particularly",
    "previous",
    "previously",
    "published",
    "recent",
    "recently",
    "ref",
    "reference",
    "references",
    "refs",
    "reported",
    "respectively",
    "review",
    "reviewed",
    "reviews",
    "see",
    "shown",
    "source",
    "summarized",
    "the",
    "therein",
    "through",
    "to",
    "viz",
    "with",
];

/// Words that say where in the work that a mark points to.
const LOCATORS: [&str; 12] = [
    "p", "pp", "page", "pages", "ch", "chap", "chapter", "chapters", "vol", "volume", "para",
    "sect",
];

/// Words that need what follows them.
const NEEDING: [&str; 21] = [
    "by",
    "citation",
    "citations",
    "from",
    "in",
    "no",
    "nos",
    "of",
    "on",
    "per",
    "ref",
    "reference",
    "references",
    "refs",
    "see",
    "than",
    "to",
    "under",
    "versus",
    "via",
    "with",
];

/// Whether the text beside marks is nothing without them. Numbers are, as references that were not
/// marked up, if they are joined to marks.
fn leads_nowhere(text: &str) -> bool {
    let is_joining = |c: char| c.is_whitespace() || ",;:.-‐‑–—−/&+*†‡§".contains(c);
    let is_locator = |word: &str| LOCATORS.contains(&&*word.to_lowercase());
    let digits = if words(text).any(is_locator) { 6 } else { 3 };
    let is_known = |word: &str| {
        SIGNALS.contains(&&*word.to_lowercase())
            || is_locator(word)
            || (word.len() <= digits && word.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.chars().all(|c| c.is_alphanumeric() || is_joining(c)) && words(text).all(is_known)
}

/// Whether a part of a bracket says only where in a work.
fn is_locator(text: &str) -> bool {
    let mut words = words(text);
    words.next().is_some_and(|first| LOCATORS.contains(&&*first.to_lowercase()))
        && words.all(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Text beside the marks.
fn beside(tokens: &[Token]) -> String {
    let character = |token: &Token| match token {
        Character(character) => Some(*character),
        // Words on its two sides are two words.
        Token::Mark(_) => Some(' '),
    };
    tokens.iter().filter_map(character).collect()
}

fn has_mark(tokens: &[Token]) -> bool {
    tokens.iter().any(|token| matches!(token, Token::Mark(_)))
}

/// A bracket that is not closed yet.
struct Open {
    /// Where it is.
    start: usize,
    /// Brackets within brackets in it.
    levels: usize,
}

/// Resolves the marks in brackets, from the innermost outwards. A bracket that holds nothing else
/// becomes a mark itself.
fn brackets(tokens: Vec<Token>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut open: Vec<Open> = Vec::new();
    for token in tokens {
        let opening = match token {
            Character('(' | '[' | '{') => {
                open.push(Open { start: out.len(), levels: 0 });
                None
            }
            Character(')') => Some('('),
            Character(']') => Some('['),
            Character('}') => Some('{'),
            _ => None,
        };
        out.push(token);
        let Some(opening) = opening else { continue };
        let Some(Open { start, levels }) =
            open.pop_if(|open| out[open.start] == Character(opening))
        else {
            // Unmatched, as in "1)" or an interval.
            continue;
        };
        if let Some(outer) = open.last_mut() {
            outer.levels = outer.levels.max(levels + 1);
        }
        let inner = &out[start + 1..out.len() - 1];
        if levels >= LEVELS || !has_mark(inner) {
            continue;
        }
        let kept = if leads_nowhere(&beside(inner)) { Vec::new() } else { parts(inner) };
        if written(&kept).chars().any(char::is_alphanumeric) {
            let close = out.len() - 1;
            out.splice(start + 1..close, kept);
            continue;
        }
        let marks =
            || inner.iter().filter_map(|t| if let Token::Mark(m) = t { Some(m) } else { None });
        let raised = marks().all(|mark| mark.raised);
        let is_text = marks().all(|mark| !mark.text.is_empty());
        let text = if is_text { written(&out[start..]) } else { String::new() };
        out.truncate(start);
        out.push(Token::Mark(Mark { text, raised }));
    }
    out
}

/// What is left of the parts of a bracket, between commas and semicolons.
fn parts(tokens: &[Token]) -> Vec<Token> {
    let is_digit = |at: Option<&Token>| matches!(at, Some(Character(c)) if c.is_ascii_digit());
    let mut kept: Vec<Token> = Vec::new();
    let mut start = 0;
    let mut dropped_last = false;
    for at in 0..=tokens.len() {
        let ends = match tokens.get(at) {
            None | Some(Character(';')) => true,
            // "1,000" is one number.
            Some(Character(',')) => {
                !(at > 0 && is_digit(tokens.get(at - 1)) && is_digit(tokens.get(at + 1)))
            }
            _ => false,
        };
        if !ends {
            continue;
        }
        let part = &tokens[start..at];
        let text = beside(part);
        let goes =
            if has_mark(part) { leads_nowhere(&text) } else { dropped_last && is_locator(&text) };
        if !goes {
            let marked = has_mark(part);
            let mut part = without_marks(part.to_vec(), true);
            if marked {
                trim_joiners(&mut part);
            }
            let from = if kept.is_empty() {
                part.iter().take_while(|t| matches!(t, Character(c) if c.is_whitespace())).count()
            } else {
                kept.push(tokens[start - 1].clone());
                0
            };
            kept.extend_from_slice(&part[from..]);
        }
        dropped_last = goes;
        start = at + 1;
    }
    while matches!(kept.last(), Some(Character(c)) if c.is_whitespace()) {
        kept.pop();
    }
    kept
}

/// Takes away what joined a mark at either end to the rest.
fn trim_joiners(part: &mut Vec<Token>) {
    let text = written(part);
    let mut rest = text.as_str();
    for joiner in ["and", "or", "&"] {
        rest = rest.trim_end();
        if let Some(shorter) = rest.strip_suffix(joiner)
            && !shorter.ends_with(char::is_alphanumeric)
        {
            rest = shorter.trim_end();
        }
        let start = rest.trim_start();
        if let Some(shorter) = start.strip_prefix(joiner)
            && !shorter.starts_with(char::is_alphanumeric)
        {
            rest = shorter;
        }
    }
    *part = rest.chars().map(Character).collect();
}

/// Decides on the marks beside which no bracket is left, a list of them at a time.
fn without_marks(tokens: Vec<Token>, in_bracket: bool) -> Vec<Token> {
    if !has_mark(&tokens) {
        return tokens;
    }
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if let Character(_) = tokens[at] {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = list_end(&tokens, at);
        let list = &tokens[at..end];
        if is_needed(&out, list, &tokens[end..], in_bracket) {
            out.extend(written(list).chars().map(Character));
        } else {
            leave_out(&mut out, &tokens[end..]);
        }
        at = end;
    }
    out
}

/// Where the list of marks ends that begins at `start`: they are joined by commas, dashes and words.
fn list_end(tokens: &[Token], start: usize) -> usize {
    let mut end = start + 1;
    loop {
        let between: String = tokens[end..]
            .iter()
            .map_while(|token| match token {
                Character(c)
                    if c.is_whitespace() || ",;-‐‑–—−/&".contains(*c) || c.is_ascii_lowercase() =>
                {
                    Some(*c)
                }
                _ => None,
            })
            .take(20)
            .collect();
        let next = end + between.chars().count();
        let is_joined = words(&between).all(|word| JOINERS.contains(&word));
        if !is_joined || !matches!(tokens.get(next), Some(Token::Mark(_))) {
            return end;
        }
        end = next + 1;
    }
}

/// Whether the sentence says nothing without the marks.
fn is_needed(before: &[Token], list: &[Token], after: &[Token], in_bracket: bool) -> bool {
    // A list with a gap in it cannot be written as it was.
    let is_text = |mark: &Mark| !mark.text.is_empty();
    let marks = || {
        list.iter()
            .filter_map(|token| if let Token::Mark(mark) = token { Some(mark) } else { None })
    };
    if !marks().all(is_text) || marks().all(|mark| mark.raised) {
        return false;
    }
    let from = before.len().saturating_sub(40);
    let before = written(&before[from..]);
    let trimmed = before.trim_end();
    let follows: String = after
        .iter()
        .take(3)
        .map_while(|t| if let Character(c) = t { Some(*c) } else { None })
        .collect();
    let goes_on = follows.trim_start().starts_with(char::is_lowercase);
    if trimmed.is_empty() {
        // The subject of a sentence.
        return goes_on && !in_bracket;
    }
    if trimmed.ends_with(['=', '<', '>', '≤', '≥', '≈', '±', '×', '~']) {
        return true;
    }
    let last = words(trimmed).last().unwrap_or_default();
    let word = last.to_lowercase();
    let is_reference = word.starts_with("ref") || word.starts_with("no");
    let touches = trimmed.len() == before.len();
    let ends = trimmed.trim_end_matches('.');
    if touches && !(is_reference && trimmed.ends_with('.')) {
        return false;
    }
    if ends.ends_with(last) && (ends.len() == trimmed.len() || is_reference) {
        return NEEDING.contains(&&*word);
    }
    // The subject of a sentence, after the end of another: not after "et al." and the like.
    goes_on
        && trimmed.ends_with(['.', '?', '!'])
        && last.len() > 4
        && last.chars().all(char::is_lowercase)
}

/// Leaves marks out between `out` and what follows.
fn leave_out(out: &mut Vec<Token>, after: &[Token]) {
    let blank = |token: Option<&Token>| matches!(token, Some(Character(c)) if c.is_whitespace());
    let next = match after.first() {
        Some(Character(next)) => Some(*next),
        _ => None,
    };
    if after.is_empty() || next.is_some_and(|next| ",.;:)]}?!%’”»…/—–-".contains(next)) {
        while blank(out.last()) {
            out.pop();
        }
        // "known, [1]." had a comma for its mark.
        if matches!(out.last(), Some(Character(',' | ';')))
            && next.is_some_and(|next| ",.;:)]}".contains(next))
        {
            out.pop();
        }
    } else if let (Some(Character(last)), Some(next)) = (out.last(), next) {
        let words = last.is_alphanumeric() && next.is_alphanumeric();
        let sentences = ".,;:?!)]".contains(*last) && next.is_alphabetic();
        if words || sentences {
            out.push(Character(' '));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A paragraph in which `<4>` is a reference, `^4^` a raised one and `#` a gap.
    fn paragraph(text: &str) -> String {
        let mut paragraph = Paragraph::default();
        let mut rest = text;
        while let Some(at) = rest.find(['<', '^', '#']) {
            paragraph.push(&rest[..at]);
            let mark = &rest[at..];
            let length = match mark.as_bytes()[0] {
                b'<' => mark.find('>').expect("closed") + 1,
                b'^' => mark[1..].find('^').expect("closed") + 2,
                _ => 1,
            };
            match length {
                1 => paragraph.gap(),
                _ => paragraph.reference(&mark[1..length - 1], mark.starts_with('^')),
            }
            rest = &mark[length..];
        }
        paragraph.push(rest);
        paragraph.take()
    }

    #[test]
    fn marks_go_with_what_only_they_needed() {
        for (text, expected) in [
            ("a [<1>].", "a."),
            ("a (<1>, <2>) b", "a b"),
            ("a<1>,<2> b", "a b"),
            ("a, <1>", "a,"),
            ("a, [<1>].", "a."),
            ("(see <1>)", ""),
            ("<1>", ""),
            (" no \n mark ", "no mark"),
            ("known [<1> and <2>], so", "known, so"),
            ("known [<1>,<>,<3>] so", "known so"),
            ("known <[1]>–<[3]> so", "known so"),
            ("known^1^^,^^2^ so", "known so"),
            ("known [<1>] [<2>] so", "known so"),
            ("known {<1>} so", "known so"),
            ("known (e.g., <1>, <2>) so", "known so"),
            ("known (refs. <1>–<2>) so", "known so"),
            ("known (for review, see <12>) so", "known so"),
            ("known (for a review see [<12>, <13>]) so", "known so"),
            ("known (reviewed in <1> & <2>). So", "known. So"),
            ("known [<1>, p. 33] so", "known so"),
            ("known [<1>, pp. 1033–1035; <2>] so", "known so"),
            ("known [<1>, 2, 5–<7>] so", "known so"),
            ("known.^1^So it is", "known. So it is"),
            ("known^1^so it is", "known so it is"),
            ("we see 5<6> of them", "we see 5 of them"),
            ("known^1^, and", "known, and"),
        ] {
            assert_eq!(paragraph(text), expected, "{text}");
        }
    }

    #[test]
    fn what_stands_beside_marks_stays() {
        for (text, expected) in [
            ("so (<1>; Smith 2001) it", "so (Smith 2001) it"),
            ("so (<Smith 2001>; <1>) it", "so (Smith 2001) it"),
            ("so [<1>, Figure 2] it", "so [Figure 2] it"),
            ("so [Figure 2 and <1>] it", "so [Figure 2] it"),
            ("so (<1> and Figure 2) it", "so (Figure 2) it"),
            ("so (Table 1; reviewed in <1>) it", "so (Table 1) it"),
            ("so (<1>, p. 33; Table 1) it", "so (Table 1) it"),
            ("so (1,000 of them, [<1>]) it", "so (1,000 of them) it"),
            ("so (as shown for other drugs [<1>]) it", "so (as shown for other drugs) it"),
            ("so (p = 0.05) [<1>]", "so (p = 0.05)"),
            ("in [0, 1) we [<1>] see", "in [0, 1) we see"),
            ("by Smith et al. [<1>] and", "by Smith et al. and"),
            ("by <Smith (2001)>, and", "by Smith (2001), and"),
            ("so (Smith, <2001a>; Miller, <1999>) it", "so (Smith, 2001a; Miller, 1999) it"),
            ("so it [<1>]—which is", "so it—which is"),
        ] {
            assert_eq!(paragraph(text), expected, "{text}");
        }
    }

    #[test]
    fn marks_that_a_sentence_needs_stay() {
        for text in [
            "Eight in ref. <4>, we see",
            "as in refs <4>–<6> and <8>, we",
            "according to [<5>], it",
            "as described in [<5>].",
            "It was low there. [<5>] showed that",
            "[<5>, <6>] showed that",
            "the value n = <12a> was",
            "so (Table 1 and ref. <12>) it",
        ] {
            assert_eq!(paragraph(text), text.replace(['<', '>'], ""), "{text}");
        }
        // Raised, they point from a word.
        assert_eq!(paragraph("grown in^5^ vitro"), "grown in vitro");
    }

    #[test]
    fn gaps_are_no_glue_and_leave_no_brackets() {
        for (text, expected) in [
            ("given by#where k", "given by where k"),
            ("seen#Next it", "seen Next it"),
            ("seen.#Next it", "seen. Next it"),
            ("given by #, where", "given by, where"),
            ("given by # where", "given by where"),
            ("so (#) it", "so it"),
            ("so (see #, #) it", "so it"),
            ("so # and # hold", "so hold"),
            ("#", ""),
        ] {
            assert_eq!(paragraph(text), expected, "{text}");
        }
    }

    #[test]
    fn no_paragraph_takes_long_or_loses_its_words() {
        for (piece, around) in
            [("(a <1>", ""), ("(", "<1>"), ("[<1> and ", ""), (")", "<1>"), ("<1>, ", "")]
        {
            let text = format!("word {around} {}", piece.repeat(20_000));
            let found = paragraph(&text);
            assert!(found.starts_with("word"), "{piece}");
            let deep = format!("{}{}{}", "(a ".repeat(50_000), "<1>", " b)".repeat(50_000));
            assert!(paragraph(&deep).ends_with(" b)"));
        }
    }

    proptest::proptest! {
        /// No letter of what is no mark, signal word or joiner goes, and no bracket is left empty.
        #[test]
        fn words_stay_and_brackets_do_not_stand_empty(text in r"([(](aspirin|<[0-9]{1,2}>|\^[0-9]\^|#| and | see |, |; |-| ){1,4}[)]|[\[](heparin 5|<[0-9]{1,2}>|#| and | see |, |; |-| ){1,4}\]|aspirin|heparin 5|<[0-9]{1,2}>|\^[0-9]\^|#|, | ){0,24}") {
            let found = paragraph(&text);
            for word in ["aspirin", "heparin 5"] {
                proptest::prop_assert_eq!(text.matches(word).count(), found.matches(word).count(), "{}", found);
            }
            let written = one_line(&text);
            for empty in ["()", "[]", "( )", "(,", "(;", "  "] {
                proptest::prop_assert!(written.contains(empty) || !found.contains(empty), "{}", found);
            }
        }
    }
}
