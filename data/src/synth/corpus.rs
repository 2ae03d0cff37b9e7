//! The corpus of a seed, as records and as a file.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use mediswift_files as files;
use serde::Serialize;

use super::draw::Draw;
use super::facts::World;
use crate::DataError;
use crate::error::RequestProblem;
use crate::source::{Compression, Format, RecordFormat, format_of};

/// How many documents to write between two calls of the progress callback.
const REPORT_EVERY: u64 = 1000;

/// One synthetic abstract, ready to be written as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynthRecord {
    /// `synth-<seed>-<number>`.
    pub id: String,
    /// The title.
    pub title: String,
    /// The abstract, one line.
    pub r#abstract: String,
}

/// The endless corpus of a seed; take as many records as needed.
pub fn records(seed: u64) -> impl Iterator<Item = SynthRecord> {
    let world = World::new(seed);
    (0u64..).map(move |number| record(&world, seed, number))
}

fn record(world: &World, seed: u64, number: u64) -> SynthRecord {
    let mut draw = Draw::new(seed, number);
    let paper = world.paper(&mut draw);
    let labels = ["BACKGROUND: ", "METHODS: ", "RESULTS: ", "CONCLUSIONS: "];
    let labelled = draw.below(3) > 0;
    let sections = paper.sections.iter().zip(labels);
    let body: Vec<String> = sections
        .map(|(section, label)| format!("{}{section}", if labelled { label } else { "" }))
        .collect();
    SynthRecord {
        id: format!("synth-{seed}-{number}"),
        title: paper.title,
        r#abstract: body.join(" "),
    }
}

/// Writes the first `documents` records of a seed as JSONL, compressed if the name ends in `.gz`
/// or `.zst`; returns the bytes of text before compression. The file appears when it is whole.
///
/// `progress` is given the number of documents written, and may stop the work with `Break`.
///
/// # Errors
/// When the name does not end like an input of [`crate::source`], the disk refuses,
/// or with [`DataError::Interrupted`].
pub fn write(
    path: &Path,
    seed: u64,
    documents: u64,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<u64, DataError> {
    let Some(compression) = jsonl_compression(path) else {
        return Err(RequestProblem::UnknownOutput { path: path.to_owned() }.into());
    };
    let mut bytes = 0;
    files::write_with(path, |file| {
        let mut write_to = |out: &mut dyn Write| {
            for (record, done) in records(seed).zip(0..documents) {
                if done % REPORT_EVERY == 0 && progress(done).is_break() {
                    return Err(DataError::Interrupted);
                }
                let mut line = serde_json::to_vec(&record)
                    .map_err(|e| DataError::io("write", path, e.into()))?;
                line.push(b'\n');
                bytes += line.len() as u64;
                out.write_all(&line).map_err(|e| DataError::io("write", path, e))?;
            }
            Ok(())
        };
        match compression {
            Compression::None => write_to(file),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(file, flate2::Compression::default());
                write_to(&mut encoder)?;
                encoder.finish().map(drop).map_err(|e| DataError::io("write", path, e))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)
                    .map_err(|e| DataError::io("write", path, e))?;
                write_to(&mut encoder)?;
                encoder.finish().map(drop).map_err(|e| DataError::io("write", path, e))
            }
        }
    })?;
    Ok(bytes)
}

/// How a JSONL file is compressed, by its name; `None` if it is not JSONL by its name.
fn jsonl_compression(path: &Path) -> Option<Compression> {
    let (format, compression) = format_of(path)?;
    (format == Format::Records(RecordFormat::Jsonl)).then_some(compression)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::facts::{CLASSES, SYSTEMS};
    use super::*;

    #[test]
    fn a_seed_has_one_corpus() {
        let first: Vec<SynthRecord> = records(11).take(40).collect();
        assert!(records(11).take(40).eq(first.iter().cloned()));
        assert_ne!(records(12).next(), first.first().cloned());
        // Pinned: a change here changes every published number that used the corpus.
        let hash = blake3::hash(serde_json::to_string(&first).expect("JSON").as_bytes());
        assert_eq!(&hash.to_hex()[..16], "5c4ddbd7110b1450");
    }

    #[test]
    fn what_is_written_can_be_read_whatever_the_compression() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            write(&path, 2, 10, &mut |_| ControlFlow::Continue(())).expect("write");
            let bytes = std::fs::read(&path).expect("read");
            let read: Vec<String> = crate::source::testing::records(name, &bytes)
                .into_iter()
                .map(|record| format!("{}\n{}", record.title, record.paragraphs.concat()))
                .collect();
            let made: Vec<String> =
                records(2).take(10).map(|r| format!("{}\n{}", r.title, r.r#abstract)).collect();
            assert_eq!(read, made);
        }
        assert!(
            write(&folder.path().join("a.txt"), 2, 1, &mut |_| ControlFlow::Continue(())).is_err()
        );
        let stopped = write(&folder.path().join("b.jsonl"), 2, 10, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(DataError::Interrupted)));
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 3);
    }

    #[test]
    fn texts_are_varied_and_well_formed() {
        let corpus: Vec<SynthRecord> = records(1).take(2000).collect();
        let distinct: HashSet<&str> = corpus.iter().map(|r| r.r#abstract.as_str()).collect();
        assert!(distinct.len() > 1990, "{}", distinct.len());
        let words: HashSet<&str> = corpus.iter().flat_map(|r| r.r#abstract.split(' ')).collect();
        assert!(words.len() > 1000, "{}", words.len());
        for record in &corpus {
            let text = &record.r#abstract;
            assert!(text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "{text}");
            assert!((150..1200).contains(&text.len()), "{text}");
            assert!(
                record.title.chars().next().is_some_and(char::is_uppercase),
                "{}",
                record.title
            );
        }
    }

    #[test]
    fn conclusions_follow_from_the_names() {
        for record in records(5).take(3000) {
            let text = &record.r#abstract;
            let Some(drug) = text.split("received ").nth(1).and_then(|t| t.split(' ').next())
            else {
                continue;
            };
            let class = CLASSES.iter().find(|c| drug.ends_with(c.ending)).expect("a known class");
            let system = SYSTEMS.iter().position(|s| text.contains(s.measure)).expect("a measure");
            let helps = class.helps.contains(&system);
            let negative = text.contains("did not improve") || text.contains("not superior");
            assert_eq!(negative, !helps, "{text}");
        }
    }

    #[test]
    fn sums_and_differences_are_right() {
        let number = |text: &str, after: &str| -> Option<u64> {
            let digits = text.split(after).nth(1)?;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let mut checked = 0;
        for record in records(9).take(500) {
            let text = &record.r#abstract;
            if let (Some(all), Some(treated), Some(control)) = (
                number(text, "randomly assigned "),
                number(text, "daily (n="),
                number(text, "placebo (n="),
            ) {
                assert_eq!(all, treated + control, "{text}");
                checked += 1;
            }
        }
        assert!(checked > 30, "{checked}");
    }
}
