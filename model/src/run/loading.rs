//! [`LoadedModel`]: a run's newest model and the tokenizer that belongs to it.

use super::folder::{checkpoints, read_config};
use super::tokenizer::load_tokenizer;
use crate::checkpoint::{self, Latest};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use mediswift_data::Tokenizer;
use std::path::Path;

/// The model of a run's newest complete checkpoint, with its tokenizer.
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

/// Loads the newest complete checkpoint of the run in `path`.
/// # Errors
/// If there is no run or no such checkpoint, or it is damaged; if the run's tokenizer is missing,
/// damaged, or not the one of the checkpoint.
pub fn load_model(path: &Path) -> Result<LoadedModel, Error> {
    read_config(path)?;
    let Latest { checkpoint, skipped } = checkpoint::latest(&checkpoints(path))?;
    let Some(checkpoint) = checkpoint else {
        let found = if skipped.is_empty() { "none".into() } else { skipped.join("; ") };
        let problem = format!("holds no complete checkpoint (found: {found})");
        return Err(Error::damaged(path, problem));
    };
    let gpt = checkpoint.model(&checkpoint.config)?;
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
    Ok(LoadedModel { config: checkpoint.config, step, gpt, tokenizer, skipped })
}
