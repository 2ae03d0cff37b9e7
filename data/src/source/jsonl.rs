//! JSONL: one JSON object a line.
//!
//! A record is `{text}`, or `{title, abstract}` as PubMed citations come, or `{title, sections}`
//! with `sections` a list of `{heading, text}` as full articles come. `pmc`, `pmid` or `id`, the first
//! that is there, identifies the document; `language` and `lang` are its languages, codes or names, one
//! or a list; other fields are ignored. A malformed line is damage that does not lose the other lines,
//! and metadata of an unexpected kind is passed over and noted: it does not lose the text.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;

use super::lines::{Line, Lines};
use super::mend::mend;
use super::record::{Event, Record, Sink};
use super::stream::Stream;
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// Reads the records of a JSONL file.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut lines = Lines::new(stream, path);
    let mut odd = BTreeMap::new();
    let outcome = read_lines(&mut lines, sink, &mut odd);
    for (field, Odd { count, first, found }) in odd {
        let problem = InputProblem::FieldIgnored { field, found, count };
        sink(Event::Noted(lines.wrong_at(first, problem)))?;
    }
    outcome
}

fn read_lines(
    lines: &mut Lines,
    sink: Sink,
    odd: &mut BTreeMap<&'static str, Odd>,
) -> Result<(), DataError> {
    while let Some(line) = lines.next()? {
        let parsed = match line {
            Line::Text(line) if line.trim().is_empty() => continue,
            Line::Text(line) => parse(line).or_else(|problem| match mend(line) {
                Some(mended) => parse(&mended),
                None => Err(problem),
            }),
            Line::Damaged(problem) => Err(problem),
        };
        let event = match parsed {
            Ok((record, ignored)) => {
                for (field, found) in ignored {
                    let place = lines.place();
                    odd.entry(field).or_insert(Odd { count: 0, first: place, found }).count += 1;
                }
                Event::Record(record)
            }
            Err(problem) => Event::Damaged(lines.wrong(problem)),
        };
        sink(event)?;
    }
    Ok(())
}

/// Values of a field that nothing could be made of.
struct Odd {
    count: u64,
    first: InputPlace,
    /// What the first one is.
    found: &'static str,
}

/// Fields whose values were passed over, and what they are.
type Ignored = Vec<(&'static str, &'static str)>;

/// An object, its values as they are written.
struct Fields<'l>(BTreeMap<String, &'l RawValue>);

impl<'l> Fields<'l> {
    /// Only an object has fields: a list of values in the right order is none.
    fn parse(json: &'l str) -> Result<Self, InputProblem> {
        match serde_json::from_str(json) {
            Ok(fields) => Ok(Self(fields)),
            Err(_) if serde_json::from_str::<&RawValue>(json).is_ok() => {
                Err(InputProblem::NotAnObject { found: kind(json) })
            }
            Err(error) => Err(InputProblem::NotARecord { why: error.to_string() }),
        }
    }

