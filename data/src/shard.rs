//! Token shards: files of token ids that describe and check themselves, read by memory mapping.
//!
//! Layout, all integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `MSWTOK1\0` |
//! | 8..12 | format version, 1 |
//! | 12..16 | bytes per token: 2 when the vocabulary fits 16 bits, else 4 |
//! | 16..24 | tokens |
//! | 24..32 | documents |
//! | 32..40 | vocabulary size |
//! | 40..44 | id of the end token that closes every document |
//! | 44..48 | CRC-32 of everything after the header |
//! | 48..80 | BLAKE3 of the tokenizer |
//! | 80..124 | zero |
//! | 124..128 | CRC-32 of bytes 0..124 |
//! | 128.. | the tokens, zero-padded to a multiple of 8 bytes |
//! | …end | document index: for each document its first token, as u64 |
//!
//! A shard under its final name is whole: it is written under another name, synced and renamed.
//! Opening one reads it once to check the sums, so damage is found before training and not in it.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::DataError;
use crate::commit::{publish, temporary_name};

const MAGIC: [u8; 8] = *b"MSWTOK1\0";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const ADVICE: &str = "make the dataset again with `mediswift data prepare`";

/// What a shard says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tokens in the shard, end tokens included.
    pub tokens: u64,
    /// Documents in the shard.
    pub documents: u64,
    /// Every token is below this.
    pub vocab_size: u64,
    /// The id that closes every document.
    pub end_of_text: u32,
    /// CRC-32 of tokens, padding and document index.
    pub payload_crc: u32,
    /// BLAKE3 of the tokenizer that made the tokens.
    pub tokenizer_hash: [u8; 32],
}

impl Header {
    fn token_bytes(&self) -> u64 {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// Byte offset of the document index; `None` for counts no file could hold.
    fn index_at(&self) -> Option<u64> {
        let tokens = self.tokens.checked_mul(self.token_bytes())?.checked_next_multiple_of(8)?;
        tokens.checked_add(HEADER as u64)
    }

    fn file_size(&self) -> Option<u64> {
        self.index_at()?.checked_add(self.documents.checked_mul(8)?)
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.token_bytes() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.vocab_size.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.end_of_text.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.tokenizer_hash);
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        Self {
            tokens: u64_at(bytes, 16),
            documents: u64_at(bytes, 24),
            vocab_size: u64_at(bytes, 32),
            end_of_text: u32_at(bytes, 40),
            payload_crc: u32_at(bytes, 44),
            tokenizer_hash: std::array::from_fn(|i| bytes[48 + i]),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Writes one shard, document by document. Dropped without [`finish`](Self::finish), it leaves
/// nothing behind.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    header: Header,
    crc: crc32fast::Hasher,
    index: Vec<u64>,
}

impl ShardWriter {
    /// Starts the shard that will appear at `path`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(
        path: &Path,
        vocab_size: usize,
        end_of_text: u32,
        tokenizer_hash: [u8; 32],
    ) -> Result<Self, DataError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(|e| DataError::io("create", &temporary, e))?;
        let header = Header {
            tokens: 0,
            documents: 0,
            vocab_size: vocab_size as u64,
            end_of_text,
            payload_crc: 0,
            tokenizer_hash,
        };
        let mut writer = Self {
            path: path.to_owned(),
            temporary,
            file: BufWriter::with_capacity(1 << 20, file),
            header,
            crc: crc32fast::Hasher::new(),
            index: Vec::new(),
        };
        // The counts are known only at the end; zeros hold their place and are no valid header.
        writer.file.write_all(&[0; HEADER]).map_err(|e| DataError::io("write", path, e))?;
        Ok(writer)
    }

