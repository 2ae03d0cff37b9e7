//! `mediswift export hf`.

use std::path::PathBuf;

use mediswift_model::interchange::hf;

use super::outcome::outcome;
use crate::trained::Which;
use crate::verb::{Context, Outcome, Verb};

/// Write a folder that Hugging Face's transformers loads as a GPT2LMHeadModel
///
/// The folder gets config.json, model.safetensors (dense: weights that were left out are 0),
/// masks.safetensors (which weights exist, if the model is sparse), soft_prompt.safetensors (if it has
/// one), the tokenizer's files and a model card. `import hf` makes it a run again, bit for bit.
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift export hf run --out for-transformers")]
pub struct Hf {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Replace an earlier export
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    which: Which,
}

impl Verb for Hf {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let exported = hf::export(&self.run, self.which.choice(), &self.out, self.force)?;
        Ok(outcome(&self.out, &exported))
    }
}
