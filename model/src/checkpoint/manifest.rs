//! [`CheckpointManifest`]: what a checkpoint says of itself.

use crate::error::Error;
use crate::loss_scale::LossScale;
use crate::sparsity::MaskState;
use crate::tensor_file::{FileSummary, unusable};
use mediswift_files::{self as files, NewFile, SMALL};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Version of the format that this program writes and reads.
pub const VERSION: u32 = 1;

pub(super) const FORMAT: &str = "mediswift-checkpoint";
/// File of the parameters.
pub(super) const WEIGHTS: &str = "weights.safetensors";
/// File of the moments.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// File of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";

/// No manifest is longer: 1 MiB.
const LIMIT: u64 = 1 << 20;

/// Where in its data a run is, and which data that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataState {
    /// Training sequences consumed.
    pub sequences: u64,
    /// Fingerprint of the training data.
    pub fingerprint: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// `mediswift-checkpoint`.
    pub format: String,
    /// [`VERSION`] of the program that wrote it.
    pub version: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// How many of them made no update.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// What the next step scales its loss with, if it is of f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// How far masks have moved, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskState>,
    /// Position in the data.
    pub data: DataState,
    /// Where randomness comes from.
    pub random: String,
    /// [`weights_hash`](super::weights_hash) of the parameters.
    pub weights_hash: String,
    /// Length and hash of the other files.
    pub files: BTreeMap<String, FileSummary>,
    /// Settings, as TOML.
    pub config: String,
    /// BLAKE3 of this manifest as compact JSON with an empty checksum.
    pub checksum: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl CheckpointManifest {
    /// With the checksum that it should have.
    pub(super) fn sealed(mut self) -> Self {
        self.checksum.clear();
        let json = serde_json::to_vec(&self).expect("plain data");
        self.checksum = blake3::hash(&json).to_hex().to_string();
        self
    }

    /// Length and hash of a file; `path` is named if it has none.
    pub(super) fn summary(&self, name: &str, path: &Path) -> Result<&FileSummary, Error> {
        self.files.get(name).ok_or_else(|| unusable(path, format!("it does not name {name}")))
    }
}

pub(super) fn write_manifest(folder: &Path, manifest: &CheckpointManifest) -> Result<(), Error> {
    let path = folder.join(MANIFEST);
    let json = serde_json::to_vec_pretty(manifest).expect("plain data");
    let write = || -> std::io::Result<()> {
        let mut file = NewFile::create(&path)?;
        file.write_all(&json)?;
        file.sync()
    };
    write().map_err(Error::io("write", &path))
}

/// Reads a manifest and checks that it is whole and of this version.
pub(super) fn read_manifest(folder: &Path) -> Result<CheckpointManifest, Error> {
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => {
            let problem = "is a file, not a checkpoint: name the folder that holds manifest.json";
            return Err(Error::not_found(folder, problem));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found(
                folder,
                "does not exist: name the folder of a checkpoint",
            ));
        }
        Err(error) => return Err(Error::io("read", folder)(error)),
        Ok(_) => {}
    }
    let path = folder.join(MANIFEST);
    match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(unusable(&path, "it is not a regular file"));
        }
        Ok(metadata) if metadata.len() > LIMIT => {
            return Err(unusable(&path, format!("{} bytes are no manifest", metadata.len())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let problem = "has no manifest.json: the checkpoint is incomplete, use another one";
            return Err(Error::damaged(folder, problem));
        }
        Err(error) => return Err(Error::io("read", path)(error)),
        Ok(_) => {}
    }
    let bytes = files::read(&path, SMALL)?;
    let invalid = |error: serde_json::Error| unusable(&path, error);
    // What it is comes first: other versions have other fields.
    let header: Header = serde_json::from_slice(&bytes).map_err(invalid)?;
    if header.format != FORMAT {
        return Err(unusable(&path, format!("its format is '{}', not '{FORMAT}'", header.format)));
    }
    if header.version != VERSION {
        let problem = format!(
            "its version is {}, but this program reads version {VERSION}: use the program that \
             wrote it",
            header.version
        );
        return Err(Error::incompatible(path, problem));
    }
    let manifest: CheckpointManifest = serde_json::from_slice(&bytes).map_err(invalid)?;
    if manifest.clone().sealed() != manifest {
        return Err(unusable(&path, "its checksum is wrong"));
    }
    Ok(manifest)
}

/// The part of a manifest that all versions share.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}
