//! JSONL: one JSON object a line.
//!
//! A record is `{text}`, or `{title, abstract}` as PubMed citations come, or `{title, sections}`
//! with `sections` a list of `{heading, text}` as full articles come. `pmc`, `pmid` or `id`, the first
//! that is there, identifies the document; `language` (or `lang`) is its language; other fields are
//! ignored. A malformed line is damage that does not lose the other lines.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use super::lines::Lines;
use super::record::{Event, Record, Sink};
use super::stream::Stream;
use crate::DataError;
use crate::error::InputProblem;

/// Reads the records of a JSONL file.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut lines = Lines::new(stream, path);
    while let Some(line) = lines.next()? {
        if !line.trim().is_empty() {
            let event = match parse(line) {
                Ok(record) => Event::Record(record),
                Err(problem) => Event::Damaged(lines.wrong(problem)),
            };
            sink(event)?;
        }
        lines.renew();
    }
    Ok(())
}

#[derive(Deserialize)]
struct Fields {
    id: Option<Identifier>,
    pmid: Option<Identifier>,
    pmc: Option<Identifier>,
    #[serde(alias = "lang")]
    language: Option<String>,
    #[serde(default, deserialize_with = "present")]
    text: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    r#abstract: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    sections: Option<Option<Vec<Section>>>,
}

#[derive(Deserialize)]
struct Section {
    heading: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Identifier {
    Number(u64),
    Name(String),
}

/// Tells a field that is `null` (the record has no abstract) from one that is missing (this is
/// some other kind of file).
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

impl Identifier {
    /// Digits of a number, or the name without the prefix of its registry, after `registry`. A blank
    /// name identifies nothing.
    fn in_registry(self, registry: &str, prefix: &str) -> Option<String> {
        let bare = match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => {
                let name = name.trim();
                name.strip_prefix(prefix).unwrap_or(name).to_owned()
            }
        };
        (!bare.is_empty()).then(|| format!("{registry}:{bare}"))
    }
}

fn parse(line: &str) -> Result<Record, InputProblem> {
    let fields: Fields =
        serde_json::from_str(line).map_err(|e| InputProblem::NotARecord { why: e.to_string() })?;
    let Fields { id, pmid, pmc, language, text, title, r#abstract, sections } = fields;
    if text.is_none() && title.is_none() && r#abstract.is_none() && sections.is_none() {
        return Err(InputProblem::NoText);
    }
    // Spelt as the XML formats spell it, so that both fall into the same split.
    let identity = None
        .or_else(|| pmc?.in_registry("PMC", "PMC"))
        .or_else(|| pmid?.in_registry("PMID", ""))
        .or_else(|| id?.in_registry("ID", ""));
    let mut paragraphs: Vec<String> = [text, r#abstract].into_iter().flatten().flatten().collect();
    for section in sections.flatten().unwrap_or_default() {
        let body = section.text.unwrap_or_default();
        if !body.trim().is_empty() {
            paragraphs.extend(section.heading);
            paragraphs.push(body);
        }
    }
    Ok(Record {
        identity,
        languages: language.into_iter().collect(),
        title: title.flatten().unwrap_or_default(),
        paragraphs,
        ..Record::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::MAX_RECORD;
    use super::super::testing::{parse, records};
    use super::*;

    #[test]
    fn records_of_all_shapes_are_read() {
        let found = records(
            "a.jsonl",
            "\u{feff}{\"text\": \"x\", \"id\": 5, \"more\": [1]}\r\n\n\
             {\"title\": \"T\", \"abstract\": null, \"pmid\": 7, \"id\": \"s:7\", \"lang\": \"en\"}\n\
             {\"pmc\": \"PMC9\", \"pmid\": 7, \"title\": \"T\", \"sections\": [{\"heading\": \"H\", \"text\": \"b\"}, {\"text\": \" \"}]}\n\
             {\"text\": \"anonymous\", \"pmc\": \"\", \"pmid\": null, \"id\": \" \"}"
                .as_bytes(),
        );
        let identities: Vec<_> = found.iter().filter_map(|r| r.identity.as_deref()).collect();
        assert_eq!(identities, ["ID:5", "PMID:7", "PMC:9"]);
        assert_eq!(found[0].paragraphs, ["x"]);
        assert!(found[1].paragraphs.is_empty() && found[1].languages == ["en"]);
        assert_eq!((found[2].title.as_str(), found[2].paragraphs.len()), ("T", 2));
        assert!(records("a.jsonl", b"").is_empty());
    }

    #[test]
    fn malformed_lines_are_stepped_over() {
        for bad in ["{\"text\": 3}", "{\"text\": ", "[]", "{\"a\": \"b\"}", "{\"text\": \"x\"} y"] {
            let bytes = format!("{{\"text\": \"a\"}}\n{bad}\n{{\"text\": \"b\"}}\n");
            let (events, error) = parse("a.jsonl", bytes.as_bytes());
            assert!(error.is_none());
            let [Event::Record(_), Event::Damaged(damage), Event::Record(_)] = &events[..] else {
                panic!("{events:?}");
            };
            assert!(damage.to_string().starts_with("a.jsonl, line 2, byte 14: "), "{damage}");
        }
    }

    #[test]
    fn a_line_too_long_ends_the_file() {
        let mut bytes = b"{\"text\": \"a\"}\n".to_vec();
        bytes.resize(MAX_RECORD as usize + 200_000, b'x');
        let (events, error) = parse("a.jsonl", &bytes);
        assert_eq!(events.len(), 1);
        assert!(error.expect("too long").to_string().contains("longer than 64 MiB"));
    }
}
