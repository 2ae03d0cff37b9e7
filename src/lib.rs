//! Train sparse GPTs faster on ordinary CPUs: the whole engine as one library.
//!
//! | module | what it knows |
//! |---|---|
//! | [`kernels`] | sparse patterns, the products of a linear layer on every instruction set, strategies, probes |
//! | [`engine`] | activations, parameters, the tape and its operators |
//! | [`data`] | texts to documents, tokens, shards and batches |
//! | [`model`] | GPTs: settings, training, checkpoints, fine-tuning, text, interchange |
//!
//! What most programs start with stands here as well: [`Session`] is a training run in a folder, which
//! advances step by step; [`Optimisation`] is the same without folder and dataset. Whatever reads what
//! comes from outside returns a [`Result`] with an error of its crate, such as [`model::Error`].
//!
//! A sparse layer that forgets three weights in four, on a batch of one tile of tokens:
//!
//! ```
//! use std::sync::Arc;
//!
//! use mediswift::kernels::isa::IsaKind;
//! use mediswift::kernels::ops::{Initial, LayerPlan};
//! use mediswift::kernels::sparse::mask;
//! use mediswift::{LANES, LinearLayer, Precision};
//!
//! let (rows, columns) = (64, 128);
//! let pattern = Arc::new(mask::uniform_random(rows, columns, 0.75, 1)?);
//! let isa = IsaKind::active()?;
//! let plan = LayerPlan::of(Precision::F32, pattern.density(), isa);
//! let mut layer = LinearLayer::sparse(isa, pattern.clone(), plan);
//!
//! let weights = vec![0.1; pattern.nnz()];
//! layer.refresh(&weights);
//! let x = vec![1.0; columns * LANES];
//! let mut y = vec![0.0; rows * LANES];
//! layer.forward(&weights, &x, &mut y, Initial::Zero);
//! assert!((y[0] - 0.1 * pattern.row(0).len() as f32).abs() < 1e-4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The folder `examples/` goes on from here: training on token ids of one's own, an operator, a mask
//! and a dataset of one's own. For the library alone, without what the command line needs, depend on it
//! with `default-features = false`; `baseline` and `fetch` are features of their own.
#![warn(missing_docs)]

#[doc(inline)]
pub use mediswift_data as data;
#[doc(inline)]
pub use mediswift_engine as engine;
#[doc(inline)]
pub use mediswift_kernels as kernels;
#[doc(inline)]
pub use mediswift_model as model;
#[doc(inline)]
pub use mediswift_ranks as ranks;

pub use mediswift_data::{Batches, Dataset, Split, Tokenizer};
pub use mediswift_engine::{Gradients, Op, Parameters, Tape, Tiles, TokenLayout};
pub use mediswift_kernels::{CsrMatrix, LANES, LinearLayer, Precision, SparsePattern};
pub use mediswift_model::session::Session;
pub use mediswift_model::watch::{Progress, Watch};
pub use mediswift_model::{Config, Gpt, Optimisation, TokenBatch};
