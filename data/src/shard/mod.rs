//! Token shards: files of token ids that describe and check themselves.
//!
//! Layout, all integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `MSWTOK1\0` |
//! | 8..12 | format version, 1 |
//! | 12..16 | bytes per token: 2 when the vocabulary fits 16 bits, else 4 |
//! | 16..24 | tokens |
//! | 24..32 | documents |
//! | 32..40 | vocabulary size |
//! | 40..44 | id of the end token that closes every document |
//! | 44..48 | CRC-32 of everything after the header |
//! | 48..80 | BLAKE3 of the tokenizer |
//! | 80..124 | zero |
//! | 124..128 | CRC-32 of bytes 0..124 |
//! | 128.. | the tokens, zero-padded to a multiple of 8 bytes |
//! | …end | document index: for each document its first token, as u64 |
//!
//! A shard under its final name is whole: it is written under another name, synced and renamed.
//! Opening one reads it once to check the sums, so damage is found before training and not in it.

mod header;
mod reader;
mod writer;

pub use header::Header;
pub use reader::Shard;
pub(crate) use writer::ShardWriter;
