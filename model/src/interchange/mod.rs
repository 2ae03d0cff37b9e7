//! Interchange: models as other programs keep them.
//!
//! * [`hf`]: the folder of a GPT-2 that Hugging Face's `transformers` loads, both ways;
//! * [`gguf`]: the one file that llama.cpp and its kin load, one way.
//!
//! The network is GPT-2's, so only names, order and orientation of the numbers differ: [`crate::architecture`]
//! has the names. Both formats are dense; the masks of a sparse model travel in a file of their own.

mod floats;
pub mod gguf;
pub mod hf;

use crate::checkpoint::Choice;
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::run::{self, LoadedModel, Origin};
use mediswift_data::Tokenizer;
use mediswift_engine::{Shape, Tensor};
use mediswift_kernels::CsrMatrix;
use std::path::Path;
use std::sync::Arc;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Tensors of weights.
    pub tensors: usize,
    /// Tensors of masks; a dense model has none.
    pub masks: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Optimiser steps before the checkpoint that was exported.
    pub step: u64,
    /// Warnings about newer checkpoints that were passed over.
    pub skipped: Vec<String>,
}

/// All that an export needs of a run.
struct Source {
    config: Config,
    step: u64,
    gpt: Gpt,
    tokenizer: Tokenizer,
    origin: Option<Origin>,
    skipped: Vec<String>,
}

impl Source {
    /// # Errors
    /// If there is no run or no complete checkpoint, or a file of theirs is damaged.
    fn load(path: &Path, choice: Choice) -> Result<Self, Error> {
        let loaded = LoadedModel::load(path, choice)?;
        let LoadedModel { config, step, gpt, tokenizer, skipped } = loaded;
        Ok(Self { config, step, gpt, tokenizer, origin: run::read_origin(path)?, skipped })
    }
}

/// Every token needs an embedding; there may be room for more.
fn check_vocabulary(tokenizer: &Tokenizer, vocabulary: usize, path: &Path) -> Result<(), Error> {
    let tokens = tokenizer.vocab_size();
    if tokens > vocabulary {
        let problem = format!("it has {tokens} tokens, but the model has room for {vocabulary}");
        return Err(Error::incompatible(path, format!("{problem}: they do not belong together")));
    }
    Ok(())
}

/// The elements of a matrix with its zeros, row by row.
fn dense(tensor: Tensor<'_>) -> Vec<f32> {
    let values = tensor.values.to_vec();
    match tensor.shape {
        Shape::Sparse(pattern) => {
            CsrMatrix::new(Arc::clone(pattern), values).expect("one value per place").to_dense()
        }
        _ => values,
    }
}

/// A `[rows, columns]` matrix as `[columns, rows]`.
fn transposed<T: Copy + Default>(matrix: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut turned = vec![T::default(); matrix.len()];
    for (row, elements) in matrix.chunks_exact(columns).enumerate() {
        for (column, &element) in elements.iter().enumerate() {
            turned[column * rows + row] = element;
        }
    }
    turned
}
