//! [`RunFolder`]: everything that one training run leaves on disk.
//!
//! ```text
//! RUN/config.toml       settings, written first: a folder is a run once it is there
//!     data.json         which data the run is trained on
//!     environment.json  processor, instruction set, threads, version of the last start
//!     sparsity.json     target and actual sparsity of every linear layer
//!     tokenizer.json    copy of the data's tokenizer
//!     origin.json       where the first weights come from, in an imported run
//!     MODEL_CARD.md     what the model is and is not for
//!     metrics.jsonl     one line per optimiser step
//!     validation.jsonl  one line per evaluation
//!     events.out.tfevents.mediswift  both for TensorBoard
//!     checkpoints/      complete states, newest last
//!     report.json       the final report
//!     LOCK              held by the process that writes
//! ```
//!
//! An imported run has no data yet, and a checkpoint of step 0: it can be evaluated, sampled and
//! exported at once; resuming it on a dataset trains it on.
//!
//! Small files are written whole or not at all. The `.jsonl` logs are appended to, so a killed run
//! may leave a torn last line, which readers skip; a resumed run cuts them at its checkpoint's step,
//! so that no step appears twice or never.

use crate::checkpoint::{self, DataState, Latest, Snapshot, weights_hash};
use crate::config::Config;
use crate::disk;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::sparsity::LayerSparsity;
use crate::tensorboard::Events;
use mediswift_data::{
    Dataset, Split, Tokenizer, tokenizer, write_atomically, write_folder_atomically,
};
use mediswift_kernels::isa::IsaKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const DATA: &str = "data.json";
const CARD: &str = "MODEL_CARD.md";
const ORIGIN: &str = "origin.json";
const LOCK: &str = "LOCK";

/// The folder of one run, locked for writing.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Releases the lock when dropped.
    _lock: File,
}

/// Which data a run is trained on: `data.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// BLAKE3 of the dataset's manifest.
    pub fingerprint: String,
    /// BLAKE3 of its tokenizer.
    pub tokenizer_hash: String,
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens held out.
    pub validation_tokens: u64,
}

impl DataIdentity {
    /// The identity of a dataset.
    pub fn of(dataset: &Dataset) -> Self {
        Self {
            fingerprint: dataset.fingerprint(),
            tokenizer_hash: dataset.tokenizer_hash(),
            train_tokens: dataset.tokens(Split::Train),
            validation_tokens: dataset.tokens(Split::Validation),
        }
    }
}

/// Where the first weights of a run come from that did not draw them: `origin.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// In words that complete "imported from".
    pub source: String,
    /// [`weights_hash`] of the first weights.
    pub weights_hash: String,
}

/// One line of `metrics.jsonl`: an optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimiser steps done, this one included.
    pub step: usize,
    /// Mean training loss of the step's batch, in nats per token; NaN, `null` in the file, if the
    /// step was skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients before clipping; NaN, `null` in the file, if the step was skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Seconds spent in training steps so far; evaluating and saving are not counted.
    pub seconds: f64,
    /// Steps skipped so far because a loss or a gradient was not finite.
    #[serde(default)]
    pub skipped: u64,
}

fn null_is_nan<'de, D: Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}

/// One line of `validation.jsonl`: an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Optimiser steps before it.
    pub step: usize,
    /// Mean validation loss, in nats per token.
    pub val_loss: f64,
}

/// The result of a run: `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingReport {
    /// Optimiser steps done.
    pub step: usize,
    /// Mean loss of the last step's batch, in nats per token.
    pub train_loss: f64,
    /// Mean loss on the validation windows, in nats per token.
    pub val_loss: f64,
    /// Tokens per second of training; evaluating and saving are not counted.
    pub tokens_per_second: f64,
    /// Floating-point operations of all training steps: the exact work of every operator.
    pub flops: f64,
    /// BLAKE3 over all parameters in name order.
    pub weights_hash: String,
    /// Stored parameters.
    pub parameters: usize,
    /// Stored weights of the layers that sparsity applies to.
    pub nnz: usize,
    /// Sparsity of every such layer.
    pub layers: Vec<LayerSparsity>,
}

/// A line of a log.
pub trait Line: Serialize + DeserializeOwned {
    /// The log's file name.
    const FILE: &str;
    /// Optimiser steps done when the line was written.
    fn step(&self) -> usize;
}

impl Line for StepMetrics {
    const FILE: &str = "metrics.jsonl";
    fn step(&self) -> usize {
        self.step
    }
}

