//! Decompressed bytes that know where they are.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use super::format::Compression;
use crate::DataError;
use crate::error::InputProblem;

const BUFFER: usize = 128 << 10;

/// An input, decompressed. It counts the bytes handed out.
pub(crate) struct Stream<'a> {
    inner: Box<dyn BufRead + 'a>,
    position: Rc<Cell<u64>>,
}

impl<'a> Stream<'a> {
    /// Reads a file from the disk, adding to `bytes_read` as it goes.
    pub fn file(
        file: File,
        compression: Compression,
        path: &Path,
        bytes_read: &'a AtomicU64,
    ) -> Result<Self, DataError> {
        let length = file.metadata().map_err(|e| DataError::io("open", path, e))?.len();
        Self::over(Counted { inner: file, bytes_read }, length, compression, path)
    }

    /// Reads from memory.
    pub fn memory(
        bytes: &'a [u8],
        compression: Compression,
        path: &Path,
    ) -> Result<Self, DataError> {
        Self::over(bytes, bytes.len() as u64, compression, path)
    }

    /// Reads `stored`, which has `length` bytes.
    pub fn over(
        stored: impl Read + 'a,
        length: u64,
        compression: Compression,
        path: &Path,
    ) -> Result<Self, DataError> {
        if length == 0 && compression != Compression::None {
            return Err(DataError::input(path, None, InputProblem::EmptyCompressed));
        }
        let stored = BufReader::with_capacity(BUFFER, stored);
        let inner: Box<dyn BufRead + 'a> = match compression {
            Compression::None => Box::new(stored),
            Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, Gzip::new(stored))),
            Compression::Zstd => {
                let plain = zstd::stream::read::Decoder::with_buffer(stored)
                    .map_err(|e| DataError::io("decompress", path, e))?;
                Box::new(BufReader::with_capacity(BUFFER, plain))
            }
        };
        Ok(Self { inner, position: Rc::default() })
    }

    /// Bytes handed out so far; stays true while a parser owns the stream.
    pub fn position(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.position)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.position.set(self.position.get() + count as u64);
    }
}

/// What an error while reading means.
pub(crate) fn explain(error: &io::Error) -> InputProblem {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        InputProblem::Truncated
    } else {
        InputProblem::Unreadable { why: error.to_string() }
    }
}

/// The members of a gzip file one after the other. Zeros may follow the last one: files are padded
/// with them to whole blocks, and `gzip` accepts that.
struct Gzip<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Gzip<R> {
    fn new(stored: R) -> Self {
        Self(Some(GzDecoder::new(stored)))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let stored = member.get_mut();
            let more = loop {
                let next = stored.fill_buf()?;
                let zeros = next.iter().take_while(|&&byte| byte == 0).count();
                let is_last = next.is_empty();
                if zeros < next.len() || is_last {
                    stored.consume(zeros);
                    break !is_last;
                }
                stored.consume(zeros);
            };
            self.0 = self.0.take().filter(|_| more).map(|ended| GzDecoder::new(ended.into_inner()));
        }
        Ok(0)
    }
}

/// Counts what is read from the disk, before decompression.
struct Counted<'a> {
    inner: File,
    bytes_read: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::testing::{damages, parse, records};

    const TEXT: &[u8] = b"one document\n\nand another\n";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).expect("compress");
        writer.finish().expect("compress")
    }

    #[test]
    fn several_members_are_one_text() {
        let members = [gzip(&TEXT[..5]), gzip(b""), gzip(&TEXT[5..])].concat();
        assert_eq!(records("a.txt.gz", &members), records("a.txt", TEXT));
        let frames = [&TEXT[..5], &TEXT[5..]].map(|part| zstd::encode_all(part, 1).expect("zstd"));
        assert_eq!(records("a.txt.zst", &frames.concat()), records("a.txt", TEXT));
    }

    #[test]
    fn padding_is_no_damage() {
        let (gzipped, zstandard) = (gzip(TEXT), zstd::encode_all(TEXT, 1).expect("zstd"));
        for zeros in [1, 7, 512, super::BUFFER - gzipped.len(), 3 * super::BUFFER] {
            let padded = [&gzipped[..], &vec![0; zeros]].concat();
            assert_eq!(records("a.txt.gz", &padded), records("a.txt", TEXT), "{zeros}");
            let between = [&gzip(&TEXT[..5])[..], &vec![0; zeros], &gzip(&TEXT[5..])].concat();
            assert_eq!(records("a.txt.gz", &between), records("a.txt", TEXT), "{zeros}");
        }
        let skippable = b"\x5B\x2A\x4D\x18\x03\0\0\0any";
        for frames in [[&zstandard[..], skippable], [skippable, &zstandard[..]]] {
            assert_eq!(records("a.txt.zst", &frames.concat()), records("a.txt", TEXT));
        }
    }

    #[test]
    fn damage_is_an_error_with_a_place() {
        let (gzipped, zstandard) = (gzip(TEXT), zstd::encode_all(TEXT, 1).expect("zstd"));
        let mut bad_sum = gzipped.clone();
        bad_sum[gzipped.len() - 6] ^= 1;
        for (name, bytes) in [
            ("a.txt.gz", TEXT),
            ("a.txt.gz", &zstandard),
            ("a.txt.gz", &gzipped[..gzipped.len() - 1]),
            ("a.txt.gz", &gzipped[..gzipped.len() / 2]),
            ("a.txt.gz", &[&gzipped[..], b"litter"].concat()),
            ("a.txt.gz", &[&gzipped[..], b"\0\0\0litter"].concat()),
            ("a.txt.gz", &bad_sum),
            ("a.txt.zst", TEXT),
            ("a.txt.zst", &gzipped),
            ("a.txt.zst", &zstandard[..zstandard.len() - 1]),
            ("a.txt.gz", b""),
        ] {
            let message = parse(name, bytes).1.expect("damaged").to_string();
            let place = format!("{name}, line ");
            assert!(message.starts_with(&place) || bytes.is_empty(), "{message}");
        }
    }

    /// A gigabyte of blanks in a megabyte.
    #[test]
    fn a_bomb_ends_in_an_error() {
        let mut writer = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
        for _ in 0..1024 {
            writer.write_all(&[b' '; 1 << 20]).expect("compress");
        }
        writer.write_all(b"\n{\"text\": \"and what follows\"}\n").expect("compress");
        let bomb = writer.finish().expect("compress");
        let (events, damages) = damages("a.jsonl.zst", &bomb);
        assert_eq!(events.len(), 1, "what follows is read");
        assert!(damages[0].contains("longer than 64 MiB") && damages.len() == 1, "{damages:?}");
    }
}
