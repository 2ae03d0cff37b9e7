//! `mediswift tokenizer export`.

use std::path::PathBuf;

use serde_json::json;

use crate::verb::{Context, Exit, Outcome, Verb};

/// Write the files that Python's transformers loads
///
/// The folder gets vocab.json, merges.txt, tokenizer_config.json and tokenizer.json: a
/// BioGptTokenizer for moses-bpe, a GPT2Tokenizer for byte-bpe.
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift tokenizer export --tokenizer dataset --out for-transformers")]
pub struct Export {
    /// A tokenizer.json, or a folder that holds one
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,

    /// The folder to write to; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Verb for Export {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        if self.out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(
                Exit::usage(format!("{}: the folder is not empty", self.out.display())).into()
            );
        }
        let tokenizer = mediswift_data::Tokenizer::load(&self.tokenizer)?;
        tokenizer.export(&self.out)?;
        Ok(Outcome::new(
            json!({ "path": self.out.display().to_string(), "vocab_size": tokenizer.vocab_size() }),
            format!("{}: {} tokens\n", self.out.display(), tokenizer.vocab_size()),
        ))
    }
}
