//! `mediswift export gguf`.

use std::path::PathBuf;

use mediswift_model::interchange::gguf::{self, Precision};

use super::outcome::outcome;
use crate::trained::Which;
use crate::verb::{Context, Outcome, Verb, refuse_to_overwrite};

/// Write one GGUF file, which llama.cpp and its kin load
///
/// The model is dense there: weights that were left out are 0. GGUF has no Moses tokenizer, so a
/// moses-bpe model goes without its tokenizer; it has no place for a soft prompt, and a model with one is
/// refused.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift export gguf run --out model.gguf
  mediswift export gguf run --out half.gguf --bits 16")]
pub struct Gguf {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Bits of each weight of a matrix: 32 (exact) or 16 (rounded)
    #[arg(long, value_name = "N", default_value = "32", value_parser = precision)]
    bits: Precision,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    which: Which,
}

impl Verb for Gguf {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        refuse_to_overwrite(&self.out, self.force)?;
        let exported = gguf::export(&self.run, self.which.choice(), &self.out, self.bits)?;
        Ok(outcome(&self.out, &exported))
    }
}

/// The value of `--bits`.
fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "32" => Ok(Precision::F32),
        "16" => Ok(Precision::F16),
        _ => Err("choose 32 or 16".to_string()),
    }
}
