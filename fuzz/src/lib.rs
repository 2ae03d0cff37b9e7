//! What the fuzz targets share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mediswift_data::DataError;
use mediswift_data::clean::Cleaning;
use mediswift_data::source::{Event, read_bytes};
use mediswift_model::checkpoint::{self, Checkpoint, CheckpointManifest, DataState, Snapshot};
use mediswift_model::optimisation::Moments;
use mediswift_model::{Config, Gpt};
use tempfile::TempDir;

/// Reads and cleans what would be the file `name`, and checks what must hold whatever it is.
pub fn read(name: &str, bytes: &[u8]) {
    let cleaning = Cleaning { languages: Vec::new(), min_words: 0, ..Cleaning::default() };
    let outcome = read_bytes(Path::new(name), bytes, &mut |event| {
        match event {
            Event::Record(record) => {
                if let Ok(document) = cleaning.clean(record) {
                    assert!(!document.text.trim().is_empty());
                    assert!(!document.text.contains("\n\n") && !document.text.contains("  "));
                }
            }
            Event::Damaged(error) | Event::Noted(error) => check(&error),
            Event::Deleted(_) => {}
        }
        Ok(())
    });
    if let Err(error) = outcome {
        check(&error);
    }
}

/// An error is a line that names its file.
pub fn check(error: &DataError) {
    let message = error.to_string();
    assert!(message.contains("input"), "{message}");
    assert!(!message.contains(char::is_control) && message.len() < 2000, "{message}");
}

/// The same of a model's files.
pub fn check_model(error: &mediswift_model::Error) {
    let message = error.to_string();
    assert!(message.contains("step-00000003"), "{message}");
    assert!(!message.contains(char::is_control) && message.len() < 2000, "{message}");
}

/// A manifest with the checksum that it should have.
pub fn sealed(mut manifest: CheckpointManifest) -> Vec<u8> {
    manifest.checksum.clear();
    let text = serde_json::to_vec(&manifest).expect("plain data");
    manifest.checksum = blake3::hash(&text).to_hex().to_string();
    serde_json::to_vec(&manifest).expect("plain data")
}

/// A checkpoint of a model of some hundred weights, to change.
pub struct TinyCheckpoint {
    folder: TempDir,
    manifest: CheckpointManifest,
    /// Its other files.
    files: BTreeMap<String, Vec<u8>>,
}

impl TinyCheckpoint {
    /// One that is whole.
    #[allow(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::from_preset("micro").expect("a preset");
        for assignment in
            ["model.layers=1", "model.d_model=4", "model.context=4", "train.context=4"]
        {
            config.set(assignment).expect("a setting");
        }
        (config.model.vocabulary, config.sparsity.sparsity) = (8, 0.5);
        let gpt = Gpt::new(&config).expect("a model");
        let parameters = gpt.parameters();
        let moments = Moments::zeros(parameters.layout());
        let (moments, data) = (Some(&moments), DataState::default());
        let (config, step, skipped, loss_scale, masks) = (&config, 3, 0, None, None);
        let snapshot =
            Snapshot { config, step, skipped, loss_scale, masks, parameters, moments, data };
        let path = checkpoint::save(folder.path(), &snapshot).expect("save");
        let manifest = Checkpoint::open(&path).expect("whole").manifest;
        let names = manifest.files.keys();
        let files = names.map(|name| (name.clone(), fs::read(path.join(name)).expect("read")));
        let files = files.collect();
        Self { folder, manifest, files }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("step-00000003")
    }

    /// Puts `bytes` into the place of one of its files, the others as they were, and vouches for them.
    pub fn with(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path();
        let mut manifest = self.manifest.clone();
        for (file, summary) in &mut manifest.files {
            let bytes = if file == name { bytes } else { &self.files[file] };
            fs::write(path.join(file), bytes).expect("write");
            summary.bytes = bytes.len() as u64;
            summary.blake3 = blake3::hash(bytes).to_hex().to_string();
        }
        fs::write(path.join("manifest.json"), sealed(manifest)).expect("write");
        path
    }
}
