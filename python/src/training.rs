//! Runs: datasets of texts and of token ids, and training on them.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mediswift::data::manifest::Manifest;
use mediswift::data::tokenizer::Kind;
use mediswift::data::{Preparation, TokenizerSource, prepare};
use mediswift::model::Error;
use mediswift::model::config::Base;
use mediswift::model::pretrain::pretrain;
use mediswift::model::run::{StepMetrics, TrainingReport, read_config};
use mediswift::model::watch::Pace;
use mediswift::{Config, Dataset, Progress, Session, Split, Watch};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::arrays::narrowed;
use crate::error::IntoException;
use crate::threads::compute_long;
use crate::tokenizer::Tokenizer;

/// Makes a dataset folder of texts in files, and a tokenizer of at most `vocab_size` tokens unless one is given.
#[pyfunction]
pub fn prepare_dataset<'py>(
    py: Python<'py>,
    inputs: Vec<PathBuf>,
    out: PathBuf,
    vocab_size: usize,
    tokenizer: Option<PathBuf>,
    validation: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let tokenizer = tokenizer.map_or(
        TokenizerSource::Train { kind: Kind::ByteBpe, vocab_size, min_frequency: 2, sample: 1.0 },
        TokenizerSource::File,
    );
    let preparation =
        Preparation { tokenizer, validation_fraction: validation, ..Preparation::new(inputs, out) };
    let manifest = compute_long(py, |stop| {
        prepare(&preparation, &mut |_| match stop.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    summary(py, &manifest.map_err(IntoException::into_exception)?)
}

/// Makes a dataset folder of documents as token ids.
#[pyfunction]
pub fn write_dataset<'py>(
    py: Python<'py>,
    out: PathBuf,
    tokenizer: &Bound<'py, Tokenizer>,
    train: Vec<Bound<'py, PyAny>>,
    validation: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let ids = |name: &str, documents: &[Bound<'_, PyAny>]| -> PyResult<Vec<Vec<u32>>> {
        documents.iter().map(|ids| narrowed(name, ids)).collect()
    };
    let (train, validation) = (ids("train", &train)?, ids("validation", &validation)?);
    let tokenizer = tokenizer.get();
    let manifest = compute_long(py, |_| {
        mediswift::data::prepare::write_tokens(&out, tokenizer.get(), &train, &validation)
    })?;
    summary(py, &manifest.map_err(IntoException::into_exception)?)
}

fn summary<'py>(py: Python<'py>, manifest: &Manifest) -> PyResult<Bound<'py, PyDict>> {
    let summary = PyDict::new(py);
    summary.set_item("vocab_size", manifest.vocab_size)?;
    summary.set_item("documents", manifest.documents)?;
    summary.set_item("train_tokens", manifest.split(Split::Train).tokens)?;
    summary.set_item("validation_tokens", manifest.split(Split::Validation).tokens)?;
    summary.set_item("dropped", &manifest.dropped)?;
    Ok(summary)
}

/// Trains a run in the folder `out` until all steps are done, or somebody wants it to stop: then it is saved.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn train<'py>(
    py: Python<'py>,
    data: PathBuf,
    out: PathBuf,
    preset: Option<String>,
    config: Option<PathBuf>,
    settings: Vec<String>,
    resume: bool,
    callback: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut watcher = Watcher { callback, val_loss: None, ended: None, warnings: Vec::new() };
    let trained = compute_long(py, |stop| {
        let base = match (&preset, &config) {
            (Some(preset), _) => Base::Preset(preset),
            (None, Some(file)) => Base::File(file),
            (None, None) => Base::Given(Box::new(read_config(&out)?)),
        };
        let config = Config::load(base, &settings, |_| {})?;
        let dataset = Arc::new(Dataset::open(&data)?);
        let mut session = match resume {
            true => Session::resume(config, dataset, &out)?,
            false => Session::start(config, dataset, &out)?,
        };
        let ended = pretrain(&mut session, &mut Stoppable { stop, watcher: &mut watcher });
        Ok((session.step(), ended))
    });
    for warning in &watcher.warnings {
        let text = std::ffi::CString::new(warning.replace('\0', " ")).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
    }
    let (step, ended) = trained?.map_err(|error: Error| error.into_exception())?;
    match (watcher.ended, ended) {
        (Some(Ended::Raised(raised)), _) => Err(raised),
        (Some(Ended::Refused), Err(Error::Stopped)) => {
            let report = PyDict::new(py);
            report.set_item("step", step)?;
            report.set_item("stopped", true)?;
            Ok(report)
        }
        (_, ended) => described(py, &ended.map_err(IntoException::into_exception)?),
    }
}

