//! [`Model`]: a trained model, to be asked.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mediswift::model::checkpoint::Choice;
use mediswift::model::evaluate::evaluate_model;
use mediswift::model::generate::{Finish, GenerateOptions, generate_many};
use mediswift::model::run::LoadedModel;
use mediswift::model::score::{Before, Query, score_texts, score_watched};
use mediswift::model::{Error, score};
use mediswift::{Dataset, Progress};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::{narrowed, wrong};
use crate::error::IntoException;
use crate::threads::compute_long;
use crate::tokenizer::Tokenizer;

/// Texts that are scored between two looks at whether to stop.
const GROUP: usize = 64;

/// Most continuations of one call.
const MOST: usize = 1 << 16;

/// The model of a run.
#[pyclass(frozen, module = "mediswift._core")]
pub struct Model(Arc<LoadedModel>);

/// A watch that stops when it is told to.
pub fn until(stop: &AtomicBool) -> impl FnMut(Progress<'_>) -> ControlFlow<()> + Send {
    |_| match stop.load(Ordering::SeqCst) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Ids, log-likelihoods of the last of them, whether they are greedy decoding's, whether the text was cut.
type Scored<'py> = (Vec<u32>, Bound<'py, PyArray1<f64>>, bool, bool);

/// Ids, text, why it ended, tokens per second.
type Generated = (Vec<u32>, String, &'static str, f64);

#[pymethods]
impl Model {
    /// Loads the newest whole checkpoint of a run, or the one after `step` steps.
    #[staticmethod]
    fn load(py: Python<'_>, run: PathBuf, step: Option<u64>) -> PyResult<Self> {
        let choice = step.map_or(Choice::default(), Choice::Step);
        let loaded = compute_long(py, |_| LoadedModel::load(&run, choice))?;
        Ok(Self(Arc::new(loaded.map_err(IntoException::into_exception)?)))
    }

    #[getter]
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::of(&self.0)
    }

    #[getter]
    fn step(&self) -> u64 {
        self.0.step
    }

    #[getter]
    fn context(&self) -> usize {
        self.0.gpt.size().context
    }

    #[getter]
    fn parameters(&self) -> usize {
        self.0.gpt.parameters().count()
    }

    #[getter]
    fn settings(&self) -> String {
        self.0.config.to_toml()
    }

    #[getter]
    fn skipped(&self) -> Vec<String> {
        self.0.skipped.clone()
    }

    fn score<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<String>,
        before: Option<&str>,
    ) -> PyResult<Vec<Scored<'py>>> {
        let LoadedModel { gpt, tokenizer, .. } = &*self.0;
        let before = before.map_or(Before::Nothing, Before::Text);
        let scored = compute_long(py, |stop| {
            let mut scored = Vec::with_capacity(texts.len());
            for group in texts.chunks(GROUP) {
                if stop.load(Ordering::SeqCst) {
                    return Err(Error::Stopped);
                }
                let group: Vec<&str> = group.iter().map(String::as_str).collect();
                scored.extend(score_texts(gpt, tokenizer, before, &group)?);
            }
            Ok(scored)
        })?;
        let scored = scored.map_err(IntoException::into_exception)?;
        let row = |text: score::ScoredText| {
            let logprobs = text.score.tokens.iter().map(|token| token.logprob).collect();
            let logprobs = PyArray1::from_vec(py, logprobs);
            (text.ids, logprobs, text.score.is_greedy, text.score.cut)
        };
        Ok(scored.into_iter().map(row).collect())
    }

    #[allow(clippy::too_many_arguments)]
    fn generate(
        &self,
        py: Python<'_>,
        prompts: Vec<Bound<'_, PyAny>>,
        samples: usize,
        max_tokens: usize,
        temperature: f64,
        top_k: Option<usize>,
        top_p: f64,
        seed: u64,
        stop: Vec<String>,
        past_context: bool,
    ) -> PyResult<Vec<Generated>> {
        if samples == 0 || prompts.len().saturating_mul(samples) > MOST {
            let problem = format!("must be at least 1, and at most {MOST} of all prompts");
            return Err(wrong("samples", problem));
        }
        let LoadedModel { gpt, tokenizer, .. } = &*self.0;
        let prompts = prompts.iter().map(|prompt| {
            let mut ids = match prompt.extract::<&str>() {
                Ok(text) => tokenizer.encode(text),
                Err(_) => narrowed("prompt", prompt)?,
            };
            if ids.is_empty() {
                // The end of one document is where the next begins.
                ids.push(tokenizer.end_of_text());
            }
            Ok(ids)
        });
        let prompts: Vec<Vec<u32>> = prompts.collect::<PyResult<_>>()?;
        let options = GenerateOptions {
            temperature,
            top_k,
            top_p,
            seed,
            max_tokens,
            past_context,
            end_token: Some(tokenizer.end_of_text()),
            stop,
            top_logprobs: None,
        };
        let made = compute_long(py, |stop| {
            generate_many(gpt, &prompts, samples, &options, tokenizer, &mut until(stop))
        })?;
        let made = made.map_err(IntoException::into_exception)?;
        let row = |made: mediswift::model::generate::Generation| {
            (made.ids, made.text, finish(made.finish), made.tokens_per_second)
        };
        Ok(made.into_iter().map(row).collect())
    }

    /// Sum of the losses of sequences of ids in nats, and of how many tokens it is.
    fn loss(&self, py: Python<'_>, sequences: Vec<Bound<'_, PyAny>>) -> PyResult<(f64, usize)> {
        let ids = sequences.iter().map(|ids| narrowed("tokens", ids));
        let ids: Vec<Vec<u32>> = ids.collect::<PyResult<_>>()?;
        let scores = compute_long(py, |stop| {
            let queries: Vec<Query<'_>> = ids.iter().map(|ids| Query::all(ids)).collect();
            score_watched(&self.0.gpt, &queries, 1, &mut until(stop))
        })?;
        let scores = scores.map_err(IntoException::into_exception)?;
        let nats = scores.iter().map(|score| -score.loglikelihood()).sum();
        Ok((nats, scores.iter().map(|score| score.tokens.len()).sum()))
    }

    /// Loss on the validation split of a dataset folder, and of how many tokens it is.
    fn evaluate(&self, py: Python<'_>, data: PathBuf) -> PyResult<(f64, u64)> {
        let evaluate = |path: &Path, stop: &AtomicBool| {
            let dataset = Dataset::open(path)?;
            evaluate_model(&self.0, &dataset, &mut until(stop))
        };
        let found = compute_long(py, |stop| evaluate(&data, stop))?;
        let found = found.map_err(IntoException::into_exception)?;
        Ok((found.val_loss, found.tokens))
    }
}

fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::MaxTokens => "max_tokens",
        Finish::EndToken => "end_token",
        Finish::StopString => "stop_string",
        Finish::ContextFull => "context_full",
        Finish::Cancelled => "cancelled",
    }
}
