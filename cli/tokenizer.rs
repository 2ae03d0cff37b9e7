//! `mediswift tokenizer …`: texts to token ids and back.

mod decode;
mod encode;
mod export;
mod import;
mod moses;
mod train;

use std::io::Read;

use anyhow::Context as _;
use mediswift_data::tokenizer;

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

/// All of stdin, exactly as it comes.
fn stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("stdin, byte {at}: not UTF-8; convert the text to UTF-8")
    })
}

/// Kinds of tokenizer that can be trained.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Byte-level BPE as GPT-2 has it: any text can be encoded and comes back unchanged
    ByteBpe,
    /// Moses words, then BPE of their characters, as the paper and BioGPT
    MosesBpe,
}

impl Kind {
    /// The kind with its default options.
    pub fn with_defaults(self) -> tokenizer::Kind {
        match self {
            Self::ByteBpe => tokenizer::Kind::ByteBpe,
            Self::MosesBpe => tokenizer::Kind::MosesBpe(tokenizer::moses::Options::default()),
        }
    }

    /// Tokens in the vocabulary, unless asked otherwise.
    pub fn vocab_size(self) -> usize {
        match self {
            Self::ByteBpe => 8192,
            Self::MosesBpe => tokenizer::PAPER_VOCAB_SIZE,
        }
    }
}