    /// Appends a document and the end token that closes it.
    ///
    /// # Errors
    /// When the disk refuses.
    ///
    /// # Panics
    /// When an id is not below the vocabulary size.
    #[track_caller]
    pub fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        self.index.push(self.header.tokens);
        let mut bytes = Vec::with_capacity((ids.len() + 1) * self.header.token_bytes() as usize);
        for &id in ids.iter().chain(std::iter::once(&self.header.end_of_text)) {
            assert!(u64::from(id) < self.header.vocab_size, "token {id} outside the vocabulary");
            if self.header.token_bytes() == 2 {
                bytes.extend_from_slice(&(id as u16).to_le_bytes());
            } else {
                bytes.extend_from_slice(&id.to_le_bytes());
            }
        }
        self.header.tokens += ids.len() as u64 + 1;
        self.header.documents += 1;
        self.append(&bytes)
    }

    /// Tokens written so far, end tokens included.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When the disk refuses; nothing is left behind then.
    pub fn finish(mut self) -> Result<Header, DataError> {
        let written = self.header.tokens * self.header.token_bytes();
        let padding = (written.next_multiple_of(8) - written) as usize;
        self.append(&[0; 8][..padding])?;
        let index: Vec<u8> = self.index.iter().flat_map(|start| start.to_le_bytes()).collect();
        self.append(&index)?;
        self.header.payload_crc = self.crc.clone().finalize();

        let header = self.header.to_bytes();
        (|| {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        })()
        .map_err(|e| DataError::io("write", &self.path, e))?;
        publish(&self.temporary, &self.path)?;
        Ok(self.header)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.crc.update(bytes);
        self.file.write_all(bytes).map_err(|e| DataError::io("write", &self.path, e))
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // Already renamed after `finish`; otherwise half a shard that must not stay.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// A shard open for reading. The file must not be changed while it is open.
#[derive(Debug)]
pub struct Shard {
    header: Header,
    map: Mmap,
    file: File,
    path: PathBuf,
}

impl Shard {
    /// Opens and verifies a shard.
    ///
    /// # Errors
    /// When the file is missing, of the wrong size, of another kind or version, or damaged.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let wrong = |offset: usize, problem: String| DataError::Shard {
            path: path.to_owned(),
            offset: offset as u64,
            problem,
            advice: ADVICE.to_owned(),
        };
        let file = File::open(path).map_err(|e| DataError::io("open", path, e))?;
        let kind = file.metadata().map_err(|e| DataError::io("open", path, e))?;
        if !kind.is_file() {
            return Err(DataError::file(path, "not a regular file", ADVICE));
        }
        if kind.len() < HEADER as u64 {
            let problem = format!("the file ends; a shard has at least {HEADER} bytes");
            return Err(wrong(kind.len() as usize, problem));
        }
        let map = map_file(&file).map_err(|e| DataError::io("map", path, e))?;

        let bytes: &[u8; HEADER] = map
            .first_chunk()
            .ok_or_else(|| wrong(0, "the file shrank while it was opened".to_owned()))?;
        if bytes[..8] != MAGIC {
            let found = bytes[..8].escape_ascii();
            return Err(wrong(0, format!("not a token shard (it begins with \"{found}\")")));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            let problem = format!("format version {version}; this program reads {VERSION}");
            return Err(wrong(8, problem));
        }
        let (stored, computed) = (u32_at(bytes, 124), crc32fast::hash(&bytes[..124]));
        if stored != computed {
            let problem =
                format!("the header is damaged (CRC-32 {stored:08x}, computed {computed:08x})");
            return Err(wrong(124, problem));
        }
        let header = Header::from_bytes(bytes);
        if u64::from(u32_at(bytes, 12)) != header.token_bytes() {
            let problem =
                format!("{} bytes per token do not suit the vocabulary", u32_at(bytes, 12));
            return Err(wrong(12, problem));
        }
        let expected = header.file_size();
        if expected != Some(map.len() as u64) {
            let expected = expected.map_or("an impossible number of".to_owned(), |n| n.to_string());
            let problem = format!("the file has {} bytes, its header says {expected}", map.len());
            return Err(wrong(map.len(), problem));
        }
        let computed = crc32fast::hash(&map[HEADER..]);
        if header.payload_crc != computed {
            let problem = format!(
                "the tokens are damaged (CRC-32 {:08x}, computed {computed:08x})",
                header.payload_crc
            );
            return Err(wrong(HEADER, problem));
        }
        let shard = Self { header, map, file, path: path.to_owned() };
        shard.check_contents().map_err(|(offset, problem)| wrong(offset, problem))?;
        Ok(shard)
    }

    /// A sum is no proof of sense: ids index embeddings, and the index slices the tokens.
    fn check_contents(&self) -> Result<(), (usize, String)> {
        for at in 0..self.header.tokens as usize {
            let id = self.token(at);
            if u64::from(id) >= self.header.vocab_size {
                let offset = HEADER + at * self.header.token_bytes() as usize;
                return Err((offset, format!("token id {id} is outside the vocabulary")));
            }
        }
        let mut next = 0;
        for document in 0..self.header.documents as usize {
            let start = self.document_start(document);
            if start < next || start >= self.header.tokens || (document == 0 && start != 0) {
                let offset = self.index_offset() + document * 8;
                return Err((offset, format!("document {document} cannot begin at token {start}")));
            }
            next = start + 1;
        }
        Ok(())
    }

    /// What the shard says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends tokens `start..start + len` to `out`.
    ///
    /// # Errors
    /// When the file was cut since it was opened.
    ///
    /// # Panics
    /// When the range leaves the shard.
    #[track_caller]
    pub fn read_into(&self, start: u64, len: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        assert!(start + len as u64 <= self.header.tokens, "tokens {start}+{len} leave the shard");
        self.check_size()?;
        let width = self.header.token_bytes() as usize;
        let from = HEADER + start as usize * width;
        let bytes = &self.map[from..from + len * width];
        if width == 2 {
            out.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
        } else {
            out.extend(bytes.chunks_exact(4).map(|b| u32_at(b, 0)));
        }
        Ok(())
    }

    /// The system kills a program that reads a map beyond the end of its file, so a file that
    /// someone cut under a run is looked for first.
    fn check_size(&self) -> Result<(), DataError> {
        let size = self.file.metadata().map_err(|e| DataError::io("look at", &self.path, e))?.len();
        if size >= self.map.len() as u64 {
            return Ok(());
        }
        Err(DataError::Shard {
            path: self.path.clone(),
            offset: size,
            problem: format!("the file was cut to {size} bytes while it was in use"),
            advice: ADVICE.to_owned(),
        })
    }

    /// The tokens of one document, its end token included.
    ///
    /// # Errors
    /// When the file was cut since it was opened.
    ///
    /// # Panics
    /// When there is no such document.
    #[track_caller]
    pub fn document(&self, document: u64) -> Result<Vec<u32>, DataError> {
        assert!(document < self.header.documents, "no document {document} in the shard");
        self.check_size()?;
        let start = self.document_start(document as usize);
        let end = if document + 1 < self.header.documents {
            self.document_start(document as usize + 1)
        } else {
            self.header.tokens
        };
        let mut ids = Vec::new();
        self.read_into(start, (end - start) as usize, &mut ids)?;
        Ok(ids)
    }

    /// Tokens of each document, end tokens included, in order.
    ///
    /// # Errors
    /// When the file was cut since it was opened.
    pub fn document_lengths(&self) -> Result<Vec<u64>, DataError> {
        self.check_size()?;
        let start = |document: u64| {
            if document < self.header.documents {
                self.document_start(document as usize)
            } else {
                self.header.tokens
            }
        };
        Ok((0..self.header.documents)
            .map(|document| start(document + 1) - start(document))
            .collect())
    }

    fn token(&self, at: usize) -> u32 {
        if self.header.token_bytes() == 2 {
            u32::from(u16::from_le_bytes([
                self.map[HEADER + at * 2],
                self.map[HEADER + at * 2 + 1],
            ]))
        } else {
            u32_at(&self.map, HEADER + at * 4)
        }
    }

    fn index_offset(&self) -> usize {
        self.map.len() - self.header.documents as usize * 8
    }

    fn document_start(&self, document: usize) -> u64 {
        u64_at(&self.map, self.index_offset() + document * 8)
    }
}