fn described<'py>(py: Python<'py>, report: &TrainingReport) -> PyResult<Bound<'py, PyDict>> {
    let dictionary = PyDict::new(py);
    dictionary.set_item("step", report.step)?;
    dictionary.set_item("stopped", false)?;
    dictionary.set_item("train_loss", report.train_loss)?;
    dictionary.set_item("val_loss", report.val_loss)?;
    dictionary.set_item("tokens_per_second", report.tokens_per_second)?;
    dictionary.set_item("flops", report.flops)?;
    dictionary.set_item("parameters", report.parameters)?;
    dictionary.set_item("nnz", report.nnz)?;
    dictionary.set_item("sparsity", report.actual_sparsity())?;
    dictionary.set_item("weights_hash", &report.weights_hash)?;
    Ok(dictionary)
}

/// How a callback ended a run.
enum Ended {
    /// It returned False.
    Refused,
    /// It raised.
    Raised(PyErr),
}

/// Tells a callback of every step.
struct Watcher {
    callback: Option<Py<PyAny>>,
    /// The last validation loss.
    val_loss: Option<f64>,
    ended: Option<Ended>,
    warnings: Vec<String>,
}

impl Watcher {
    fn stepped(&mut self, metrics: &StepMetrics, pace: Pace) -> ControlFlow<()> {
        let Some(callback) = &self.callback else { return ControlFlow::Continue(()) };
        let called = Python::attach(|py| {
            let step = PyDict::new(py);
            step.set_item("step", metrics.step)?;
            step.set_item("steps", pace.steps)?;
            step.set_item("loss", metrics.loss)?;
            step.set_item("val_loss", self.val_loss)?;
            step.set_item("lr", metrics.lr)?;
            step.set_item("grad_norm", metrics.grad_norm)?;
            step.set_item("tokens", metrics.tokens)?;
            step.set_item("seconds", metrics.seconds)?;
            step.set_item("tokens_per_second", pace.tokens_per_second)?;
            let answer = callback.bind(py).call1((step,))?;
            Ok(answer.cast::<PyBool>().is_ok_and(|answer| !answer.is_true()))
        });
        self.ended = match called {
            Ok(false) => return ControlFlow::Continue(()),
            Ok(true) => Some(Ended::Refused),
            Err(raised) => Some(Ended::Raised(raised)),
        };
        ControlFlow::Break(())
    }
}

struct Stoppable<'a> {
    stop: &'a AtomicBool,
    watcher: &'a mut Watcher,
}

impl Watch for Stoppable<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        if self.stop.load(Ordering::SeqCst) {
            return ControlFlow::Break(());
        }
        match progress {
            Progress::Stepped { metrics, pace } => return self.watcher.stepped(metrics, pace),
            Progress::Evaluated(validation) => self.watcher.val_loss = Some(validation.val_loss),
            Progress::Resumed { skipped, .. } => self.watcher.warnings.extend_from_slice(skipped),
            Progress::Skipped(problem) => self.watcher.warnings.push(problem.to_string()),
            Progress::Noted(note) => self.watcher.warnings.push(note.to_string()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
