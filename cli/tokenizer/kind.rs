//! Which tokenizer to train.

use mediswift_data::tokenizer;

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
