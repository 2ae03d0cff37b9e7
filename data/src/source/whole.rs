//! A file as one text.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use mediswift_files::{self as files, LARGE, NotUtf8};

use super::format::{Compression, compression_of};
use super::stream::{Stream, explain};
use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// No text is compressed to less than a hundredth, but a bomb is.
const EXPANSION: u64 = 100;

/// What any file may expand to.
const LEAST: u64 = 16 << 20;

/// The text of a file, compressed or not as its name says (`.gz`, `.zst`): UTF-8 without a byte-order
/// mark.
/// # Errors
/// If it cannot be read, is damaged or no text, has more than 1 GiB of it, or expands more than any text
/// does.
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let (_, compression) = compression_of(path);
    let file = files::open(path)?;
    let stored = file.metadata().map_err(|e| DataError::io("open", path, e))?.len();
    let longest = match compression {
        Compression::None => LARGE,
        _ => stored.saturating_mul(EXPANSION).clamp(LEAST, LARGE),
    };
    let bytes_read = AtomicU64::new(0);
    let stream = Stream::file(file, compression, path, &bytes_read)?;
    let mut bytes = Vec::new();
    let read = stream.take(longest + 1).read_to_end(&mut bytes);
    let wrong = |at: usize, problem| {
        let place = InputPlace { line: None, offset: at as u64 };
        DataError::input(path, Some(place), problem)
    };
    read.map_err(|error| wrong(bytes.len(), explain(&error)))?;
    if bytes.len() as u64 > longest {
        let problem = InputProblem::TextTooLong { stored, longest };
        return Err(DataError::input(path, None, problem));
    }
    files::text(bytes)
        .map_err(|NotUtf8 { offset, byte }| wrong(offset, InputProblem::NotUtf8 { byte }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn text_is_read_whatever_its_compression() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).expect("write");
            path
        };
        let gzip = |bytes: &[u8]| {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            writer.write_all(bytes).expect("compress");
            writer.finish().expect("compress")
        };
        let text = "\u{feff}naïve\n";
        let zstandard = zstd::encode_all(text.as_bytes(), 1).expect("zstd");
        let padded = [&gzip(text.as_bytes())[..], &[0; 99]].concat();
        for (name, bytes) in
            [("a.tsv", text.as_bytes()), ("a.tsv.GZ", &padded), ("a.json.zst", &zstandard)]
        {
            assert_eq!(read_text(&write(name, bytes)).expect("read"), "naïve\n");
        }
        for (name, bytes, says) in [
            ("a.tsv", &b"na\xefve"[..], "a.tsv, byte 2: 0xef is not UTF-8"),
            ("a.tsv.gz", &padded[..12], "breaks off"),
            ("a.tsv.gz", b"", "empty"),
            ("b.gz", &gzip(&vec![b' '; LEAST as usize + 1]), "expands to more than"),
        ] {
            let message = read_text(&write(name, bytes)).expect_err("refused").to_string();
            assert!(message.contains(says), "{message}");
        }
        assert!(read_text(folder.path()).is_err());
    }
}
