//! [`LoadedModel`]: a run's model and the tokenizer that belongs to it.

use super::folder::{checkpoints, read_config};
use super::tokenizer::load_tokenizer;
use crate::checkpoint::{self, Checkpoint, Choice, Chosen};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use mediswift_data::Tokenizer;
use std::path::Path;

/// The model of a run, from one of its checkpoints, with its tokenizer.
pub struct LoadedModel {
    /// Settings of the run.
    pub config: Config,
    /// Optimiser steps before the checkpoint.
    pub step: u64,
    /// The model.
    pub gpt: Gpt,
    /// The tokenizer that made the tokens it was trained on.
    pub tokenizer: Tokenizer,
    /// One warning for each newer checkpoint that was passed over because it cannot be used.
    pub skipped: Vec<String>,
}

/// Loads the newest whole checkpoint of the run in `path`.
/// # Errors
/// As for [`LoadedModel::load`].
pub fn load_model(path: &Path) -> Result<LoadedModel, Error> {
    LoadedModel::load(path, Choice::default())
}

impl LoadedModel {
    /// Loads a checkpoint of the run in `path`.
    /// # Errors
    /// If there is no run or no such checkpoint, or it is damaged; if the run's tokenizer is missing,
    /// damaged, or not the one of the checkpoint.
    pub fn load(path: &Path, choice: Choice) -> Result<Self, Error> {
        read_config(path)?;
        let read = |checkpoint: &Checkpoint| checkpoint.model(&checkpoint.config);
        let chosen = checkpoint::choose(&checkpoints(path), choice, read)?;
        let Some(Chosen { checkpoint, content: gpt, skipped }) = chosen else {
            return Err(Error::damaged(path, "holds no complete checkpoint"));
        };
        let tokenizer = load_tokenizer(path, &checkpoint.manifest.data.tokenizer)?;
        let (tokens, vocabulary) = (tokenizer.vocab_size(), gpt.size().vocabulary);
        if tokens > vocabulary {
            let problem = format!(
                "its tokenizer has {tokens} tokens, its model only {vocabulary}: the files belong to \
                 different runs"
            );
            return Err(Error::incompatible(path, problem));
        }
        let step = checkpoint.manifest.step;
        Ok(Self { config: checkpoint.config, step, gpt, tokenizer, skipped })
    }
}
