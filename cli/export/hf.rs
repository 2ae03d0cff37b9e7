//! `mediswift export hf`.

use std::path::PathBuf;

use mediswift_kernels::Precision;
use mediswift_model::interchange::hf;

use super::outcome::outcome;
use crate::trained::Which;
use crate::verb::{Context, Outcome, Verb};

/// Write a folder that Hugging Face's transformers loads as a GPT2LMHeadModel
///
/// The folder gets config.json, model.safetensors (dense: weights that were left out are 0),
/// masks.safetensors (which weights exist, if the model is sparse), soft_prompt.safetensors (if it has
/// one), the tokenizer's files and a model card. `import hf` makes it a run again, in f32 bit for bit.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift export hf run --out for-transformers
  mediswift export hf run --out half --dtype bf16")]
pub struct Hf {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// What weights are rounded to: f32 (exact), bf16 or f16
    #[arg(long, value_name = "P", default_value = "f32")]
    dtype: Precision,

    /// Replace an earlier export
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    which: Which,
}

impl Verb for Hf {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let (which, dtype) = (self.which.choice(), self.dtype);
        let exported = hf::export(&self.run, which, &self.out, dtype, self.force)?;
        Ok(outcome(&self.out, &exported))
    }
}
