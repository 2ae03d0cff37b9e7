//! Writing the shards of a split.

use std::path::Path;

use crate::manifest::{ShardManifest, SplitManifest};
use crate::shard::{Header, Shard, ShardWriter};
use crate::{DataError, Split, Tokenizer};

/// Writes the shards of one split.
pub(crate) struct SplitWriter<'a> {
    folder: &'a Path,
    split: Split,
    tokenizer: &'a Tokenizer,
    shard_tokens: u64,
    open: Option<(String, ShardWriter)>,
    pub done: SplitManifest,
    /// Documents that lie in shards already.
    pub to_pass: u64,
}

impl<'a> SplitWriter<'a> {
    /// Goes on after the shards that an interrupted run completed in `folder`.
    pub fn open(
        folder: &'a Path,
        split: Split,
        tokenizer: &'a Tokenizer,
        shard_tokens: u64,
    ) -> Result<Self, DataError> {
        let done = SplitManifest::default();
        let mut writer =
            Self { folder, split, tokenizer, shard_tokens, open: None, done, to_pass: 0 };
        writer.take_over()?;
        Ok(writer)
    }

    fn next_name(&self) -> String {
        format!("{}-{:05}.bin", self.split.name(), self.done.shards.len())
    }

    fn take_over(&mut self) -> Result<(), DataError> {
        loop {
            let file = self.next_name();
            let path = self.folder.join(&file);
            if !path.is_file() {
                return Ok(());
            }
            let shard = Shard::open(&path)?;
            let header = *shard.header();
            // The last shard of a split is short, and written only when all is done: a run that
            // came so far and was interrupted after it writes it again.
            if header.tokens < self.shard_tokens || header.tokenizer_hash != self.tokenizer.digest()
            {
                return Ok(());
            }
            self.to_pass += header.documents;
            self.add(file, &header);
        }
    }

    fn add(&mut self, file: String, header: &Header) {
        self.done.documents += header.documents;
        self.done.tokens += header.tokens;
        self.done.shards.push(ShardManifest {
            file,
            documents: header.documents,
            tokens: header.tokens,
            crc32: header.payload_crc,
        });
    }

    /// Appends a document.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        if self.open.is_none() {
            let file = self.next_name();
            let writer = ShardWriter::create(
                &self.folder.join(&file),
                self.tokenizer.vocab_size(),
                self.tokenizer.end_of_text(),
                self.tokenizer.digest(),
            )?;
            self.open = Some((file, writer));
        }
        let Some((_, writer)) = &mut self.open else { return Ok(()) };
        writer.push(ids)?;
        if writer.tokens() >= self.shard_tokens { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some((file, writer)) = self.open.take() {
            let header = writer.finish()?;
            self.add(file, &header);
        }
        Ok(())
    }

    /// Completes the last shard; returns what the split holds.
    pub fn finish(mut self) -> Result<SplitManifest, DataError> {
        self.close()?;
        Ok(self.done)
    }
}
