//! [`RunFolder`]: making a run folder, taking it up, and what describes the run in it.

use super::card::{CARD, NOT_FINISHED, model_card, result};
use super::json;
use super::origin::read_origin;
use super::report::TrainingReport;
use super::tokenizer::{load_tokenizer, tokenizer_path};
use crate::config::Config;
use crate::error::Error;
use crate::reduction::Reduce;
use crate::sparsity::LayerSparsity;
use mediswift_data::{Dataset, Split};
use mediswift_files::{self as files, Lock, SMALL};
use mediswift_kernels::isa::IsaKind;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) const CONFIG: &str = "config.toml";
const DATA: &str = "data.json";
const LOCK: &str = "LOCK";
const ENVIRONMENT: &str = "environment.json";

/// The folder of one run, locked for writing.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Releases the lock when dropped.
    _lock: Lock,
}

/// Which data a run is trained on: `data.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataIdentity {
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

impl RunFolder {
    /// Starts a run on `dataset` in a folder that does not exist or is empty.
    /// # Errors
    /// If the folder holds a run or anything else, another process writes it, or it cannot be
    /// written.
    pub fn create(
        path: &Path,
        config: &Config,
        dataset: &Dataset,
        together: Together,
    ) -> Result<Self, Error> {
        files::create_folders(path)?;
        check_unused(path)?;
        let folder = Self::lock(path)?;
        // Another process may have started a run before the lock.
        check_unused(path)?;
        folder.plan(config)?;
        folder.describe(config, dataset, together)?;
        Ok(folder)
    }

    /// Takes up a run that was interrupted. Whether it may have another number of steps, its
    /// checkpoints know.
    /// # Errors
    /// If the folder holds no run, or one with other settings or on other data, another process
    /// writes it, or it cannot be read or written.
    pub fn resume(
        path: &Path,
        config: &Config,
        dataset: &Dataset,
        together: Together,
    ) -> Result<Self, Error> {
        let before = read_config(path)?;
        let folder = Self::lock(path)?;
        let differences = config.differences_but_steps(&before);
        if !differences.is_empty() {
            return Err(Error::OtherSettings { path: path.to_path_buf(), differences });
        }
        folder.describe(config, dataset, together)?;
        Ok(folder)
    }

    fn lock(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_path_buf(), _lock: lock(path)? })
    }

    /// Writes down the settings.
    /// # Errors
    /// If they cannot be written.
    pub fn plan(&self, config: &Config) -> Result<(), Error> {
        Ok(files::write(&self.path.join(CONFIG), config.to_toml().as_bytes())?)
    }

    /// Writes the small files that describe the run, where they are not there yet.
    fn describe(
        &self,
        config: &Config,
        dataset: &Dataset,
        together: Together,
    ) -> Result<(), Error> {
        let path = |name| self.path.join(name);
        files::create_folders(&self.checkpoints())?;
        let (data, identity) = (path(DATA), DataIdentity::of(dataset));
        let known = data.exists();
        if known && json::read::<DataIdentity>(&data)? != identity {
            let problem = "the run was started on other data: resume it on those";
            return Err(Error::incompatible(data, problem));
        }
        let tokenizer = tokenizer_path(&self.path);
        if tokenizer.exists() {
            // An imported run brings its own: the data must have been made with it.
            load_tokenizer(&self.path, &identity.tokenizer_hash)?;
        } else {
            dataset.tokenizer()?.save(&tokenizer)?;
        }
        if !known {
            json::write(&data, &identity)?;
        }
        if !path(CARD).exists() {
            let card = model_card(config, None, NOT_FINISHED);
            files::write(&path(CARD), card.as_bytes())?;
        }
        json::write(&path(ENVIRONMENT), &Environment::of_this_process(together))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.path)
    }

    /// When the run was started: which data it is trained on was written down then, and never again.
    /// # Errors
    /// If the system does not tell.
    pub fn started(&self) -> Result<SystemTime, Error> {
        let data = self.path.join(DATA);
        let modified = fs::metadata(&data).and_then(|metadata| metadata.modified());
        modified.map_err(Error::io("read", data))
    }

    /// Writes down how sparse every layer is.
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn describe_sparsity(&self, layers: &[LayerSparsity]) -> Result<(), Error> {
        json::write(&self.path.join("sparsity.json"), &layers)
    }

    /// Writes the final report, as `report.json` and into the model card.
    /// # Errors
    /// If they cannot be written.
    pub fn finish(&self, config: &Config, report: &TrainingReport) -> Result<(), Error> {
        json::write(&self.path.join("report.json"), report)?;
        let card = model_card(config, read_origin(&self.path)?.as_ref(), &result(report));
        Ok(files::write(&self.path.join(CARD), card.as_bytes())?)
    }
}