    /// The value of a field: none if it is missing, an empty one if it is `null`.
    fn value<T: serde::de::DeserializeOwned + Default>(
        &self,
        field: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, InputProblem> {
        let Some(json) = self.0.get(field).map(|value| value.get()) else { return Ok(None) };
        let value: Result<Option<T>, _> = serde_json::from_str(json);
        match value {
            Ok(value) => Ok(Some(value.unwrap_or_default())),
            Err(_) => Err(InputProblem::WrongField { field, found: kind(json), expected }),
        }
    }

    fn text(&self, field: &'static str) -> Result<Option<String>, InputProblem> {
        self.value(field, "text")
    }

    /// What identifies the record in `registry`, spelt as the XML formats spell it, so that both fall
    /// into the same split: the digits of a number, or a name without the prefix of its registry.
    fn identity(
        &self,
        field: &'static str,
        registry: &str,
        prefix: &str,
        ignored: &mut Ignored,
    ) -> Option<String> {
        let json = self.0.get(field)?.get();
        let name = match kind(json) {
            NULL => return None,
            TEXT => serde_json::from_str(json).ok()?,
            NUMBER => whole(json),
            other => {
                ignored.push((field, other));
                return None;
            }
        };
        let name = name.trim();
        let bare = name.strip_prefix(prefix).unwrap_or(name);
        (!bare.is_empty()).then(|| format!("{registry}:{bare}"))
    }

    /// Languages in a field: a text, which may name several, or a list of texts.
    fn languages(&self, field: &'static str, ignored: &mut Ignored) -> Vec<String> {
        let Some(json) = self.0.get(field).map(|value| value.get()) else { return Vec::new() };
        let texts: Option<Vec<String>> = match kind(json) {
            NULL => Some(Vec::new()),
            TEXT => serde_json::from_str(json).ok().map(|text| vec![text]),
            LIST => serde_json::from_str::<Vec<Option<String>>>(json)
                .ok()
                .map(|texts| texts.into_iter().flatten().collect()),
            _ => None,
        };
        let Some(texts) = texts else {
            ignored.push((field, kind(json)));
            return Vec::new();
        };
        let names = texts.iter().flat_map(|text| text.split([',', ';', '|', '/']));
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }
}

const NULL: &str = "null";
const TEXT: &str = "text";
const NUMBER: &str = "a number";
const LIST: &str = "a list";

/// What a JSON value is, by its first character.
fn kind(json: &str) -> &'static str {
    match json.trim_start().as_bytes().first() {
        Some(b'"') => TEXT,
        Some(b'{') => "an object",
        Some(b'[') => LIST,
        Some(b't' | b'f') => "true or false",
        Some(b'n') => NULL,
        _ => NUMBER,
    }
}

/// A number as it is written, but a whole one without the point that floating-point columns give it.
fn whole(number: &str) -> String {
    let number = number.trim();
    if let Some((whole, fraction)) = number.split_once('.')
        && fraction.bytes().all(|digit| digit == b'0')
    {
        return whole.to_owned();
    }
    match number.parse::<f64>() {
        // Below, floating point has every whole number.
        Ok(value) if number.contains(['e', 'E']) && value.fract() == 0.0 && value.abs() < 1e15 => {
            format!("{value:.0}")
        }
        _ => number.to_owned(),
    }
}

fn parse(line: &str) -> Result<(Record, Ignored), InputProblem> {
    let fields = Fields::parse(line)?;
    let title = fields.text("title")?;
    let texts = [fields.text("text")?, fields.text("abstract")?];
    let sections: Option<Vec<Box<RawValue>>> = fields.value("sections", "a list of objects")?;
    if title.is_none() && texts.iter().all(Option::is_none) && sections.is_none() {
        return Err(InputProblem::NoText);
    }
    let mut ignored = Vec::new();
    let identity = None
        .or_else(|| fields.identity("pmc", "PMC", "PMC", &mut ignored))
        .or_else(|| fields.identity("pmid", "PMID", "", &mut ignored))
        .or_else(|| fields.identity("id", "ID", "", &mut ignored));
    let mut languages = fields.languages("language", &mut ignored);
    languages.extend(fields.languages("lang", &mut ignored));
    let mut paragraphs: Vec<String> =
        texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    for section in sections.unwrap_or_default() {
        let section = Fields::parse(section.get()).map_err(|_| InputProblem::WrongField {
            field: "sections",
            found: "a list with something else",
            expected: "a list of objects",
        })?;
        let body = section.text("text")?.unwrap_or_default();
        if !body.trim().is_empty() {
            paragraphs.extend(section.text("heading")?);
            paragraphs.push(body);
        }
    }
    let title = title.unwrap_or_default();
    Ok((Record { identity, languages, title, paragraphs, ..Record::default() }, ignored))
}

#[cfg(test)]
mod tests {
    use super::super::record::MAX_RECORD;
    use super::super::testing::{damages, notes, records};

