//! Reading a shard: verified when it is opened, and then by position.
//!
//! Nothing of the file is held or mapped. A file that is cut or overwritten while it is in use is
//! therefore an error of the read that meets the place, and never more than that.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use mediswift_files as files;

use super::header::{HEADER_BYTES, Header};
use crate::DataError;
use crate::error::ShardProblem;

/// Bytes read at a time; a multiple of 8, so that neither a token nor an entry of the index is torn.
const PIECE: usize = 1 << 20;

/// A shard open for reading.
#[derive(Debug)]
pub struct Shard {
    header: Header,
    file: File,
    path: PathBuf,
}

impl Shard {
    /// Opens and verifies a shard.
    ///
    /// # Errors
    /// When the file is missing, of the wrong size, of another kind or version, damaged, or cut
    /// meanwhile.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = files::open(path)?;
        let about = file.metadata().map_err(|e| DataError::io("open", path, e))?;
        let (path, size) = (path.to_owned(), about.len());
        let wrong = |offset, problem| DataError::Shard { path: path.clone(), offset, problem };
        if size < HEADER_BYTES as u64 {
            let problem = ShardProblem::NoHeader { least: HEADER_BYTES as u64 };
            return Err(wrong(size, problem));
        }
        let mut bytes = [0; HEADER_BYTES];
        read_exactly_at(&file, &path, &mut bytes, 0)?;
        let header = Header::from_bytes(&bytes).map_err(|(offset, what)| wrong(offset, what))?;
        let expected = header.file_size();
        if expected != Some(size) {
            return Err(wrong(size, ShardProblem::Size { size, expected }));
        }
        let shard = Self { header, file, path };
        shard.verify()?;
        Ok(shard)
    }

    /// Reads everything once. A sum is no proof of sense: ids index embeddings, and the index slices
    /// the tokens.
    fn verify(&self) -> Result<(), DataError> {
        let mut crc = crc32fast::Hasher::new();
        // Told only if the sum is right: damage is likelier than nonsense.
        let mut nonsense = Ok(());
        let (mut ids, mut left) = (Vec::new(), self.header.tokens);
        self.pieces(HEADER_BYTES as u64, self.index_at(), |at, bytes| {
            crc.update(bytes);
            ids.clear();
            self.decode(bytes, &mut ids);
            ids.truncate(left as usize); // the last ones may be padding
            left -= ids.len() as u64;
            if nonsense.is_ok() {
                nonsense = self.check_ids(at, &ids);
            }
            Ok(())
        })?;
        let (mut next, mut document) = (0, 0);
        self.pieces(self.index_at(), self.end(), |at, bytes| {
            crc.update(bytes);
            for (entry, start) in (0..).zip(starts(bytes)) {
                let fits = start >= next && start < self.header.tokens;
                if nonsense.is_ok() && (!fits || (document == 0 && start != 0)) {
                    let problem = ShardProblem::DocumentStart { document, start };
                    nonsense = Err(self.wrong(at + entry * 8, problem));
                }
                (next, document) = (start.saturating_add(1), document + 1);
            }
            Ok(())
        })?;
        let (stored, computed) = (self.header.payload_crc, crc.finalize());
        if stored != computed {
            let problem = ShardProblem::TokenSum { stored, computed };
            return Err(self.wrong(HEADER_BYTES as u64, problem));
        }
        nonsense
    }

    /// What the shard says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends tokens `start..start + len` to `out`.
    ///
    /// # Errors
    /// When the file cannot be read there, or was cut or overwritten since it was opened.
    ///
    /// # Panics
    /// When the range leaves the shard.
    #[track_caller]
    pub fn read_into(&self, start: u64, len: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        let end = start.checked_add(len as u64).filter(|end| *end <= self.header.tokens);
        let end = end.unwrap_or_else(|| panic!("tokens {start}+{len} leave the shard"));
        let place = |token: u64| HEADER_BYTES as u64 + token * self.header.token_bytes();
        self.pieces(place(start), place(end), |at, bytes| {
            let known = out.len();
            self.decode(bytes, out);
            self.check_ids(at, &out[known..])
        })
    }

    /// The tokens of one document, its end token included.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    ///
    /// # Panics
    /// When there is no such document.
    #[track_caller]
    pub fn document(&self, document: u64) -> Result<Vec<u32>, DataError> {
        assert!(document < self.header.documents, "no document {document} in the shard");
        let mut bounds =
            self.document_starts(document, (document + 2).min(self.header.documents))?;
        bounds.push(self.header.tokens);
        let mut ids = Vec::new();
        self.read_into(bounds[0], (bounds[1] - bounds[0]) as usize, &mut ids)?;
        Ok(ids)
    }

    /// Tokens of each document, end tokens included, in order.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub fn document_lengths(&self) -> Result<Vec<u64>, DataError> {
        let mut bounds = self.document_starts(0, self.header.documents)?;
        bounds.push(self.header.tokens);
        Ok(bounds.windows(2).map(|bounds| bounds[1] - bounds[0]).collect())
    }

    /// The first tokens of documents `first..end`, rising and within the shard.
    fn document_starts(&self, first: u64, end: u64) -> Result<Vec<u64>, DataError> {
        let place = |document: u64| self.index_at() + document * 8;
        let mut found: Vec<u64> = Vec::with_capacity((end - first) as usize);
        self.pieces(place(first), place(end), |at, bytes| {
            for (entry, start) in (0..).zip(starts(bytes)) {
                if start >= self.header.tokens || found.last().is_some_and(|last| start <= *last) {
                    let document = first + found.len() as u64;
                    let problem = ShardProblem::DocumentStart { document, start };
                    return Err(self.wrong(at + entry * 8, problem));
                }
                found.push(start);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `each` with the bytes of `from..to` of the file, at most [`PIECE`] at a time, and where
    /// they begin.
    fn pieces(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut buffer = vec![0; (to - from).min(PIECE as u64) as usize];
        let mut at = from;
        while at < to {
            let length = (to - at).min(PIECE as u64) as usize;
            read_exactly_at(&self.file, &self.path, &mut buffer[..length], at)?;
            each(at, &buffer[..length])?;
            at += length as u64;
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut Vec<u32>) {
        if self.header.token_bytes() == 2 {
            out.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
        } else {
            let id = |b: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| b[i]));
            out.extend(bytes.chunks_exact(4).map(id));
        }
    }

    /// Looks for an id outside the vocabulary among those that begin at byte `at`.
    fn check_ids(&self, at: u64, ids: &[u32]) -> Result<(), DataError> {
        let outside = |id: &u32| u64::from(*id) >= self.header.vocab_size;
        match ids.iter().position(outside) {
            None => Ok(()),
            Some(place) => {
                let offset = at + place as u64 * self.header.token_bytes();
                Err(self.wrong(offset, ShardProblem::TokenOutside { id: ids[place] }))
            }
        }
    }

    fn index_at(&self) -> u64 {
        self.end() - self.header.documents * 8
    }

    /// Bytes of the file, as verified.
    fn end(&self) -> u64 {
        self.header.file_size().expect("the file has this size")
    }

    fn wrong(&self, offset: u64, problem: ShardProblem) -> DataError {
        DataError::Shard { path: self.path.clone(), offset, problem }
    }
}

/// The entries of a piece of the document index.
fn starts(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(std::array::from_fn(|i| b[i])))
}

/// Fills `bytes` from place `at` of the file `path`, which must not end before.
fn read_exactly_at(
    file: &File,
    path: &Path,
    mut bytes: &mut [u8],
    mut at: u64,
) -> Result<(), DataError> {
    while !bytes.is_empty() {
        match read_at(file, bytes, at) {
            Ok(0) => {
                let size = file.metadata().map_or(at, |about| about.len());
                let problem = ShardProblem::Cut { size };
                return Err(DataError::Shard { path: path.to_owned(), offset: size, problem });
            }
            Ok(read) => {
                bytes = &mut bytes[read..];
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(DataError::io("read", path, error)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, at)
}

/// Where there is no read by position, the file's cursor is moved, by one thread at a time.
#[cfg(not(unix))]
fn read_at(mut file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    use std::io::{Read, Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    static CURSOR: Mutex<()> = Mutex::new(());
    let _held = CURSOR.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(at))?;
    file.read(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ShardWriter;
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
        for (at, value) in [(HEADER_BYTES, 0xFFFF_u16), (index_at + 8, 500), (index_at, 1)] {
            let mut bytes = whole.clone();
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
            let forged = Header { payload_crc: crc32fast::hash(&bytes[HEADER_BYTES..]), ..header };
            bytes[..HEADER_BYTES].copy_from_slice(&forged.to_bytes());
            std::fs::write(&path, &bytes).expect("write");
            assert!(Shard::open(&path).is_err(), "forged byte {at}");
        }
        for forged in [
            Header { tokens: u64::MAX, ..header },
            Header { documents: u64::MAX / 4, ..header },
            Header { tokens: 1 << 62, documents: 1 << 61, ..header },
        ] {
            let mut bytes = whole.clone();
            bytes[..HEADER_BYTES].copy_from_slice(&forged.to_bytes());
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

    /// Without a copy of what was verified, every read checks what it meets.
    #[test]
    fn a_file_overwritten_while_it_is_open_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard.bin");
        write(&path, 300, &[vec![1; 100], vec![2; 100]]);
        let shard = Shard::open(&path).expect("open");
        let size = std::fs::metadata(&path).expect("size").len() as usize;
        std::fs::write(&path, vec![0xFF; size]).expect("write");
        let message = shard.read_into(5, 10, &mut Vec::new()).expect_err("nonsense").to_string();
        assert!(message.contains("shard.bin, byte 138: token id 65535 is outside"), "{message}");
        for error in
            [shard.document(1).expect_err("bad"), shard.document_lengths().expect_err("bad")]
        {
            assert!(error.to_string().contains("cannot begin at token"), "{error}");
        }
    }

    #[test]
    fn a_file_cut_while_it_is_verified_is_an_error_and_no_crash() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard.bin");
        write(&path, 300, &[vec![1; 2_000_000]]);
        let whole = std::fs::read(&path).expect("read");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).expect("open");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    file.set_len(5000).expect("cut");
                    std::fs::write(&path, &whole).expect("write");
                }
            });
            for _ in 0..200 {
                if let Err(error) = Shard::open(&path) {
                    let message = error.to_string();
                    assert!(message.contains("shard.bin, byte "), "{message}");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(Shard::open(&path).is_ok());
    }
}
