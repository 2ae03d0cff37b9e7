//! From text to batches: everything that happens before the first matrix product.
//!
//! Data moves one way through the modules, in this order:
//!
//! | module | turns | into |
//! |---|---|---|
//! | [`synth`] | a seed | a synthetic corpus of abstracts, so that everything runs offline |
//! | `fetch` (a feature) | numbers of files | PubMed's files on disk, checked |
//! | [`source`] | PubMed XML, JATS, JSONL, text (plain, gzip, zstd, tar) | records |
//! | [`clean`] | records | documents, or reasons against them |
//! | [`tokenizer`] | texts | token ids (byte-level or Moses BPE), and back |
//! | [`shard`] | token ids | self-describing, checksummed files |
//! | [`prepare`](mod@prepare) | files | a dataset folder: tokenizer, train and validation shards |
//! | [`manifest`] | | the `dataset.json` that says what such a folder holds |
//! | [`batches`] | a dataset folder | shuffled context windows, seekable to any position |
//!
//! Two promises hold throughout. **Deterministic**: the same inputs and seed give the same bytes,
//! whatever the number of threads. **Loud**: a file that is truncated, corrupt, foreign or
//! malformed is reported with the path, the place, what was found and what to do: as an error, or,
//! for inputs among others, in the account of what was dropped.

pub mod batches;
pub mod clean;
mod dataset;
pub mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod manifest;
pub mod prepare;
pub mod shard;
pub mod source;
mod split;
pub mod synth;
mod texts;
pub mod tokenizer;

pub use batches::{Batches, Position, Sequence, sequential};
pub use dataset::Dataset;
pub use error::DataError;
pub use prepare::prepare;
pub use split::Split;
pub use texts::texts;
pub use tokenizer::Tokenizer;
