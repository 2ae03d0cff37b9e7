//! Reading an input, whatever its format and compression.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::format::{Format, known_format};
use super::record::Sink;
use super::stream::Stream;
use super::{archive, parse};
use crate::DataError;

/// Reads one file.
///
/// # Errors
/// When the file cannot be read to its end (what came before has been handed to `sink`), or `sink`
/// returns an error.
pub fn read(path: &Path, sink: Sink) -> Result<(), DataError> {
    read_counted(path, &AtomicU64::new(0), sink)
}

/// Reads one file, adding the bytes read from the disk to `bytes_read`.
pub(crate) fn read_counted(
    path: &Path,
    bytes_read: &AtomicU64,
    sink: Sink,
) -> Result<(), DataError> {
    let (format, compression) = known_format(path)?;
    let file = File::open(path).map_err(|e| DataError::io("open", path, e))?;
    read_stream(format, Stream::decompress(file, compression, path, bytes_read)?, path, sink)
}

/// Reads what would be the file `name`, from memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &Path, bytes: &[u8], sink: Sink) -> Result<(), DataError> {
    let (format, compression) = known_format(name)?;
    read_stream(format, Stream::memory(bytes, compression, name)?, name, sink)
}

fn read_stream(format: Format, stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    match format {
        Format::Records(format) => parse::read(format, stream, path, sink),
        Format::Tar => archive::read(stream, path, sink),
    }
}
