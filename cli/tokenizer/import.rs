//! `mediswift tokenizer import`.

use std::path::PathBuf;

use serde_json::json;

use crate::verb::{Context, Outcome, Verb, refuse_to_overwrite};

/// Take over the vocabulary of GPT-2 or BioGPT
///
/// A vocabulary is a GPT-2 encoder.json or vocab.json (byte-bpe), or a BioGPT dict.txt or vocab.json
/// (moses-bpe); merges are vocab.bpe, merges.txt or bpecodes. Ids stay what they were.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift tokenizer import encoder.json vocab.bpe --out gpt2.json
  mediswift tokenizer import biogpt_dict.txt biogpt_bpecodes.txt --out biogpt.json")]
pub struct Import {
    /// The file with the tokens
    vocabulary: PathBuf,

    /// The file with the merges
    merges: PathBuf,

    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Verb for Import {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        refuse_to_overwrite(&self.out, self.force)?;
        let tokenizer = mediswift_data::Tokenizer::import(&self.vocabulary, &self.merges)?;
        tokenizer.save(&self.out)?;
        let (kind, size) = (tokenizer.kind().name(), tokenizer.vocab_size());
        Ok(Outcome::new(
            json!({
                "vocab_size": size,
                "kind": kind,
                "tokenizer_hash": tokenizer.hash(),
                "path": self.out.display().to_string(),
            }),
            format!("{}: {kind}, {size} tokens\n", self.out.display()),
        ))
    }
}
