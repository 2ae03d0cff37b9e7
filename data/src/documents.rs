//! JSONL files → documents, one at a time.
//!
//! A record is `{text}`, or `{title, abstract}` as PubMed citations come, or `{title, sections}`
//! with `sections` a list of `{heading, text}` as full articles come. `id` (or `pmid`) identifies
//! the document; unknown fields are ignored. Titles without an abstract and empty records are
//! counted as dropped rather than trained on; anything malformed is an error, because a corpus
//! that silently lost its second half is worse than a run that did not start.
//!
//! Memory is bounded by the longest line, which is itself limited ([`MAX_LINE`]), so a
//! decompression bomb ends in an error.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer};

use crate::DataError;

/// Longest accepted line, in bytes of decompressed text (64 MiB).
pub const MAX_LINE: u64 = 64 << 20;

/// File name endings that are read, with the compression each stands for.
const ENDINGS: [(&str, Compression); 3] = [
    (".jsonl", Compression::None),
    (".jsonl.gz", Compression::Gzip),
    (".jsonl.zst", Compression::Zstd),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A text to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The record's `id`, else its `pmid`.
    pub id: Option<String>,
    /// Title and body, trimmed, never empty.
    pub text: String,
}

/// Why a well-formed record is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// No text at all.
    Empty,
    /// A title without an abstract: too little to learn from, and a third of PubMed.
    TitleOnly,
    /// The same text as an earlier record.
    Duplicate,
}

impl DropReason {
    /// The name under which drops of this kind are counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TitleOnly => "title_only",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What a line of input turned into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A document.
    Document(Document),
    /// A record that holds nothing to train on.
    Dropped(DropReason),
}

/// Streams the records of several files, in the order given.
pub struct Documents {
    files: VecDeque<PathBuf>,
    current: Option<OpenFile>,
    bytes_read: Arc<AtomicU64>,
    bytes_total: u64,
}

impl Documents {
    /// Finds the files that `inputs` stand for. A folder stands for the JSONL files directly in
    /// it, sorted by name.
    ///
    /// # Errors
    /// When an input does not exist or is not JSONL by its name, or a folder holds none.
    pub fn open(inputs: &[PathBuf]) -> Result<Self, DataError> {
        let mut files = VecDeque::new();
        for input in inputs {
            let kind = fs::metadata(input).map_err(|e| DataError::io("open", input, e))?;
            if kind.is_dir() {
                files.extend(jsonl_files_in(input)?);
            } else if !kind.is_file() {
                return Err(DataError::file(input, "not a regular file", "name a JSONL file"));
            } else if compression_of(input).is_none() {
                return Err(DataError::file(
                    input,
                    "not known as an input by its name",
                    "inputs end in .jsonl, .jsonl.gz or .jsonl.zst",
                ));
            } else {
                files.push_back(input.clone());
            }
        }
        if files.is_empty() {
            return Err(DataError::request("no input was named", "name JSONL files or folders"));
        }
        let mut bytes_total = 0;
        for file in &files {
            bytes_total += fs::metadata(file).map_err(|e| DataError::io("open", file, e))?.len();
        }
        Ok(Self { files, current: None, bytes_read: Arc::default(), bytes_total })
    }

    /// Bytes read so far from the files as stored (compressed), for progress.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Size of all files as stored (compressed), in bytes.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    fn next_record(&mut self) -> Result<Option<Record>, DataError> {
        loop {
            let open = match &mut self.current {
                Some(open) => open,
                None => match self.files.pop_front() {
                    None => return Ok(None),
                    Some(path) => {
                        self.current.insert(OpenFile::open(path, Arc::clone(&self.bytes_read))?)
                    }
                },
            };
            match open.next_line()? {
                Some(line) => return parse(line).map(Some).map_err(|found| open.error_here(found)),
                None => self.current = None,
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Record, DataError>;

    /// After an error the iterator ends.
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_record();
        if next.is_err() {
            self.current = None;
            self.files.clear();
        }
        next.transpose()
    }
}

/// How a JSONL file is compressed, by its name; `None` if it is not JSONL by its name.
pub(crate) fn compression_of(path: &Path) -> Option<Compression> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|&(_, compression)| compression)
}

fn jsonl_files_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| DataError::io("list", folder, e))? {
        let path = entry.map_err(|e| DataError::io("list", folder, e))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && compression_of(&path).is_some() && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DataError::file(
            folder,
            "the folder holds no JSONL file",
            "put *.jsonl, *.jsonl.gz or *.jsonl.zst there, or name files",
        ));
    }
    files.sort();
    Ok(files)
}

/// One input file being read line by line.
struct OpenFile {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    line_number: u64,
}

