//! The two kinds of tokenizer.

use super::{byte_level, moses};

/// The token between documents of byte-bpe.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The token between documents of moses-bpe.
pub(crate) const END_OF_SENTENCE: &str = "</s>";

/// The reserved tokens of moses-bpe, as fairseq and so BioGPT number them.
pub(crate) const MOSES_SPECIALS: [&str; 4] = ["<s>", "<pad>", END_OF_SENTENCE, UNKNOWN_TOKEN];

/// What stands for characters without a token, in moses-bpe.
pub(crate) const UNKNOWN_TOKEN: &str = "<unk>";

/// The mark of a token that ends a word, in moses-bpe.
pub(crate) const END_OF_WORD: &str = "</w>";

/// How a tokenizer makes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Byte-level BPE as GPT-2 has it.
    ByteBpe,
    /// Moses words, then BPE of their characters, as the paper and BioGPT.
    MosesBpe(moses::Options),
}

impl Kind {
    /// The kind's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteBpe => "byte-bpe",
            Self::MosesBpe(_) => "moses-bpe",
        }
    }

    /// The token between documents.
    pub(crate) fn end_token(self) -> &'static str {
        match self {
            Self::ByteBpe => END_OF_TEXT,
            Self::MosesBpe(_) => END_OF_SENTENCE,
        }
    }

    /// Calls `word` with every word of `text`.
    pub(crate) fn for_each_word(self, text: &str, mut word: impl FnMut(&str)) {
        match self {
            Self::ByteBpe => byte_level::words(text).for_each(word),
            Self::MosesBpe(options) => {
                let words = moses::tokenize(text, &options);
                words.split(' ').filter(|w| !w.is_empty()).for_each(&mut word);
            }
        }
    }
}
