//! [`Identity`]: what a fine-tuning run is made from, and its settings.

use super::settings::Settings;
use crate::checkpoint::weights_hash;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::run;
use crate::tasks::{self, Example, Task, TaskData};
use mediswift_files::{self as files, SMALL};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The settings of a run: a folder that has it is a fine-tuning run.
pub const SETTINGS: &str = "finetune.toml";

/// The file of an identity in the run folder.
pub(super) const IDENTITY: &str = "identity.json";

/// What a run is made from: it can only go on with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The task.
    pub task: String,
    /// [`weights_hash`] of the pre-trained model.
    pub from: String,
    /// BLAKE3 of all examples.
    pub examples: String,
    /// All settings, as TOML; nothing in runs of older programs.
    #[serde(default)]
    pub settings: String,
}

impl Identity {
    /// What a run is made from that starts now.
    pub fn new(task: &dyn Task, gpt: &Gpt, data: &TaskData, settings: &Settings) -> Self {
        Self {
            task: task.name().into(),
            from: weights_hash(gpt.parameters()),
            examples: examples_hash(data),
            settings: settings.to_toml(),
        }
    }

    /// Checks that the run in `path`, which was started from this, can go on with what there is `now`.
    /// # Errors
    /// If model, task, examples or settings are others.
    pub fn check(&self, path: &Path, now: &Self, settings: &Settings) -> Result<(), Error> {
        let sources = |of: &Self| [of.task.clone(), of.from.clone(), of.examples.clone()];
        if sources(self) != sources(now) {
            let problem = "was started from another model, task or examples";
            return Err(Error::incompatible(path, problem));
        }
        // Not by the file for people, which they may have changed since.
        let started = match &*self.settings {
            "" => read_settings(path)?,
            text => Settings::from_toml(text, &path.join(IDENTITY), tasks::task(&self.task)?)?,
        };
        let differences = settings.differences(&started);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherSettings { path: path.into(), differences })
    }
}

/// The settings of the run in `path`.
/// # Errors
/// If there is no fine-tuning run, or it cannot be read.
pub fn read_settings(path: &Path) -> Result<Settings, Error> {
    let file = path.join(SETTINGS);
    let text = files::read_text(&file, SMALL)?;
    let identity: Identity = run::json::read(&path.join(IDENTITY))?;
    let task = tasks::task(&identity.task)?;
    Settings::from_toml(&text, &file, task)
}

/// [`examples_hash`] of those that the run in `path` was started with.
/// # Errors
/// If there is no fine-tuning run, or it cannot be read.
pub(crate) fn read_examples(path: &Path) -> Result<String, Error> {
    Ok(run::json::read::<Identity>(&path.join(IDENTITY))?.examples)
}

/// BLAKE3 over all examples with their parts.
pub(super) fn examples_hash(data: &TaskData) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |name: &str, examples: &[Example]| {
        for text in [name, &format!("{examples:?}")] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
    };
    for stage in &data.stages {
        part(&stage.name, &stage.train);
        part(&stage.name, &stage.dev);
    }
    part("train", &data.train);
    part("dev", &data.dev);
    part("test", &data.test);
    hasher.finalize().to_hex().to_string()
}