impl OpenFile {
    fn open(path: PathBuf, bytes_read: Arc<AtomicU64>) -> Result<Self, DataError> {
        let file = File::open(&path).map_err(|e| DataError::io("open", &path, e))?;
        let length = file.metadata().map_err(|e| DataError::io("open", &path, e))?.len();
        let compression = compression_of(&path).unwrap_or(Compression::None);
        if length == 0 && compression != Compression::None {
            return Err(DataError::file(
                &path,
                "the compressed file is empty (0 bytes)",
                "an interrupted download leaves this; fetch the file again",
            ));
        }
        let counted = BufReader::new(Counted { inner: file, bytes_read });
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(counted),
            Compression::Gzip => {
                Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(counted)))
            }
            Compression::Zstd => Box::new(BufReader::new(
                zstd::stream::read::Decoder::with_buffer(counted)
                    .map_err(|e| DataError::io("decompress", &path, e))?,
            )),
        };
        Ok(Self { path, reader, line: Vec::new(), line_number: 0 })
    }

    /// The next line that is not blank, as UTF-8 without a byte-order mark.
    fn next_line(&mut self) -> Result<Option<&str>, DataError> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let mut limited = self.reader.by_ref().take(MAX_LINE + 1);
            let read = limited.read_until(b'\n', &mut self.line);
            if let Err(error) = read {
                return Err(self.error_here(Malformed::from_read(&error)));
            }
            if self.line.is_empty() {
                return Ok(None);
            }
            if self.line.len() as u64 > MAX_LINE {
                return Err(self.error_here(Malformed {
                    problem: format!("the line is longer than {} MiB", MAX_LINE >> 20),
                    advice: "put one record on each line",
                }));
            }
            if self.line_number == 1 && self.line.starts_with(b"\xEF\xBB\xBF") {
                self.line.drain(..3);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                let problem = format!(
                    "byte {} of the line, {:#04x}, is not UTF-8",
                    error.valid_up_to() + 1,
                    self.line.get(error.valid_up_to()).copied().unwrap_or_default(),
                );
                Err(self.error_here(Malformed { problem, advice: "convert the file to UTF-8" }))
            }
        }
    }

    fn error_here(&self, found: Malformed) -> DataError {
        DataError::Record {
            path: self.path.clone(),
            line: self.line_number,
            problem: found.problem,
            advice: found.advice.to_owned(),
        }
    }
}