impl Line for Validation {
    const FILE: &str = "validation.jsonl";
    fn step(&self) -> usize {
        self.step
    }
}

impl RunFolder {
    /// Starts a run on `dataset` in a folder that does not exist or is empty.
    /// # Errors
    /// If the folder holds a run or anything else, another process writes it, or it cannot be
    /// written.
    pub fn create(path: &Path, config: &Config, dataset: &Dataset) -> Result<Self, Error> {
        disk::create_folders(path)?;
        check_unused(path)?;
        let folder = Self::lock(path)?;
        // Another process may have started a run before the lock.
        check_unused(path)?;
        write_atomically(&path.join(CONFIG), config.to_toml().as_bytes())?;
        folder.describe(config, dataset)?;
        Ok(folder)
    }

    /// Takes up a run that was interrupted.
    /// # Errors
    /// If the folder holds no run, or one with other settings or on other data, another process
    /// writes it, or it cannot be read or written.
    pub fn resume(path: &Path, config: &Config, dataset: &Dataset) -> Result<Self, Error> {
        let before = read_config(path)?;
        let folder = Self::lock(path)?;
        let differences = config.differences(&before);
        if !differences.is_empty() {
            let list = differences.join("; ");
            return Err(problem(path, format!("was started with other settings: {list}")));
        }
        folder.describe(config, dataset)?;
        Ok(folder)
    }

    fn lock(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_path_buf(), _lock: lock(path)? })
    }

    /// Writes the small files that describe the run, where they are not there yet.
    fn describe(&self, config: &Config, dataset: &Dataset) -> Result<(), Error> {
        let path = |name| self.path.join(name);
        disk::create_folders(&self.checkpoints())?;
        let (data, identity) = (path(DATA), DataIdentity::of(dataset));
        if !data.exists() {
            self.check_tokenizer(&identity)?;
            write_atomically(&data, to_json(&identity).as_bytes())?;
        } else if read_json::<DataIdentity>(&data)? != identity {
            return Err(problem(&data, "the run was started on other data: resume it on those"));
        }
        if !path(tokenizer::FILE_NAME).exists() {
            dataset.tokenizer()?.save(&path(tokenizer::FILE_NAME))?;
        }
        if !path(CARD).exists() {
            let card = model_card(config, None, NOT_FINISHED);
            write_atomically(&path(CARD), card.as_bytes())?;
        }
        let environment = to_json(&Environment::of_this_process());
        Ok(write_atomically(&path("environment.json"), environment.as_bytes())?)
    }

    /// An imported run brings its tokenizer: the data must have been made with it.
    fn check_tokenizer(&self, data: &DataIdentity) -> Result<(), Error> {
        let path = tokenizer_path(&self.path);
        if path.exists() && Tokenizer::load(&path)?.hash() != data.tokenizer_hash {
            let advice = "the data were made with another tokenizer: prepare them with this one";
            return Err(problem(&path, advice));
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.path)
    }

    /// Opens a log for appending after step `step`: cuts what comes later, and returns what stays.
    /// # Errors
    /// If it cannot be read or written, or a line that stays is malformed.
    pub fn log<T: Line>(&self, step: usize) -> Result<(Log<T>, Vec<T>), Error> {
        let path = self.path.join(T::FILE);
        if !path.exists() {
            write_atomically(&path, b"")?;
        }
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let (mut lines, mut end, mut length) = (Vec::new(), 0, 0);
        // Lines before a checkpoint were waited for; after a power cut, later ones may be anything.
        let mut damage = None;
        for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            end += line.len();
            match parse_line::<T>(&path, index, line) {
                Ok(line) if line.step() > step => {}
                Ok(line) => {
                    if let Some(error) = damage {
                        return Err(error);
                    }
                    lines.push(line);
                    length = end;
                }
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        let mut open = OpenOptions::new();
        let file = open.append(true).open(&path).map_err(Error::io("open", &path))?;
        file.set_len(length as u64).map_err(Error::io("write", &path))?;
        Ok((Log { path, file, line: PhantomData }, lines))
    }

    /// Opens the events for TensorBoard, made to be those of the given lines of both logs.
    /// # Errors
    /// If they cannot be written.
    pub fn events(
        &self,
        steps: &[StepMetrics],
        evaluations: &[Validation],
    ) -> Result<Events, Error> {
        Events::open(&self.path, &self.path.join(CONFIG), steps, evaluations)
    }

    /// Writes down how sparse every layer is.
    /// # Errors
    /// If it cannot be written.
    pub fn describe_sparsity(&self, layers: &[LayerSparsity]) -> Result<(), Error> {
        Ok(write_atomically(&self.path.join("sparsity.json"), to_json(&layers).as_bytes())?)
    }

    /// Writes the final report, as `report.json` and into the model card.
    /// # Errors
    /// If they cannot be written.
    pub fn finish(&self, config: &Config, report: &TrainingReport) -> Result<(), Error> {
        write_atomically(&self.path.join("report.json"), to_json(report).as_bytes())?;
        let card = model_card(config, read_origin(&self.path)?.as_ref(), &result(report));
        Ok(write_atomically(&self.path.join(CARD), card.as_bytes())?)
    }
}

