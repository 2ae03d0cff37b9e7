//! `mediswift export gguf`.

use std::path::PathBuf;

use mediswift_kernels::Precision;
use mediswift_model::interchange::gguf;

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
  mediswift export gguf run --out half.gguf --dtype bf16")]
pub struct Gguf {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// What weights of matrices are rounded to: f32 (exact), bf16 or f16
    #[arg(long, value_name = "P", default_value = "f32")]
    dtype: Precision,

    /// The same by the number of bits: 32 for f32, 16 for f16
    #[arg(long, value_name = "N", value_parser = of_bits, conflicts_with = "dtype")]
    bits: Option<Precision>,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    which: Which,
}

impl Verb for Gguf {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        refuse_to_overwrite(&self.out, self.force)?;
        let dtype = self.bits.unwrap_or(self.dtype);
        let exported = gguf::export(&self.run, self.which.choice(), &self.out, dtype)?;
        Ok(outcome(&self.out, &exported))
    }
}

/// The value of `--bits`.
fn of_bits(text: &str) -> Result<Precision, String> {
    match text {
        "32" => Ok(Precision::F32),
        "16" => Ok(Precision::F16),
        _ => Err("choose 32 or 16".to_string()),
    }
}