    #[test]
    fn records_of_all_shapes_are_read() {
        let found = records(
            "a.jsonl",
            "\u{feff}{\"text\": \"x\", \"id\": 5, \"more\": [1]}\r\n\n\
             {\"title\": \"T\", \"abstract\": null, \"pmid\": 7, \"id\": \"s:7\", \"lang\": \"en\"}\n\
             {\"pmc\": \"PMC9\", \"pmid\": 7, \"title\": \"T\", \"sections\": [{\"heading\": \"H\", \"text\": \"b\"}, {\"text\": \" \"}]}\n\
             {\"text\": \"anonymous\", \"pmc\": \"\", \"pmid\": null, \"id\": \" \"}\n\
             \u{feff}{\"text\": \"of a file that was put behind\"}"
                .as_bytes(),
        );
        let identities: Vec<_> = found.iter().filter_map(|r| r.identity.as_deref()).collect();
        assert_eq!((identities, found.len()), (vec!["ID:5", "PMID:7", "PMC:9"], 5));
        assert_eq!(found[0].paragraphs, ["x"]);
        assert!(found[1].paragraphs.is_empty() && found[1].languages == ["en"]);
        assert_eq!((found[2].title.as_str(), found[2].paragraphs.len()), ("T", 2));
        assert!(records("a.jsonl", b"").is_empty());
    }

    #[test]
    fn identifiers_of_any_kind_cost_no_text() {
        for (json, identity) in [
            ("7", Some("7")),
            ("-3", Some("-3")),
            ("31000001.0", Some("31000001")),
            ("3.1000001e7", Some("31000001")),
            ("1.5", Some("1.5")),
            ("18446744073709551617", Some("18446744073709551617")),
            ("\" x \"", Some("x")),
            ("null", None),
            ("NaN", None),
            ("true", None),
            ("[\"a\"]", None),
            ("{\"$oid\": \"5f\"}", None),
        ] {
            for (field, registry) in [("id", "ID"), ("pmid", "PMID"), ("pmc", "PMC")] {
                let line = format!("{{\"{field}\": {json}, \"text\": \"kept\"}}\n");
                let found = &records("a.jsonl", line.as_bytes())[0];
                assert_eq!(found.paragraphs, ["kept"]);
                let expected = identity.map(|name| format!("{registry}:{name}"));
                assert_eq!(found.identity, expected, "{line}");
                let odd = json.starts_with(['t', '[', '{']);
                assert_eq!(notes("a.jsonl", line.as_bytes()).len(), usize::from(odd), "{line}");
            }
        }
        let lines = "{\"text\": \"a\", \"id\": true}\n{\"text\": \"b\", \"id\": [1]}\n";
        let notes = notes("a.jsonl", lines.as_bytes());
        assert_eq!(notes.len(), 1, "one note for all");
        assert!(
            notes[0].starts_with("a.jsonl, line 1, byte 0: `id` is true or false"),
            "{notes:?}"
        );
        assert!(notes[0].contains("2 records"), "{notes:?}");
    }