/// Locks a run folder for writing, and removes what a killed process left there half written.
/// # Errors
/// If another process writes it.
pub(crate) fn lock(path: &Path) -> Result<Lock, Error> {
    let file = path.join(LOCK);
    let Some(lock) = Lock::take(&file)? else {
        return Err(Error::Busy { path: path.to_path_buf(), holder: Lock::holder(&file) });
    };
    files::clear(path)?;
    Ok(lock)
}

/// Whether a process writes in the run folder `path`.
/// # Errors
/// If the system refuses to say.
pub(crate) fn is_locked(path: &Path) -> Result<bool, Error> {
    let file = path.join(LOCK);
    Ok(file.exists() && Lock::take(&file)?.is_none())
}

/// Checks that a folder holds nothing but what a start leaves that was killed before it had a
/// configuration.
/// # Errors
/// If it holds something, or cannot be listed.
pub(crate) fn check_unused(path: &Path) -> Result<(), Error> {
    check_unused_but(path, &[])
}

/// Like [`check_unused`], where a start writes the files `first` before its configuration.
/// # Errors
/// As for [`check_unused`].
pub(crate) fn check_unused_but(path: &Path, first: &[&str]) -> Result<(), Error> {
    if path.join(CONFIG).exists() {
        let advice = "continue it with --resume, or choose another folder";
        return Err(Error::occupied(path, format!("holds a run already: {advice}")));
    }
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let entry = entry.map_err(Error::io("list", path))?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if name != LOCK && !first.contains(&&*name) && !files::is_leftover(&entry) {
            let advice = "choose another folder";
            let problem = format!("is not empty (it holds '{name}'): {advice}");
            return Err(Error::occupied(path, problem));
        }
    }
    Ok(())
}

/// Where the checkpoints of the run in `path` are.
pub fn checkpoints(path: &Path) -> PathBuf {
    path.join("checkpoints")
}

/// The settings of the run in `path`.
/// # Errors
/// If there is no run, or its settings cannot be read.
pub fn read_config(path: &Path) -> Result<Config, Error> {
    let file = path.join(CONFIG);
    match files::read_text(&file, SMALL) {
        Ok(text) => Config::from_toml(&text, &file),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::NoRun { path: path.to_path_buf(), what: "run", lacks: CONFIG })
        }
        Err(error) => Err(error.into()),
    }
}

/// How the gradients of the run in `path` were added up, if that is known: the faster way if any of them were.
pub(crate) fn read_reduce(path: &Path) -> Option<Reduce> {
    #[derive(Deserialize)]
    struct Known {
        reduce: Reduce,
    }
    json::read::<Known>(&path.join(ENVIRONMENT)).ok().map(|known| known.reduce)
}

/// Who trains a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Together {
    /// How many ranks.
    pub ranks: usize,
    /// How the run's gradients are added up: the faster way if any of them are.
    pub reduce: Reduce,
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
    #[serde(flatten)]
    together: Together,
}

impl Environment {
    fn of_this_process(together: Together) -> Self {
        let cpu = files::read_text("/proc/cpuinfo".as_ref(), SMALL).ok().and_then(|text| {
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
            together,
        }
    }
}