/// Counts what is read from the disk, before decompression.
struct Counted {
    inner: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What is wrong with a line, before the path and line number are known.
struct Malformed {
    problem: String,
    advice: &'static str,
}

impl Malformed {
    fn from_read(error: &io::Error) -> Self {
        let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
        let problem = if truncated {
            "the compressed data breaks off here (the file is truncated)".to_owned()
        } else {
            format!("the data cannot be read here ({error})")
        };
        Self { problem, advice: "fetch or compress the file again" }
    }
}

#[derive(Deserialize)]
struct Fields {
    id: Option<Identifier>,
    pmid: Option<Identifier>,
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

fn parse(line: &str) -> Result<Record, Malformed> {
    let fields: Fields = serde_json::from_str(line).map_err(|e| Malformed {
        problem: format!("not a valid JSON record ({e})"),
        advice: "each line must be one JSON object with `text`, or `title` and `abstract`",
    })?;
    let Fields { id, pmid, text, title, r#abstract, sections } = fields;
    if text.is_none() && title.is_none() && r#abstract.is_none() && sections.is_none() {
        return Err(Malformed {
            problem: "the record has no `text`, `title`, `abstract` or `sections`".to_owned(),
            advice: "rename the field that holds the text",
        });
    }
    let id = id.or(pmid).map(|identifier| match identifier {
        Identifier::Number(number) => number.to_string(),
        Identifier::Name(name) => name,
    });

    let title = title.flatten().unwrap_or_default();
    let mut bodies: Vec<String> = [text, r#abstract].into_iter().flatten().flatten().collect();
    for section in sections.flatten().unwrap_or_default() {
        let body = section.text.unwrap_or_default();
        if !body.trim().is_empty() {
            bodies.push(join([section.heading.unwrap_or_default(), body]));
        }
    }
    let body = join(bodies);
    Ok(if !body.is_empty() {
        Record::Document(Document { id, text: join([title, body]) })
    } else if !title.trim().is_empty() {
        Record::Dropped(DropReason::TitleOnly)
    } else {
        Record::Dropped(DropReason::Empty)
    })
}

/// The non-empty parts, trimmed, a line each.
fn join(parts: impl IntoIterator<Item = String>) -> String {
    let mut joined = String::new();
    for part in parts {
        let part = part.trim();
        if !part.is_empty() && !joined.is_empty() {
            joined.push('\n');
        }
        joined.push_str(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("write");
        path
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("compress");
        encoder.finish().expect("compress")
    }

    fn read(path: &Path) -> Result<Vec<Record>, DataError> {
        Documents::open(&[path.to_owned()])?.collect()
    }

    fn text(record: &Record) -> &str {
        match record {
            Record::Document(document) => &document.text,
            Record::Dropped(reason) => reason.name(),
        }
    }

    #[test]
    fn every_record_shape_is_read() {
        let lines = r#"{"text": " A text. ", "id": "a", "other": [1, {"x": 2}]}
{"title": "T", "abstract": "A.", "pmid": 7}

{"title": "T", "abstract": null}
{"title": "T"}
{"abstract": "Only a body."}
{"title": "", "abstract": " "}
{"text": null}
{"title": "T", "sections": [{"heading": "H", "text": "one"}, {"heading": "E", "text": ""}, {"heading": "", "text": "two"}]}
"#;
        let folder = tempfile::tempdir().expect("temporary folder");
        let records = read(&write(folder.path(), "a.jsonl", lines.as_bytes())).expect("read");
        let texts: Vec<&str> = records.iter().map(text).collect();
        assert_eq!(
            texts,
            [
                "A text.",
                "T\nA.",
                "title_only",
                "title_only",
                "Only a body.",
                "empty",
                "empty",
                "T\nH\none\ntwo"
            ]
        );
        let Record::Document(second) = &records[1] else { panic!("a document") };
        assert_eq!(second.id.as_deref(), Some("7"));
    }

    #[test]
    fn compressed_files_and_folders_read_like_plain_ones() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lines = b"\xEF\xBB\xBF{\"text\": \"one\"}\r\n{\"text\": \"two\"}";
        write(folder.path(), "a.jsonl", lines);
        // Two members in one file, as concatenated downloads have.
        let half = lines.len() / 2;
        write(folder.path(), "b.jsonl.gz", &[gzip(&lines[..half]), gzip(&lines[half..])].concat());
        let zstd = zstd::encode_all(&lines[..], 1).expect("compress");
        write(folder.path(), "c.jsonl.zst", &zstd);
        write(folder.path(), "notes.txt", b"not an input");
        let records = read(folder.path()).expect("read");
        let texts: Vec<&str> = records.iter().map(text).collect();
        assert_eq!(texts, ["one", "two", "one", "two", "one", "two"]);
    }

    #[test]
    fn malformed_lines_name_path_and_line() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (bad, expected) in [
            (&b"{\"text\": \"x\""[..], "JSON"),
            (b"[1]", "JSON"),
            (b"{\"text\": 3}", "JSON"),
            (b"{\"text\": \"\\ud800\"}", "JSON"),
            (b"{\"sections\": [3]}", "JSON"),
            (b"{\"text\": \"\xff\"}", "UTF-8"),
            (b"{\"body\": \"x\"}", "no `text`"),
        ] {
            let bytes = [b"{\"text\": \"fine\"}\n", bad, b"\n"].concat();
            let path = write(folder.path(), "bad.jsonl", &bytes);
            let message = read(&path).expect_err("malformed").to_string();
            assert!(message.contains("bad.jsonl, line 2: "), "{message}");
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn damaged_compression_is_never_silent() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let lines: String = (0..300).map(|i| format!("{{\"text\": \"document {i}\"}}\n")).collect();
        let whole = gzip(lines.as_bytes());
        for length in (0..whole.len()).step_by(7) {
            let path = write(folder.path(), "cut.jsonl.gz", &whole[..length]);
            assert!(read(&path).is_err(), "cut at {length} of {}", whole.len());
        }
        let mut bad_crc = whole.clone();
        let crc_at = whole.len() - 8;
        bad_crc[crc_at] ^= 1;
        assert!(read(&write(folder.path(), "crc.jsonl.gz", &bad_crc)).is_err());
        assert!(read(&write(folder.path(), "not.jsonl.gz", lines.as_bytes())).is_err());
        let zstd = zstd::encode_all(lines.as_bytes(), 1).expect("compress");
        for length in [0, 3, 5, zstd.len() / 2, zstd.len() - 1] {
            assert!(read(&write(folder.path(), "cut.jsonl.zst", &zstd[..length])).is_err());
        }
    }

    #[test]
    fn unusable_inputs_are_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for input in [
            folder.path().join("absent.jsonl"),
            folder.path().to_owned(),
            write(folder.path(), "a.txt", b"text"),
        ] {
            let message = read(&input).expect_err("unusable").to_string();
            assert!(message.contains(&*input.to_string_lossy()), "{message}");
        }
        assert!(Documents::open(&[]).is_err());
    }
}
