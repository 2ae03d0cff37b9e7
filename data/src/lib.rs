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
//! | [`Batches`] | a dataset folder | shuffled context windows, seekable to any position |
//!
//! Two promises hold throughout. **Deterministic**: the same inputs and seed give the same bytes,
//! whatever the number of threads. **Loud**: a file that is truncated, corrupt, foreign or
//! malformed is reported with the path, the place, what was found and what to do: as an error, or,
//! for inputs among others, in the account of what was dropped.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! use mediswift_data::{Batches, Dataset, Preparation, Split, prepare, synth};
//!
//! let folder = tempfile::tempdir()?;
//! // Documents: a file of them, here invented ones.
//! let corpus = folder.path().join("corpus.jsonl");
//! synth::write(&corpus, 1, 100, &mut |_| ControlFlow::Continue(()))?;
//! // A tokenizer learned from them, and shards of their tokens.
//! let preparation = Preparation {
//!     validation_fraction: 0.1,
//!     ..Preparation::new(vec![corpus], folder.path().join("dataset"))
//! };
//! let manifest = prepare(&preparation, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(manifest.documents, 100);
//! // Windows of 64 tokens in an order that the seed 7 decides.
//! let dataset = Arc::new(Dataset::open(&preparation.out)?);
//! let mut batches = Batches::new(Arc::clone(&dataset), Split::Train, 64, 7)?;
//! let sequence = batches.next_sequence()?;
//! assert_eq!(sequence.inputs[1..], sequence.targets[..63]);
//! println!("{}", dataset.tokenizer()?.decode(&sequence.inputs)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batches;
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
mod statistics;
pub mod synth;
mod texts;
pub mod tokenizer;

pub use batches::{Batches, Position, Sequence, sequential};
pub use dataset::Dataset;
pub use error::DataError;
pub use prepare::{Preparation, TokenizerSource, prepare};
pub use split::Split;
pub use statistics::SplitStatistics;
pub use texts::texts;
pub use tokenizer::Tokenizer;
