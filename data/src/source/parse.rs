//! The parser of each format.

use std::path::Path;

use super::format::RecordFormat;
use super::record::Sink;
use super::stream::Stream;
use super::{jsonl, text, xml};
use crate::DataError;

/// Reads the records of a stream.
pub(crate) fn read(
    format: RecordFormat,
    stream: Stream,
    path: &Path,
    sink: Sink,
) -> Result<(), DataError> {
    match format {
        RecordFormat::Jsonl => jsonl::read(stream, path, sink),
        RecordFormat::Text => text::read(stream, path, sink),
        RecordFormat::Xml => xml::read(stream, path, sink),
    }
}
