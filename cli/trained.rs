//! What the verbs that use a trained model have in common.

use std::path::Path;

use mediswift_model::run::{LoadedModel, load_model};

use crate::output;

/// What every generated text comes with.
pub const DISCLAIMER: &str = "note: for research only, not for clinical use: the text may be \
                              wrong or harmful and must not inform the care of anyone";

/// What those are told who leave out a soft prompt.
pub const HAS_SOFT_PROMPT: &str = "note: the model was fine-tuned with a soft prompt, and does its \
                                   task only with --soft-prompt";

/// Loads a run, and warns of newer checkpoints that cannot be used.
pub fn load(folder: &Path) -> anyhow::Result<LoadedModel> {
    let model = load_model(folder)?;
    model.skipped.iter().for_each(|warning| output::warning(warning));
    Ok(model)
}
