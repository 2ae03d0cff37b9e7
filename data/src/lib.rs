//! From text to batches: everything that happens before the first matrix product.
//!
//! Data moves one way through the modules, in this order:
//!
//! | module | turns | into |
//! |---|---|---|
//! | [`synth`] | a seed | a synthetic corpus of abstracts, so that everything runs offline |
//! | [`documents`] | JSONL files (plain, gzip, zstd) | one text per document |
//! | [`tokenizer`] | texts | token ids (byte-level BPE), and back |
//! | [`shard`] | token ids | self-describing, checksummed, memory-mapped files |
//! | [`prepare`](mod@prepare) | JSONL files | a dataset folder: tokenizer, train and validation shards |
//! | [`manifest`] | | the `dataset.json` that says what such a folder holds |
//! | [`batches`] | a dataset folder | shuffled context windows, seekable to any position |
//!
//! Two promises hold throughout. **Deterministic**: the same inputs and seed give the same bytes,
//! whatever the number of threads. **Loud**: a file that is truncated, corrupt, foreign or
//! malformed is an error that names the path, the place, what was found and what to do, and never
//! a shorter data set.

mod commit;

pub mod batches;
pub mod documents;
pub mod error;
pub mod manifest;
pub mod prepare;
pub mod shard;
pub mod synth;
pub mod tokenizer;

pub use batches::{Batches, Dataset, Position, Sequence, Split, sequential};
pub use commit::{write_atomically, write_atomically_with};
pub use error::DataError;
pub use prepare::prepare;
pub use tokenizer::Tokenizer;
