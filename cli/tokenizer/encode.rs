//! `mediswift tokenizer encode`.

use std::path::PathBuf;

use serde_json::json;

use super::stdin;
use crate::verb::{Context, Outcome, Verb};

/// Turn a text into token ids
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift tokenizer encode --tokenizer dataset \"Aspirin reduces fever.\"
  mediswift tokenizer encode --tokenizer tokenizer.json < text.txt")]
pub struct Encode {
    /// A tokenizer.json, or a folder that holds one
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,

    /// The text; read from stdin if left out, a final newline included
    text: Option<String>,
}

impl Verb for Encode {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let tokenizer = mediswift_data::Tokenizer::load(&self.tokenizer)?;
        let text = self.text.map_or_else(stdin::read, Ok)?;
        let ids = tokenizer.encode(&text);
        let words: Vec<String> = ids.iter().map(ToString::to_string).collect();
        Ok(Outcome::new(
            json!({ "ids": ids, "tokens": tokenizer.tokens(&ids)?, "vocab_size": tokenizer.vocab_size() }),
            words.join(" ") + "\n",
        ))
    }
}
