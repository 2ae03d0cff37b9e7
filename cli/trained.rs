//! What the verbs that use a trained model have in common.

use std::path::Path;

use mediswift_data::Tokenizer;
use mediswift_model::Gpt;
use mediswift_model::run::{self, Loaded};

use crate::output;

/// What every generated text comes with.
pub const DISCLAIMER: &str = "note: for research only, not for clinical use: the text may be \
                              wrong or harmful and must not inform the care of anyone";

/// The model of a run's newest complete checkpoint, with its tokenizer.
pub struct Trained {
    /// The model.
    pub gpt: Gpt,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Trained {
    /// Loads a run, and warns of newer checkpoints that cannot be used.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let Loaded { gpt, skipped, .. } = run::load_model(folder)?;
        skipped.iter().for_each(|warning| output::warning(warning));
        let tokenizer = Tokenizer::load(&run::tokenizer_path(folder))?;
        let (tokens, vocabulary) = (tokenizer.vocab_size(), gpt.size().vocabulary);
        anyhow::ensure!(
            tokens <= vocabulary,
            "{}: its tokenizer has {tokens} tokens, its model only {vocabulary}: the files belong \
             to different runs",
            folder.display()
        );
        Ok(Self { gpt, tokenizer })
    }
}
