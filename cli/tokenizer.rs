//! `mediswift tokenizer …`: texts to token ids and back.

mod decode;
mod encode;
mod train;

use std::io::Read;

use anyhow::Context as _;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum TokenizerVerb {
        Train(train::Train),
        Encode(encode::Encode),
        Decode(decode::Decode),
    }
}

/// Train a tokenizer, or use one
#[derive(clap::Args)]
pub struct Tokenizer {
    #[command(subcommand)]
    verb: TokenizerVerb,
}

impl Verb for Tokenizer {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.verb.run(context)
    }
}

/// All of stdin, exactly as it comes.
fn stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("stdin, byte {at}: not UTF-8; convert the text to UTF-8")
    })
}
