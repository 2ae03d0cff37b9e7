//! Cleaned documents on their way: texts on disk, with what is needed to choose among them.
//!
//! A segment is two files. `….docs` holds the texts, compressed, each after its length. `….index`
//! holds one column of 64-bit numbers after the other, so that a pass over one property of all
//! documents reads nothing else, and the 128 bytes of each sketch at the end:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `MSWSEG1\0` |
//! | 8..16 | documents |
//! | 16..24 | CRC-32 of the rest |
//! | 24.. | columns ([`Column`]) |
//! | …end | sketches |
//!
//! The index is written last: a segment with an index is whole.

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mediswift_files::{self as files, Draft, LARGE};

use crate::DataError;
use crate::clean::sketch::{BANDS, Sketch};
use crate::error::DatasetProblem;

const MAGIC: [u8; 8] = *b"MSWSEG1\0";
const HEADER: usize = 24;
const SKETCH: usize = 128;

/// A segment is closed at this many documents or bytes of text: what a segment needs in memory
/// while it is written, and the unit of reading.
const MAX_DOCUMENTS: usize = 1 << 15;
const MAX_TEXT: u64 = 128 << 20;

/// A property of documents, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// A draw from the document's identity, which decides its split.
    Draw,
    /// Registry and number, 0 if the document has none.
    Number,
    /// The record's version.
    Version,
    /// First and second half of the hash of the text.
    Exact(usize),
    /// One band of the sketch.
    Band(usize),
}

impl Column {
    const COUNT: usize = 5 + BANDS;

    fn position(self) -> usize {
        match self {
            Self::Draw => 0,
            Self::Number => 1,
            Self::Version => 2,
            Self::Exact(half) => 3 + half,
            Self::Band(band) => 5 + band,
        }
    }
}

/// What is known of a document besides its text.
pub(crate) struct Properties {
    pub draw: u64,
    pub number: u64,
    pub version: u64,
    pub exact: [u64; 2],
    pub sketch: Sketch,
}

fn paths(folder: &Path, unit: usize, segment: usize) -> (PathBuf, PathBuf) {
    let name = |ending| folder.join(format!("{unit:06}-{segment:05}.{ending}"));
    (name("docs"), name("index"))
}

/// Writes the documents of one unit of input, in as many segments as they need.
pub(crate) struct SegmentWriter<'a> {
    folder: &'a Path,
    unit: usize,
    segments: usize,
    open: Option<Open>,
    documents: u64,
}

struct Open {
    docs: zstd::stream::write::Encoder<'static, BufWriter<Draft>>,
    text: u64,
    columns: Vec<Vec<u64>>,
    sketches: Vec<u8>,
}

impl<'a> SegmentWriter<'a> {
    pub fn new(folder: &'a Path, unit: usize) -> Self {
        Self { folder, unit, segments: 0, open: None, documents: 0 }
    }

    /// Documents written so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    pub fn push(&mut self, text: &str, properties: &Properties) -> Result<(), DataError> {
        let (docs, _) = paths(self.folder, self.unit, self.segments);
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::create(&docs)?),
        };
        open.push(text, properties).map_err(|e| DataError::io("write", &docs, e))?;
        self.documents += 1;
        if open.columns[0].len() == MAX_DOCUMENTS || open.text >= MAX_TEXT {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(open) = self.open.take() {
            let (docs, index) = paths(self.folder, self.unit, self.segments);
            open.finish(&docs, &index)?;
            self.segments += 1;
        }
        Ok(())
    }

    /// Completes the last segment; returns how many there are.
    pub fn finish(mut self) -> Result<usize, DataError> {
        self.close()?;
        Ok(self.segments)
    }
}

impl Open {
    fn create(docs: &Path) -> Result<Self, DataError> {
        let file = BufWriter::with_capacity(1 << 18, Draft::create(docs)?);
        let docs = zstd::stream::write::Encoder::new(file, 1)
            .map_err(|e| DataError::io("compress", docs, e))?;
        let columns = vec![Vec::new(); Column::COUNT];
        Ok(Self { docs, text: 0, columns, sketches: Vec::new() })
    }

