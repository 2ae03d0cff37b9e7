//! Texts ↔ token ids, in two kinds.
//!
//! | kind | words | byte-pair encoding of | any text comes back |
//! |---|---|---|---|
//! | byte-bpe | GPT-2's (`byte_level`) | bytes | exactly |
//! | moses-bpe | Moses' ([`moses`]), as the paper and BioGPT | characters, with end-of-word marks | up to white space, if its characters are known |
//!
//! Both encode a word once and remember it ([`Encoder`]), which is why they are fast. The file is a
//! `tokenizer.json` (`file`); vocabularies of GPT-2 and BioGPT are read too (`foreign`).
//!
//! One special token separates documents: [`END_OF_TEXT`], or `</s>` with moses-bpe. Only the data
//! pipeline may emit its id: a document in which someone typed those characters gets them encoded
//! as plain text.

mod byte_level;
mod encoder;
mod file;
mod foreign;
mod kind;
mod learn;
mod merge;
pub mod moses;
mod tables;
mod train;
mod trained;
mod vocabulary;

pub use encoder::Encoder;
pub use kind::{END_OF_TEXT, Kind};
pub use trained::{FILE_NAME, Tokenizer};

/// Vocabulary of MediSwift and BioGPT (paper, §3.1).
pub const PAPER_VOCAB_SIZE: usize = 42_384;
