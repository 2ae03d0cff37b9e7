//! [`import_run`]: a run folder of a model from elsewhere.

use super::card::{CARD, NOT_TRAINED_ON, model_card};
use super::folder::{CONFIG, check_unused, checkpoints};
use super::origin::{ORIGIN, Origin};
use super::{json, tokenizer_path};
use crate::checkpoint::{self, DataState, Snapshot, weights_hash};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use mediswift_data::Tokenizer;
use mediswift_files as files;
use std::path::Path;

/// Makes a run of a model from elsewhere, in a folder that must not exist or be empty: the settings
/// of `config`, `tokenizer`, and the parameters of `gpt` as the checkpoint of step 0. The run appears
/// when it is complete.
/// # Errors
/// If the folder holds anything or cannot be written.
pub(crate) fn import_run(
    path: &Path,
    config: &Config,
    gpt: &Gpt,
    tokenizer: &Tokenizer,
    source: impl Into<String>,
) -> Result<Origin, Error> {
    files::clear_beside(path);
    if path.exists() {
        check_unused(path)?;
    }
    let parameters = gpt.parameters();
    let origin = Origin { source: source.into(), weights_hash: weights_hash(parameters) };
    let data = DataState { tokenizer: tokenizer.hash(), ..Default::default() };
    files::write_folder(path, |folder| {
        files::write(&folder.join(CONFIG), config.to_toml().as_bytes())?;
        tokenizer.save(&tokenizer_path(folder))?;
        json::write(&folder.join(ORIGIN), &origin)?;
        let card = model_card(config, Some(&origin), NOT_TRAINED_ON);
        files::write(&folder.join(CARD), card.as_bytes())?;
        let snapshot = Snapshot {
            config,
            step: 0,
            skipped: 0,
            loss_scale: None,
            masks: None,
            parameters,
            moments: None,
            data,
        };
        checkpoint::save(&checkpoints(folder), &snapshot)?;
        Ok(origin)
    })
}