    fn push(&mut self, text: &str, properties: &Properties) -> std::io::Result<()> {
        self.docs.write_all(&(text.len() as u32).to_le_bytes())?;
        self.docs.write_all(text.as_bytes())?;
        self.text += text.len() as u64;
        let mut set = |column: Column, value| self.columns[column.position()].push(value);
        set(Column::Draw, properties.draw);
        set(Column::Number, properties.number);
        set(Column::Version, properties.version);
        (0..2).for_each(|half| set(Column::Exact(half), properties.exact[half]));
        (0..BANDS).for_each(|band| set(Column::Band(band), properties.sketch.bands[band]));
        self.sketches.extend_from_slice(&properties.sketch.bits);
        Ok(())
    }

    fn finish(self, docs: &Path, index: &Path) -> Result<(), DataError> {
        let file = self.docs.finish().and_then(|f| f.into_inner().map_err(|e| e.into_error()));
        file.map_err(|e| DataError::io("write", docs, e))?.publish()?;
        let mut bytes = Vec::with_capacity(HEADER + self.sketches.len() * 3);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(self.columns[0].len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend(self.columns.iter().flatten().flat_map(|value| value.to_le_bytes()));
        bytes.extend_from_slice(&self.sketches);
        let crc = u64::from(crc32fast::hash(&bytes[HEADER..]));
        bytes[16..HEADER].copy_from_slice(&crc.to_le_bytes());
        Ok(files::write(index, &bytes)?)
    }
}

/// A whole segment on disk.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    docs: PathBuf,
    index: PathBuf,
    /// Documents in it.
    pub documents: usize,
}

impl Segment {
    /// Opens segment `segment` of `unit`, checking its index.
    pub fn open(folder: &Path, unit: usize, segment: usize) -> Result<Self, DataError> {
        let (docs, index) = paths(folder, unit, segment);
        let bytes = files::read(&index, LARGE)?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let whole = bytes.len() >= HEADER && bytes[..8] == MAGIC && {
            let size = (number(8) as usize).checked_mul(Column::COUNT * 8 + SKETCH);
            size.and_then(|size| size.checked_add(HEADER)) == Some(bytes.len())
                && number(16) == u64::from(crc32fast::hash(&bytes[HEADER..]))
        };
        if !whole {
            return Err(DataError::dataset(&index, DatasetProblem::IndexDamaged));
        }
        let documents = number(8) as usize;
        Ok(Self { docs, index, documents })
    }

    /// One property of every document.
    pub fn column(&self, column: Column) -> Result<Vec<u64>, DataError> {
        let from = HEADER + column.position() * self.documents * 8;
        let bytes = self.read_index(from as u64, self.documents * 8)?;
        let number = |b: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| b[i]));
        Ok(bytes.chunks_exact(8).map(number).collect())
    }

    /// One property of one document.
    pub fn value(&self, column: Column, document: usize) -> Result<u64, DataError> {
        let from = HEADER + (column.position() * self.documents + document) * 8;
        let bytes = self.read_index(from as u64, 8)?;
        Ok(u64::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    /// The bits of one document's sketch.
    pub fn sketch(&self, document: usize) -> Result<[u8; SKETCH], DataError> {
        let from = HEADER + self.documents * Column::COUNT * 8 + document * SKETCH;
        let bytes = self.read_index(from as u64, SKETCH)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn read_index(&self, from: u64, length: usize) -> Result<Vec<u8>, DataError> {
        let mut bytes = vec![0; length];
        let mut file = files::open(&self.index)?;
        file.seek(SeekFrom::Start(from))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| DataError::io("read", &self.index, e))?;
        Ok(bytes)
    }

    /// The texts, in order.
    pub fn texts(
        &self,
    ) -> Result<impl Iterator<Item = Result<String, DataError>> + use<>, DataError> {
        let failed = {
            let docs = self.docs.clone();
            move |e| DataError::io("read", &docs, e)
        };
        let file = files::open(&self.docs)?;
        let mut docs =
            zstd::stream::read::Decoder::new(file).map(BufReader::new).map_err(&failed)?;
        let mut next = move || {
            let mut length = [0; 4];
            docs.read_exact(&mut length)?;
            let mut text = vec![0; u32::from_le_bytes(length) as usize];
            docs.read_exact(&mut text)?;
            String::from_utf8(text).map_err(std::io::Error::other)
        };
        Ok((0..self.documents).map(move |_| next().map_err(&failed)))
    }
}
