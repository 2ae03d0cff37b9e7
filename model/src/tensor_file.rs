//! Safetensors files, written and read as a stream, hashed on the way.
//!
//! ```text
//! u64 header length | JSON header, padded with blanks to 8 bytes | tensors, one after another
//! ```
//!
//! Numbers are little-endian. Nothing but the header is ever held twice: tensors go from their
//! buffers to the disk and from the disk into their buffers. The reader of a checkpoint knows
//! beforehand how long the file is and what its hash is; no reader allocates more than the file is
//! long.

use crate::error::Error;
use mediswift_files::{self as files, NewFile};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

// Buffers go to the disk as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "tensor files are little-endian");

/// Length and hash of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSummary {
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of all bytes, in hexadecimal.
    pub blake3: String,
}

/// A tensor to write.
pub(crate) struct TensorView<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) elements: Elements<'a>,
}

/// The numbers of a tensor.
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    U32(&'a [u32]),
    /// Bytes that are made when their turn comes, as many as type and shape say.
    Made(Dtype, Box<dyn Fn() -> Vec<u8> + 'a>),
}

impl Elements<'_> {
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Elements::F32(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Elements::U32(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Elements::Made(_, make) => Cow::Owned(make()),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Elements::F32(_) => Dtype::F32,
            Elements::U32(_) => Dtype::U32,
            Elements::Made(dtype, _) => *dtype,
        }
    }
}

/// Writes `tensors` and `notes` to a new file and waits until it is on the disk.
/// # Errors
/// If the system refuses.
pub(crate) fn write(
    path: &Path,
    notes: &BTreeMap<String, String>,
    tensors: &[TensorView<'_>],
) -> Result<FileSummary, Error> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(notes));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        let (dtype, shape) = (tensor.elements.dtype(), tensor.shape.clone());
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        header.insert(tensor.name.clone(), serde_json::json!(info));
    }
    let mut header = serde_json::to_vec(&header).expect("plain data");
    header.resize(header.len().next_multiple_of(8), b' ');

    let stream = || -> std::io::Result<FileSummary> {
        let mut file = Hashed::new(BufWriter::with_capacity(1 << 20, NewFile::create(path)?));
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in tensors {
            file.write_all(&tensor.elements.bytes())?;
        }
        file.flush()?;
        file.stream.get_ref().sync()?;
        Ok(file.summary())
    };
    stream().map_err(Error::io("write", path))
}

/// No header is longer, as the format says.
const HEADER_LIMIT: u64 = 100_000_000;

/// What a reader does with a tensor: its name, its description, and the stream of its bytes.
pub(crate) type Visit<'a> = dyn FnMut(&str, &TensorInfo, &mut dyn Read) -> Result<(), Error> + 'a;

/// Reads a file that `expected` describes. `visit` gets every tensor in the order of the file and
/// must read all its bytes; the notes are returned.
/// # Errors
/// If the file is not what `expected` says, is no safetensors file, or `visit` fails.
pub(crate) fn read(
    path: &Path,
    expected: &FileSummary,
    visit: &mut Visit<'_>,
) -> Result<HashMap<String, String>, Error> {
    check_length(path, expected)?;
    let file = files::open(path)?;
    let mut file = Hashed::new(BufReader::with_capacity(1 << 20, file.take(expected.bytes)));
    let outcome = read_tensors(path, expected.bytes, &mut file, visit);
    // Whatever went wrong above, a damaged file is the better explanation.
    std::io::copy(&mut file, &mut std::io::sink()).map_err(Error::io("read", path))?;
    if file.summary() != *expected {
        return Err(unusable(path, "its BLAKE3 hash is not the one in the manifest"));
    }
    outcome
}

/// Reads a file that was made elsewhere; otherwise like [`read`].
/// # Errors
/// If the file is missing or no safetensors file, or `visit` fails.
pub(crate) fn read_foreign(
    path: &Path,
    visit: &mut Visit<'_>,
) -> Result<HashMap<String, String>, Error> {
    let bytes = length(path)?;
    let file = files::open(path)?;
    read_tensors(path, bytes, &mut BufReader::with_capacity(1 << 20, file.take(bytes)), visit)
}

/// Checks that `path` is a file of the expected length.
/// # Errors
/// If it is missing, not a regular file or of another length.
pub(crate) fn check_length(path: &Path, expected: &FileSummary) -> Result<(), Error> {
    let found = length(path)?;
    if found != expected.bytes {
        let problem = format!("it has {found} bytes, but the manifest says {}", expected.bytes);
        return Err(unusable(path, problem));
    }
    Ok(())
}

/// Length of a regular file.
fn length(path: &Path) -> Result<u64, Error> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(unusable(path, "the file is missing"));
        }
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    if !metadata.is_file() {
        return Err(unusable(path, "it is not a regular file"));
    }
    Ok(metadata.len())
}

fn read_tensors(
    path: &Path,
    bytes: u64,
    file: &mut impl Read,
    visit: &mut Visit<'_>,
) -> Result<HashMap<String, String>, Error> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| unusable(path, "it has no header"))?;
    let length = u64::from_le_bytes(length);
    let Some(data) = bytes.checked_sub(8).and_then(|rest| rest.checked_sub(length)) else {
        let problem = format!("its header claims {length} bytes, but the file has {bytes}");
        return Err(unusable(path, problem));
    };
    if length > HEADER_LIMIT {
        let problem = format!("its header claims {length} bytes, more than {HEADER_LIMIT}");
        return Err(unusable(path, problem));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    if let Some(name) = repeated_name(&header) {
        return Err(unusable(path, format!("its header is malformed ('{name}' comes twice)")));
    }
    let metadata = parse_header(&header, data)
        .map_err(|error| unusable(path, format_args!("its header is malformed ({error})")))?;
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("the name of a tensor");
        visit(&name, info, file)?;
    }
    Ok(metadata.metadata().clone().unwrap_or_default())
}

/// The description of tensors that fill `data` bytes without holes or overlaps.
fn parse_header(header: &[u8], data: u64) -> Result<Metadata, SafeTensorError> {
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    if metadata.data_len() as u64 != data {
        return Err(SafeTensorError::MetadataIncompleteBuffer);
    }
    Ok(metadata)
}

/// The first key of a JSON object that was there before. Most parsers take the last one, some the
/// first: a file that means two things means nothing.
fn repeated_name(header: &[u8]) -> Option<String> {
    struct Names(Option<String>);

    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                if !seen.insert(name.clone()) {
                    self.0.get_or_insert(name);
                }
            }
            Ok(self.0)
        }
    }

    let mut header = serde_json::Deserializer::from_slice(header);
    header.deserialize_map(Names(None)).ok().flatten()
}

/// Part of a checkpoint that is not what was written.
pub(crate) fn unusable(path: &Path, problem: impl std::fmt::Display) -> Error {
    let problem = files::brief(problem);
    Error::damaged(path, format!("{problem}: the checkpoint cannot be used, take another one"))
}

/// A stream that counts and hashes what passes.
struct Hashed<S> {
    stream: S,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<S> Hashed<S> {
    fn new(stream: S) -> Self {
        Self { stream, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn summary(&self) -> FileSummary {
        FileSummary { bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() }
    }
}

impl<S: Write> Write for Hashed<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.pass(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl<S: Read> Read for Hashed<S> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(bytes)?;
        self.pass(&bytes[..read]);
        Ok(read)
    }
}
