//! Documents that stay → tokens → shards.
//!
//! Documents are encoded in parallel in batches, while the next batch is read and the last one written,
//! in order: the bytes do not depend on the number of threads. Shards that an interrupted run completed are
//! kept: as many documents as they hold are passed over.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::progress::{PrepareProgress, PrepareStage, Watch};
use super::splits::SplitWriter;
use super::staying::Staying;
use crate::manifest::SplitManifest;
use crate::tokenizer::Encoder;
use crate::{DataError, Split, Tokenizer};

/// Text that is encoded in parallel at a time, in bytes.
const BATCH_BYTES: usize = 8 << 20;

/// Documents that one thread encodes in a row.
const GROUP: usize = 32;

/// Writes the shards; returns what the splits hold, train first.
pub(crate) fn encode(
    mut documents: Staying,
    tokenizer: &Tokenizer,
    shard_tokens: u64,
    folder: &Path,
    progress: Watch,
) -> Result<[SplitManifest; 2], DataError> {
    let open = |split| SplitWriter::open(folder, split, tokenizer, shard_tokens);
    let mut splits = [open(Split::Train)?, open(Split::Validation)?];
    let total = documents.fates.staying();
    let encoders = Encoders { tokenizer, idle: Mutex::new(Vec::new()) };
    let mut read_so_far = 0;
    let mut batch = read(&mut documents, &mut splits)?;
    let mut encoded = Vec::new();
    while !(batch.is_empty() && encoded.is_empty()) {
        let now = PrepareProgress {
            stage: PrepareStage::Tokenizing,
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
    fn encode(&self, batch: &[Kept]) -> Vec<Vec<Encoded>> {
        let encode = |group: &[Kept]| {
            let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let mut encoder = kept.unwrap_or_else(|| self.tokenizer.encoder());
            let documents = group.iter().map(|document| Encoded::of(document, &mut encoder));
            let encoded = documents.collect();
            idle().push(encoder);
            encoded
        };
        batch.par_chunks(GROUP).map(encode).collect()
    }
}

/// A document that stays.
struct Kept {
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
    fn of(document: &Kept, encoder: &mut Encoder) -> Self {
        let Kept { text, split, is_written } = document;
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

fn read(documents: &mut Staying, splits: &mut [SplitWriter; 2]) -> Result<Vec<Kept>, DataError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES {
        let Some((text, split)) = documents.next_one()? else { break };
        bytes += text.len();
        let to_pass = &mut splits[split as usize].to_pass;
        let is_written = *to_pass > 0;
        *to_pass -= u64::from(is_written);
        batch.push(Kept { text, split, is_written });
    }
    Ok(batch)
}
