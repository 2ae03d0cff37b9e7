//! Writing a shard: under another name, synced, renamed.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use mediswift_files::Draft;

use super::header::{HEADER_BYTES, Header};
use crate::DataError;

/// Writes one shard, document by document. Dropped without [`finish`](Self::finish), it leaves
/// nothing behind.
pub(crate) struct ShardWriter {
    file: BufWriter<Draft>,
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
        let draft = Draft::create(path)?;
        let header = Header {
            tokens: 0,
            documents: 0,
            vocab_size: vocab_size as u64,
            end_of_text,
            payload_crc: 0,
            tokenizer_hash,
        };
        let mut writer = Self {
            file: BufWriter::with_capacity(1 << 20, draft),
            header,
            crc: crc32fast::Hasher::new(),
            index: Vec::new(),
        };
        // The counts are known only at the end; zeros hold their place and are no valid header.
        writer.file.write_all(&[0; HEADER_BYTES]).map_err(|e| DataError::io("write", path, e))?;
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
            self.file.flush()
        })()
        .map_err(|e| DataError::io("write", self.file.get_ref().path(), e))?;
        self.file.into_parts().0.publish()?;
        Ok(self.header)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.crc.update(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|e| DataError::io("write", self.file.get_ref().path(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
