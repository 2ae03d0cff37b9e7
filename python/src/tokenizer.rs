//! [`Tokenizer`]: texts to token ids and back.

use std::path::PathBuf;
use std::sync::Arc;

use mediswift::data::tokenizer::{Kind, moses};
use mediswift::model::run::LoadedModel;
use pyo3::prelude::*;

use crate::arrays::wrong;
use crate::error::IntoException;
use crate::threads::{compute, compute_long};

/// Turns texts into token ids, and back.
#[pyclass(frozen, module = "mediswift")]
pub struct Tokenizer(Source);

enum Source {
    Own(Arc<mediswift::Tokenizer>),
    Model(Arc<LoadedModel>),
}

impl Tokenizer {
    /// That of a model.
    pub fn of(model: &Arc<LoadedModel>) -> Self {
        Self(Source::Model(Arc::clone(model)))
    }

    /// The library's.
    pub fn get(&self) -> &mediswift::Tokenizer {
        match &self.0 {
            Source::Own(tokenizer) => tokenizer,
            Source::Model(model) => &model.tokenizer,
        }
    }

    fn own(tokenizer: mediswift::Tokenizer) -> Self {
        Self(Source::Own(Arc::new(tokenizer)))
    }
}

#[pymethods]
impl Tokenizer {
    /// Loads a `tokenizer.json`, or the one in the folder of a run or a dataset.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let loaded = py.detach(|| mediswift::Tokenizer::load(&path));
        loaded.map(Self::own).map_err(IntoException::into_exception)
    }

    /// Imports GPT-2's or BioGPT's vocabulary: `vocabulary` is an `encoder.json`, `vocab.json` or `dict.txt`, `merges`
    /// a `vocab.bpe`, `merges.txt` or `bpecodes`.
    #[staticmethod]
    fn import_from(py: Python<'_>, vocabulary: PathBuf, merges: PathBuf) -> PyResult<Self> {
        let imported = py.detach(|| mediswift::Tokenizer::import(&vocabulary, &merges));
        imported.map(Self::own).map_err(IntoException::into_exception)
    }

    /// Learns a vocabulary of at most `vocab_size` tokens from texts, joining pairs that occur at least
    /// `min_frequency` times. `kind` is `byte-bpe`, as GPT-2 has it, or `moses-bpe`, as the paper.
    #[staticmethod]
    #[pyo3(signature = (texts, vocab_size, *, kind = "byte-bpe", min_frequency = 2))]
    fn train(
        py: Python<'_>,
        texts: Vec<String>,
        vocab_size: usize,
        kind: &str,
        min_frequency: u64,
    ) -> PyResult<Self> {
        let kind = match kind {
            "byte-bpe" => Kind::ByteBpe,
            "moses-bpe" => Kind::MosesBpe(moses::Options::default()),
            _ => {
                let problem = format!("is '{kind}', but must be byte-bpe or moses-bpe");
                return Err(wrong("kind", problem));
            }
        };
        let learn = |_: &_| {
            let texts = texts.into_iter().map(Ok);
            mediswift::Tokenizer::train(kind, texts, vocab_size, min_frequency)
        };
        compute_long(py, learn)?.map(Self::own).map_err(IntoException::into_exception)
    }

    /// Writes a `tokenizer.json`.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.get().save(&path)).map_err(IntoException::into_exception)
    }

    /// The ids of a text. Special tokens that are typed in it are ordinary characters.
    fn encode(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        compute(py, |_| self.get().encode(text))
    }

    /// The ids of many texts, in parallel.
    fn encode_batch(&self, py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<Vec<u32>>> {
        compute(py, |pool| pool.install(|| self.get().encode_batch(&texts)))
    }

    /// The text of ids.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        compute(py, |_| self.get().decode(&ids))?.map_err(IntoException::into_exception)
    }

    /// The token strings of ids, as files write them.
    fn tokens(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<Vec<&str>> {
        compute(py, |_| self.get().tokens(&ids))?.map_err(IntoException::into_exception)
    }

    /// Every id is below it.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.get().vocab_size()
    }

    /// The id of the token between documents.
    #[getter]
    fn end_of_text(&self) -> u32 {
        self.get().end_of_text()
    }

    fn __repr__(&self) -> String {
        format!("Tokenizer({}, {} tokens)", self.get().kind().name(), self.get().vocab_size())
    }
}
