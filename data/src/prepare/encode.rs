//! Documents that stay → tokens → shards.
//!
//! Documents are encoded in parallel in batches, while the next batch is read and the last one written,
//! in order: the bytes do not depend on the number of threads. Shards that an interrupted run completed are
//! kept: as many documents as they hold are passed over.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::resolve::Fates;
use super::segment::{Column, Segment};
use super::{Progress, Stage};
use crate::manifest::{ShardManifest, SplitManifest};
use crate::shard::{Shard, ShardWriter};
use crate::tokenizer::Encoder;
use crate::{DataError, Split, Tokenizer};

/// Text that is encoded in parallel at a time, in bytes.
const BATCH_BYTES: usize = 8 << 20;

/// Documents that one thread encodes in a row.
const GROUP: usize = 32;

/// The documents that stay, in order, each with its split.
pub(crate) struct Staying<'a> {
    segments: std::slice::Iter<'a, Segment>,
    fates: &'a Fates,
    fraction: f64,
    open: Option<(Vec<u64>, Texts)>,
    within: usize,
    document: usize,
}

type Texts = Box<dyn Iterator<Item = Result<String, DataError>> + Send>;

impl<'a> Staying<'a> {
    pub fn new(segments: &'a [Segment], fates: &'a Fates, fraction: f64) -> Self {
        Self { segments: segments.iter(), fates, fraction, open: None, within: 0, document: 0 }
    }

    fn next_one(&mut self) -> Result<Option<(String, Split)>, DataError> {
        loop {
            let Some((draws, texts)) = &mut self.open else {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                self.open = Some((segment.column(Column::Draw)?, Box::new(segment.texts()?)));
                self.within = 0;
                continue;
            };
            let Some(text) = texts.next().transpose()? else {
                self.open = None;
                continue;
            };
            let draw = draws[self.within];
            self.within += 1;
            self.document += 1;
            if self.fates.stays(self.document - 1) {
                return Ok(Some((text, Split::of(draw, self.fraction))));
            }
        }
    }
}

impl Iterator for Staying<'_> {
    type Item = Result<(String, Split), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_one().transpose()
    }
}

/// Writes the shards; returns what the splits hold, train first.
pub(crate) fn encode(
    mut documents: Staying,
    tokenizer: &Tokenizer,
    shard_tokens: u64,
    folder: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<[SplitManifest; 2], DataError> {
    let mut splits = [Split::Train, Split::Validation].map(|split| SplitWriter {
        folder,
        split,
        tokenizer,
        shard_tokens,
        open: None,
        done: SplitManifest::default(),
        to_pass: 0,
    });
    for split in &mut splits {
        split.take_over()?;
    }
    let total = documents.fates.staying();
    let encoders = Encoders { tokenizer, idle: Mutex::new(Vec::new()) };
    let mut read_so_far = 0;
    let mut batch = read(&mut documents, &mut splits)?;
    let mut encoded = Vec::new();
    while !(batch.is_empty() && encoded.is_empty()) {
        let now = Progress {
            stage: Stage::Tokenizing,
            bytes_read: read_so_far,
            bytes_total: total,
            documents: read_so_far,
        };
        if progress(&now).is_break() {
            return Err(DataError::Interrupted);
        }
        read_so_far += batch.len() as u64;
        // What one thread must do alone goes on beside the encoding.
        let (next_encoded, next_batch) = rayon::join(
            || encoders.encode(&batch),
            || {
                write(&encoded, &mut splits)?;
                read(&mut documents, &mut splits)
            },
        );
        (encoded, batch) = (next_encoded, next_batch?);
    }
    let [train, validation] = splits;
    Ok([train.finish()?, validation.finish()?])
}

/// Encoders between their uses: one remembers the words it has met, and is worth keeping.
struct Encoders<'a> {
    tokenizer: &'a Tokenizer,
    idle: Mutex<Vec<Encoder<'a>>>,
}

impl Encoders<'_> {
    /// Groups of documents as tokens, in order.
    fn encode(&self, batch: &[Document]) -> Vec<Vec<Encoded>> {
        let encode = |group: &[Document]| {
            let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let mut encoder = kept.unwrap_or_else(|| Encoder::new(self.tokenizer));
            let documents = group.iter().map(|document| Encoded::of(document, &mut encoder));
            let encoded = documents.collect();
            idle().push(encoder);
            encoded
        };
        batch.par_chunks(GROUP).map(encode).collect()
    }
}

/// A document that stays.
struct Document {
    text: String,
    split: Split,
    /// Lies in a shard already, and needs no encoding.
    is_written: bool,
}

/// A document as tokens; none if they lie in a shard already.
struct Encoded {
    split: Split,
    ids: Option<Vec<u32>>,
    words: u64,
    bytes: u64,
}

impl Encoded {
    fn of(document: &Document, encoder: &mut Encoder) -> Self {
        let Document { text, split, is_written } = document;
        let encode = || {
            let mut ids = Vec::new();
            encoder.encode(text, &mut ids);
            ids
        };
        let words = text.split_whitespace().count() as u64;
        let ids = (!is_written).then(encode);
        Self { split: *split, ids, words, bytes: text.len() as u64 }
    }
}

fn write(encoded: &[Vec<Encoded>], splits: &mut [SplitWriter; 2]) -> Result<(), DataError> {
    for document in encoded.iter().flatten() {
        let writer = &mut splits[document.split as usize];
        writer.done.words += document.words;
        writer.done.bytes += document.bytes;
        if let Some(ids) = &document.ids {
            writer.push(ids)?;
        }
    }
    Ok(())
}

fn read(
    documents: &mut Staying,
    splits: &mut [SplitWriter; 2],
) -> Result<Vec<Document>, DataError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES {
        let Some((text, split)) = documents.next_one()? else { break };
        bytes += text.len();
        let to_pass = &mut splits[split as usize].to_pass;
        let is_written = *to_pass > 0;
        *to_pass -= u64::from(is_written);
        batch.push(Document { text, split, is_written });
    }
    Ok(batch)
}

/// Writes the shards of one split.
struct SplitWriter<'a> {
    folder: &'a Path,
    split: Split,
    tokenizer: &'a Tokenizer,
    shard_tokens: u64,
    open: Option<(String, ShardWriter)>,
    done: SplitManifest,
    /// Documents that lie in shards already.
    to_pass: u64,
}

impl SplitWriter<'_> {
    fn next_name(&self) -> String {
        format!("{}-{:05}.bin", self.split.name(), self.done.shards.len())
    }

    /// Adopts the shards an interrupted run completed.
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

    fn add(&mut self, file: String, header: &crate::shard::Header) {
        self.done.documents += header.documents;
        self.done.tokens += header.tokens;
        self.done.shards.push(ShardManifest {
            file,
            documents: header.documents,
            tokens: header.tokens,
            crc32: header.payload_crc,
        });
    }

    fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
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

    fn finish(mut self) -> Result<SplitManifest, DataError> {
        self.close()?;
        Ok(self.done)
    }
}