/// Makes a run of a model from elsewhere, in a folder that must not exist or be empty: the settings
/// of `config`, `tokenizer`, and the parameters of `gpt` as the checkpoint of step 0. The run appears
/// when it is complete.
/// # Errors
/// If the folder holds anything or cannot be written.
pub fn import(
    path: &Path,
    config: &Config,
    gpt: &Gpt,
    tokenizer: &Tokenizer,
    source: impl Into<String>,
) -> Result<Origin, Error> {
    if path.exists() {
        check_unused(path)?;
    }
    let parameters = gpt.parameters();
    let origin = Origin { source: source.into(), weights_hash: weights_hash(parameters) };
    let data = DataState { tokenizer: tokenizer.hash(), ..Default::default() };
    write_folder_atomically(path, |folder| {
        write_atomically(&folder.join(CONFIG), config.to_toml().as_bytes())?;
        tokenizer.save(&tokenizer_path(folder))?;
        write_atomically(&folder.join(ORIGIN), to_json(&origin).as_bytes())?;
        let card = model_card(config, Some(&origin), NOT_TRAINED_ON);
        write_atomically(&folder.join(CARD), card.as_bytes())?;
        let snapshot = Snapshot { config, step: 0, skipped: 0, parameters, moments: None, data };
        checkpoint::save(&checkpoints(folder), &snapshot)?;
        Ok(origin)
    })
}

/// Locks a run folder for writing, until the file is dropped.
/// # Errors
/// If another process writes it.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(Error::io("open", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(problem(path, "another process is writing this run: wait for it or stop it"))
        }
        Err(fs::TryLockError::Error(source)) => Err(Error::io("lock", file)(source)),
    }
}

/// Checks that a folder holds nothing but what a start leaves that was killed before it had a
/// configuration.
/// # Errors
/// If it holds something, or cannot be listed.
pub fn check_unused(path: &Path) -> Result<(), Error> {
    if path.join(CONFIG).exists() {
        let advice = "continue it with --resume, or choose another folder";
        return Err(problem(path, format!("holds a run already: {advice}")));
    }
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let name = entry.map_err(Error::io("list", path))?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK && !name.starts_with(&format!(".{CONFIG}.")) {
            let advice = "choose another folder";
            return Err(problem(path, format!("is not empty (it holds '{name}'): {advice}")));
        }
    }
    Ok(())
}

/// Where the checkpoints of the run in `path` are.
pub fn checkpoints(path: &Path) -> PathBuf {
    path.join("checkpoints")
}

/// Where the tokenizer of the run in `path` is.
pub fn tokenizer_path(path: &Path) -> PathBuf {
    path.join(tokenizer::FILE_NAME)
}

/// The settings of the run in `path`.
/// # Errors
/// If there is no run, or its settings cannot be read.
pub fn read_config(path: &Path) -> Result<Config, Error> {
    let file = path.join(CONFIG);
    match fs::read_to_string(&file) {
        Ok(text) => Config::from_toml(&text, &file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(problem(path, "holds no run: it has no config.toml"))
        }
        Err(error) => Err(Error::io("read", file)(error)),
    }
}

/// Where the first weights of the run in `path` come from, if it was imported.
/// # Errors
/// If the file cannot be read.
pub fn read_origin(path: &Path) -> Result<Option<Origin>, Error> {
    let file = path.join(ORIGIN);
    if file.exists() { read_json(&file).map(Some) } else { Ok(None) }
}

/// The model of a run's newest complete checkpoint.
pub struct Loaded {
    /// Settings of the run.
    pub config: Config,
    /// Optimiser steps before the checkpoint.
    pub step: u64,
    /// The model.
    pub gpt: Gpt,
    /// One warning for each newer checkpoint that was passed over because it cannot be used.
    pub skipped: Vec<String>,
}

