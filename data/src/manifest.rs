//! `dataset.json`: what a dataset folder holds.
//!
//! The manifest is written last, so a folder that has one is complete. It names every shard with
//! its counts and checksum; a shard from another dataset is therefore found even though it is
//! valid by itself. Its hash identifies the data a run was trained on.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use mediswift_files::{self as files, SMALL};
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::error::DatasetProblem;
use crate::split::Split;

/// File name of the manifest within a dataset folder.
pub(crate) const FILE_NAME: &str = "dataset.json";

const FORMAT: &str = "mediswift-dataset";
const VERSION: u32 = 2;

/// The contents of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Every token id is below this.
    pub vocab_size: u64,
    /// The id that closes every document.
    pub end_of_text: u32,
    /// BLAKE3 of the tokenizer file, in hexadecimal.
    pub tokenizer_hash: String,
    /// The fraction of documents that was asked to be held out.
    pub validation_fraction: f64,
    /// Documents in both splits.
    pub documents: u64,
    /// Tokens in both splits, end tokens included.
    pub tokens: u64,
    /// What the dataset was made from.
    pub inputs: Vec<InputManifest>,
    /// Places in the inputs that could not be read, as messages; the first thousand of each file.
    pub damaged: Vec<String>,
    /// What else should be known of the inputs, as messages: what was passed over, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Records left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What to train on.
    pub train: SplitManifest,
    /// What to measure on.
    pub validation: SplitManifest,
}

/// One split of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitManifest {
    /// Documents in the split.
    pub documents: u64,
    /// Tokens in the split, end tokens included.
    pub tokens: u64,
    /// Words (between white space) of the texts.
    pub words: u64,
    /// Bytes of the texts.
    pub bytes: u64,
    /// The files that hold them, in order.
    pub shards: Vec<ShardManifest>,
}

/// One of the inputs that a dataset was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputManifest {
    /// Name of the file or folder.
    pub name: String,
    /// Files in it.
    pub files: u64,
    /// Records in them.
    pub records: u64,
    /// Documents in the dataset.
    pub documents: u64,
}

impl InputManifest {
    pub(crate) fn new(path: &Path) -> Self {
        let name = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self { name, ..Self::default() }
    }
}

/// What became of the inputs of a dataset or a tokenizer.
#[derive(Clone, Debug, Default)]
pub struct InputReport {
    /// What each came to, as asked for.
    pub inputs: Vec<InputManifest>,
    /// Places that could not be read, as messages.
    pub damaged: Vec<String>,
    /// What else should be known, as messages.
    pub notes: Vec<String>,
    /// Records left out, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// One shard file of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    /// File name within the dataset folder.
    pub file: String,
    /// Documents in the shard.
    pub documents: u64,
    /// Tokens in the shard.
    pub tokens: u64,
    /// CRC-32 of the shard's contents, as in its header.
    pub crc32: u32,
}

impl Manifest {
    /// A manifest for two splits; the totals follow from them.
    pub(crate) fn new(
        tokenizer: &crate::Tokenizer,
        validation_fraction: f64,
        report: InputReport,
        train: SplitManifest,
        validation: SplitManifest,
    ) -> Self {
        let InputReport { inputs, damaged, notes, dropped } = report;
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            vocab_size: tokenizer.vocab_size() as u64,
            end_of_text: tokenizer.end_of_text(),
            tokenizer_hash: tokenizer.hash(),
            validation_fraction,
            documents: train.documents + validation.documents,
            tokens: train.tokens + validation.tokens,
            inputs,
            damaged,
            notes,
            dropped,
            train,
            validation,
        }
    }

    /// What is said of a split.
    pub fn split(&self, split: Split) -> &SplitManifest {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    /// Writes the manifest into `folder`.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), DataError> {
        let path = folder.join(FILE_NAME);
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|e| DataError::io("write", &path, e.into()))?;
        bytes.push(b'\n');
        Ok(files::write(&path, &bytes)?)
    }

    /// Reads the manifest of a dataset folder; returns it with its BLAKE3 in hexadecimal.
    pub(crate) fn load(folder: &Path) -> Result<(Self, String), DataError> {
        let path = folder.join(FILE_NAME);
        let wrong = |problem| DataError::dataset(&path, problem);
        if !path.exists() {
            return Err(DataError::dataset(folder, DatasetProblem::NoManifest));
        }
        let bytes = files::read(&path, SMALL)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| wrong(DatasetProblem::NotJson { why: e.to_string() }))?;
        if value["format"] != FORMAT {
            return Err(wrong(DatasetProblem::Foreign { found: value["format"].to_string() }));
        }
        // Before the fields: a later version may well have others.
        if value["version"] != VERSION {
            let found = value["version"].to_string();
            return Err(wrong(DatasetProblem::Version { found, known: VERSION }));
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|e| wrong(DatasetProblem::NotAManifest { why: e.to_string() }))?;
        for shard in manifest.train.shards.iter().chain(&manifest.validation.shards) {
            let mut parts = Path::new(&shard.file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                let file = shard.file.clone();
                return Err(wrong(DatasetProblem::FileElsewhere { file }));
            }
        }
        Ok((manifest, blake3::hash(&bytes).to_hex().to_string()))
    }
}