    #[test]
    fn languages_are_codes_names_or_lists() {
        for (fields, languages, noted) in [
            ("\"language\": [\"eng\", null, \"fre\"]", &["eng", "fre"][..], 0),
            ("\"lang\": \"en\", \"language\": \"English\"", &["English", "en"], 0),
            ("\"lang\": \"en; de\"", &["en", "de"], 0),
            ("\"lang\": null, \"language\": \"\"", &[], 0),
            ("\"language\": 5", &[], 1),
            ("\"language\": {\"a\": 1}, \"lang\": [3]", &[], 2),
        ] {
            let line = format!("{{\"text\": \"kept\", {fields}}}");
            assert_eq!(records("a.jsonl", line.as_bytes())[0].languages, languages, "{line}");
            assert_eq!(notes("a.jsonl", line.as_bytes()).len(), noted, "{line}");
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        for (line, text) in [
            (r#"{"score": NaN, "x": [-Infinity, Infinity], "text": "NaN a"}"#, "NaN a"),
            (r#"{"abstract": NaN, "text": "b\ud83d c \"NaN"}"#, "b\u{fffd} c \"NaN"),
            (r#"{"text": "\ude00\ud83d\ud83d\ude00\\ud83d"}"#, "\u{fffd}\u{fffd}😀\\ud83d"),
        ] {
            assert_eq!(records("a.jsonl", line.as_bytes())[0].paragraphs[0], text, "{line}");
        }
    }

    #[test]
    fn malformed_lines_are_stepped_over() {
        for (bad, says) in [
            ("{\"text\": 3}", "`text` is a number"),
            ("{\"title\": [\"a\"], \"text\": \"x\"}", "`title` is a list"),
            ("{\"sections\": [[\"H\", \"b\"]]}", "`sections`"),
            ("{\"sections\": [{\"text\": true}]}", "`text` is true or false"),
            ("{\"text\": ", "not a valid JSON record"),
            ("{\"a\": \"b\"}", "the record has no `text`"),
            ("{\"text\": \"x\"} y", "not a valid JSON record"),
            ("[]", "a list, not an object"),
            ("[\"1\", \"2\", \"3\", \"en\", \"text\"]", "a list, not an object"),
            ("\"text\"", "text, not an object"),
            ("42", "a number, not an object"),
            ("null", "null, not an object"),
            ("NaN", "not an object"),
        ] {
            let bytes = format!("{{\"text\": \"a\"}}\n{bad}\n{{\"text\": \"b\"}}\n");
            let (found, damages) = damages("a.jsonl", bytes.as_bytes());
            assert_eq!((found.len(), damages.len()), (2, 1), "{bad}");
            assert!(damages[0].starts_with("a.jsonl, line 2, byte 14: "), "{damages:?}");
            assert!(damages[0].contains(says), "{damages:?} for {bad}");
        }
    }

    /// The one line with the byte is damage, or another record where another byte is text too.
    #[test]
    fn any_damaged_byte_costs_its_line_alone() {
        let lines: Vec<String> = (0..5)
            .map(|i| {
                format!("{{\"pmid\": {i}, \"title\": \"T{i}\", \"abstract\": \"naïve β {i}\"}}\n")
            })
            .collect();
        let text = lines.concat();
        let whole = records("a.jsonl", text.as_bytes());
        for at in 0..text.len() {
            let line = text[..text.floor_char_boundary(at)].matches('\n').count();
            for byte in [0xFF, 0, b'"', b'{', b'\n', text.as_bytes()[at] ^ 1] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                let (found, damages) = damages("a.jsonl", &bytes);
                // A line end that is none makes one line of two.
                let hit = if text.as_bytes()[at] == b'\n' { 2 } else { 1 };
                for (number, record) in whole.iter().enumerate() {
                    let is_hit = (line..line + hit).contains(&number);
                    assert!(is_hit || found.contains(record), "byte {at}, line {number}");
                }
                let read = found.iter().filter(|record| whole.contains(record)).count();
                assert!(read == whole.len() || found.len() > read || !damages.is_empty());
                for damage in &damages {
                    let place = format!("a.jsonl, line {}, byte ", line + 1);
                    let next = format!("a.jsonl, line {}, byte ", line + 2);
                    assert!(damage.starts_with(&place) || damage.starts_with(&next), "{damage}");
                }
            }
        }
    }

    #[test]
    fn a_line_too_long_costs_no_other() {
        let mut bytes = b"{\"text\": \"a\"}\n".to_vec();
        bytes.resize(MAX_RECORD as usize + 200_000, b'x');
        bytes.extend(b"\n{\"text\": \"b\"}");
        let (found, damages) = damages("a.jsonl", &bytes);
        assert_eq!(found.len(), 2);
        assert!(damages[0].contains("a.jsonl, line 2, byte 14: "), "{damages:?}");
        assert!(damages[0].contains("longer than 64 MiB") && damages.len() == 1, "{damages:?}");
    }
}
