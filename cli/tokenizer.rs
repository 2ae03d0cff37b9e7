//! `mediswift tokenizer …`: texts to token ids and back.

mod decode;
mod encode;
mod export;
mod import;
mod kind;
mod moses;
mod stdin;
mod train;

pub use kind::Kind;

use crate::verb::{Context, Outcome, Verb, verbs};

verbs! {
    enum TokenizerVerb {
        Train(train::Train),
        Encode(encode::Encode),
        Decode(decode::Decode),
        Import(import::Import),
        Export(export::Export),
        Moses(moses::Moses),
        Demoses(moses::Demoses),
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
