//! A dataset folder of token ids that are there already.

use std::path::Path;

use mediswift_files as files;

use super::building::check_destination;
use super::nothing_to_train_on;
use super::splits::SplitWriter;
use crate::manifest::{InputReport, Manifest, SplitManifest};
use crate::{DataError, Split, Tokenizer, tokenizer};

/// Tokens of a shard, about.
const SHARD_TOKENS: u64 = 100_000_000;

/// Makes the dataset folder `out` of documents as token ids, each without the token that closes it; returns its
/// manifest. The tokenizer says what the ids mean.
///
/// ```
/// use mediswift_data::tokenizer::Kind;
/// use mediswift_data::{Dataset, Split, Tokenizer, prepare};
///
/// let folder = tempfile::tempdir()?;
/// let texts = ["aspirin inhibits platelets", "so does clopidogrel"];
/// let tokenizer = Tokenizer::train(Kind::ByteBpe, texts.map(|t| Ok(t.into())).into_iter(), 300, 2)?;
/// let documents = texts.map(|text| tokenizer.encode(text));
/// let out = folder.path().join("dataset");
/// prepare::write_tokens(&out, &tokenizer, &documents[..1], &documents[1..])?;
/// let dataset = Dataset::open(&out)?;
/// let tokens = dataset.window(Split::Train, 0, documents[0].len())?;
/// assert_eq!(tokens, documents[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When an id is not below the tokenizer's vocabulary, there is nothing to train on, `out` holds something
/// already, or the disk refuses. Nothing is left behind then.
pub fn write_tokens(
    out: &Path,
    tokenizer: &Tokenizer,
    train: &[Vec<u32>],
    validation: &[Vec<u32>],
) -> Result<Manifest, DataError> {
    check_destination(out, false)?;
    if train.iter().all(Vec::is_empty) {
        return Err(nothing_to_train_on(InputReport::default(), validation.len() as u64));
    }
    let held_out = validation.len() as f64 / (train.len() + validation.len()) as f64;
    files::write_folder(out, |folder| {
        tokenizer.save(&folder.join(tokenizer::FILE_NAME))?;
        let split = |split, documents: &[Vec<u32>]| -> Result<SplitManifest, DataError> {
            let mut writer = SplitWriter::open(folder, split, tokenizer, SHARD_TOKENS)?;
            for ids in documents.iter().filter(|ids| !ids.is_empty()) {
                let text = tokenizer.decode(ids)?;
                writer.done.words += text.split_whitespace().count() as u64;
                writer.done.bytes += text.len() as u64;
                writer.push(ids)?;
            }
            writer.finish()
        };
        let train = split(Split::Train, train)?;
        let validation = split(Split::Validation, validation)?;
        let manifest =
            Manifest::new(tokenizer, held_out, InputReport::default(), train, validation);
        manifest.save(folder)?;
        Ok(manifest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;
    use crate::tokenizer::Kind;

    #[test]
    fn foreign_ids_and_occupied_folders_are_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("dataset");
        let texts = ["one text", "another text"].map(|text| Ok(text.to_string()));
        let tokenizer = Tokenizer::train(Kind::ByteBpe, texts.into_iter(), 260, 2).expect("train");
        let write = |train: &[Vec<u32>]| write_tokens(&out, &tokenizer, train, &[vec![1, 2]]);
        let beyond = tokenizer.vocab_size() as u32;
        let message = write(&[vec![1], vec![2, beyond]]).expect_err("an id beyond").to_string();
        assert!(message.contains(&format!("token id {beyond} (position 1)")), "{message}");
        assert!(write(&[]).is_err() && write(&[vec![]]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 0);
        let manifest = write(&[vec![1, 2, 3], vec![], vec![4]]).expect("write");
        assert_eq!((manifest.documents, manifest.tokens), (3, 9));
        let dataset = Dataset::open(&out).expect("open");
        let end = tokenizer.end_of_text();
        assert_eq!(dataset.window(Split::Train, 0, 6).expect("read"), [1, 2, 3, end, 4, end]);
        assert_eq!(dataset.window(Split::Validation, 0, 3).expect("read"), [1, 2, end]);
        assert!(write(&[vec![1]]).is_err(), "it is there already");
    }
}