/// The one place where the crate asks for trust.
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this type. Shards are never modified in
    // place by this program (they are written under another name and renamed), and the docs of
    // `Shard` and of the dataset folder forbid others to do so while a run uses them; every value
    // read from the map is a plain integer for which any bit pattern is valid.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(path: &Path, vocab_size: usize, documents: &[Vec<u32>]) -> Header {
        let mut writer = ShardWriter::create(path, vocab_size, 0, [7; 32]).expect("create");
        for document in documents {
            writer.push(document).expect("push");
        }
        writer.finish().expect("finish")
    }

    proptest! {
        #[test]
        fn documents_come_back(
            (vocab_size, documents) in prop_oneof![Just(300usize), Just(1 << 16), Just(70_000)]
                .prop_flat_map(|v| (Just(v), proptest::collection::vec(
                    proptest::collection::vec(0..v as u32, 0..40), 0..12))),
        ) {
            let folder = tempfile::tempdir().expect("temporary folder");
            let path = folder.path().join("shard.bin");
            let header = write(&path, vocab_size, &documents);
            let shard = Shard::open(&path).expect("open");
            prop_assert_eq!(shard.header(), &header);
            prop_assert_eq!(header.documents, documents.len() as u64);
            let mut stream = Vec::new();
            for (at, document) in documents.iter().enumerate() {
                let closed = [document.as_slice(), &[0]].concat();
                prop_assert_eq!(&shard.document(at as u64).expect("whole"), &closed);
                stream.extend(closed);
            }
            let mut read = Vec::new();
            shard.read_into(0, stream.len(), &mut read).expect("whole");
            prop_assert_eq!(read, stream);
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard.bin");
        write(&path, 300, &[vec![1, 2, 3], vec![299; 20]]);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            std::fs::write(&path, &flipped).expect("write");
            let message = Shard::open(&path).expect_err("flipped byte").to_string();
            assert!(message.contains("shard.bin, byte "), "{message}");
            std::fs::write(&path, &whole[..at]).expect("write");
            assert!(Shard::open(&path).is_err(), "cut at {at}");
        }
        std::fs::write(&path, [&whole[..], &[0]].concat()).expect("write");
        assert!(Shard::open(&path).is_err(), "a byte too many");
        std::fs::write(&path, &whole).expect("write");
        assert!(Shard::open(&path).is_ok());
    }

    #[test]
    fn consistent_nonsense_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard.bin");
        let header = write(&path, 300, &[vec![1, 2, 3], vec![4]]);
        let whole = std::fs::read(&path).expect("read");
        let index_at = header.index_at().expect("small") as usize;
        // An id outside the vocabulary, and a document that begins past the end, both with right sums.
        for (at, value) in [(HEADER, 0xFFFF_u16), (index_at + 8, 500), (index_at, 1)] {
            let mut bytes = whole.clone();
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
            let forged = Header { payload_crc: crc32fast::hash(&bytes[HEADER..]), ..header };
            bytes[..HEADER].copy_from_slice(&forged.to_bytes());
            std::fs::write(&path, &bytes).expect("write");
            assert!(Shard::open(&path).is_err(), "forged byte {at}");
        }
        for forged in [
            Header { tokens: u64::MAX, ..header },
            Header { documents: u64::MAX / 4, ..header },
            Header { tokens: 1 << 62, documents: 1 << 61, ..header },
        ] {
            let mut bytes = whole.clone();
            bytes[..HEADER].copy_from_slice(&forged.to_bytes());
            std::fs::write(&path, &bytes).expect("write");
            assert!(Shard::open(&path).is_err(), "{forged:?}");
        }
    }

    #[test]
    fn a_file_cut_while_it_is_open_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard.bin");
        write(&path, 300, &[vec![1; 10_000]]);
        let shard = Shard::open(&path).expect("open");
        File::options().write(true).open(&path).and_then(|f| f.set_len(4000)).expect("cut");
        for error in
            [shard.document(0).expect_err("cut"), shard.document_lengths().expect_err("cut")]
        {
            let message = error.to_string();
            assert!(message.contains("shard.bin, byte 4000: "), "{message}");
        }
    }

    #[test]
    fn an_abandoned_writer_leaves_nothing() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut writer =
            ShardWriter::create(&folder.path().join("s.bin"), 300, 0, [0; 32]).expect("create");
        writer.push(&[1, 2]).expect("push");
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 0);
    }
}
