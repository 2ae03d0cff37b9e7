//! What the verbs that use a trained model have in common.

use std::path::Path;

use mediswift_model::checkpoint::Choice;
use mediswift_model::run::LoadedModel;

use crate::output;

/// What every generated text comes with.
pub const DISCLAIMER: &str = "note: for research only, not for clinical use: the text may be \
                              wrong or harmful and must not inform the care of anyone";

/// What those are told who leave out a soft prompt.
pub const HAS_SOFT_PROMPT: &str = "note: the model was fine-tuned with a soft prompt, and does its \
                                   task only with --soft-prompt";

/// Which checkpoint of a run.
#[derive(Clone, Copy, clap::Args)]
pub struct Which {
    /// Take the checkpoint after this many optimiser steps instead of the newest
    #[arg(long, value_name = "N")]
    step: Option<u64>,

    /// Refuse a run whose newest checkpoint is damaged, rather than take an older one
    #[arg(long, conflicts_with = "step")]
    strict: bool,
}

impl Which {
    /// The choice that was made.
    pub fn choice(self) -> Choice {
        match self.step {
            Some(step) => Choice::Step(step),
            None => newest(self.strict),
        }
    }
}

/// The newest checkpoint; if it is damaged, an older one unless that would be lax.
pub fn newest(strict: bool) -> Choice {
    if strict { Choice::Newest } else { Choice::NewestWhole }
}

/// Loads a run, and warns of newer checkpoints that cannot be used.
pub fn load(folder: &Path, which: Which) -> anyhow::Result<LoadedModel> {
    let model = LoadedModel::load(folder, which.choice())?;
    warn_of(&model.skipped, model.step);
    Ok(model)
}

/// Says which model is used where others were passed over, and why.
pub fn warn_of(skipped: &[String], step: u64) {
    skipped.iter().for_each(|problem| output::warning(&format!("passed over: {problem}")));
    if !skipped.is_empty() {
        output::warning(&format!("the model is that after step {step}; --strict refuses instead"));
    }
}