/// Loads the newest complete checkpoint of the run in `path`.
/// # Errors
/// If there is no run or no such checkpoint, or it is damaged.
pub fn load_model(path: &Path) -> Result<Loaded, Error> {
    read_config(path)?;
    let Latest { checkpoint, skipped } = checkpoint::latest(&checkpoints(path))?;
    let Some(checkpoint) = checkpoint else {
        let found = if skipped.is_empty() { "none".into() } else { skipped.join("; ") };
        return Err(problem(path, format!("holds no complete checkpoint (found: {found})")));
    };
    let gpt = checkpoint.model(&checkpoint.config)?;
    let step = checkpoint.manifest.step;
    Ok(Loaded { config: checkpoint.config, step, gpt, skipped })
}

/// A log of the run in `path`, without a torn last line.
/// # Errors
/// If it cannot be read, or a line is malformed.
pub fn read_log<T: Line>(path: &Path) -> Result<Vec<T>, Error> {
    let file = path.join(T::FILE);
    let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
    // A line counts once its end is there.
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.enumerate().map(|(index, line)| parse_line(&file, index, line)).collect()
}

/// Reads one line of a log, its end included: without it, the line is torn.
fn parse_line<T: Line>(file: &Path, index: usize, line: &[u8]) -> Result<T, Error> {
    let wrong = |error: &str| problem(file, format!("line {}: {error}", index + 1));
    let line = line.strip_suffix(b"\n").ok_or_else(|| wrong("it is torn"))?;
    serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))
}

/// A log open for appending.
#[derive(Debug)]
pub struct Log<T> {
    path: PathBuf,
    file: File,
    line: PhantomData<fn(&T)>,
}

impl<T: Line> Log<T> {
    /// Appends a line and hands it to the system.
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &T) -> Result<(), Error> {
        self.file.write_all(to_line(line).as_bytes()).map_err(Error::io("write", &self.path))
    }

    /// Waits until all lines are on the disk: before a checkpoint that relies on them.
    /// # Errors
    /// If they cannot be written.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }
}

/// What a run ran on.
#[derive(Serialize)]
struct Environment {
    version: &'static str,
    cpu: String,
    isa: String,
    threads: usize,
    os: &'static str,
    architecture: &'static str,
}

impl Environment {
    fn of_this_process() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cpu: cpu.unwrap_or_else(|| "unknown".into()),
            isa: IsaKind::active().map_or_else(|error| error.to_string(), |isa| isa.to_string()),
            threads: rayon::current_num_threads(),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        }
    }
}

const NOT_FINISHED: &str = "The run has not finished.";
const NOT_TRAINED_ON: &str = "It has not been trained further.";

/// A sentence on how a run ended.
fn result(report: &TrainingReport) -> String {
    format!(
        "After {} steps: training loss {:.4}, validation loss {:.4} nats per token. {} stored \
         parameters, weights hash `{}`.",
        report.step, report.train_loss, report.val_loss, report.parameters, report.weights_hash
    )
}

/// The card of a model, in Markdown, with `result` as what came out.
pub(crate) fn model_card(config: &Config, origin: Option<&Origin>, result: &str) -> String {
    let model = &config.model;
    let start = match origin {
        Some(Origin { source, weights_hash }) => {
            format!("imported from {source} (weights hash `{weights_hash}`)")
        }
        None => "trained from scratch to predict the next token".to_string(),
    };
    let how = match config.sparsity.init_method.name() {
        "random" => "at random".to_string(),
        method => format!("by {method}"),
    };
    let when = if origin.is_some() { "" } else { " before training (arXiv 2403.00952)" };
    let kind = match config.sparsity.describe(model).as_str() {
        "dense" => "It is dense.".to_string(),
        sparse => format!("Its linear layers are {sparse}: weights were left out {how}{when}."),
    };
    format!(
        "# MediSwift {preset}\n\n\
         **For research only. Not for clinical use:** this model has not been evaluated for any \
         medical purpose. Its output may be wrong, outdated or harmful, and must not inform the \
         care of anyone.\n\n\
         ## Model\n\n\
         A GPT with {layers} layers of width {d_model}, {heads} heads, {context} positions and a \
         vocabulary of {vocabulary} tokens, {start}. {kind}\n\n\
         ## Training\n\n```toml\n{toml}```\n\n\
         ## Result\n\n{result}\n",
        preset = model.preset.name,
        layers = model.layers,
        d_model = model.d_model,
        heads = model.heads,
        context = model.context,
        vocabulary = model.vocabulary,
        toml = config.to_toml(),
    )
}

fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::config(path.display().to_string(), problem)
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data") + "\n"
}

fn to_line(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("plain data") + "\n"
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| problem(path, error.to_string()))
}
