//! `mediswift tokenizer decode`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::stdin;
use crate::verb::{Context, Outcome, Verb};

/// Turn token ids into a text
///
/// The text is printed exactly, without a newline of our own at the end.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift tokenizer decode --tokenizer dataset 318 72 1045
  mediswift tokenizer decode --tokenizer tokenizer.json < ids.txt")]
pub struct Decode {
    /// A tokenizer.json, or a folder that holds one
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,

    /// The ids, separated by blanks or commas, with or without brackets; read from stdin if left out
    ids: Vec<String>,
}

impl Verb for Decode {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let tokenizer = mediswift_data::Tokenizer::load(&self.tokenizer)?;
        let listed = if self.ids.is_empty() { stdin::read()? } else { self.ids.join(" ") };
        let ids = parse(&listed)?;
        let text = tokenizer.decode(&ids)?;
        Ok(Outcome::new(json!({ "text": text }), text))
    }
}

fn parse(listed: &str) -> anyhow::Result<Vec<u32>> {
    let listed = listed.trim();
    let listed = listed.strip_prefix('[').and_then(|l| l.strip_suffix(']')).unwrap_or(listed);
    listed
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().with_context(|| {
                format!("{word:?} is not a token id; ids are whole numbers from 0")
            })
        })
        .collect()
}
