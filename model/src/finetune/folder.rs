//! The folder of a fine-tuning run.
//!
//! ```text
//! RUN/finetune.toml            settings, the last of what a start writes
//!     identity.json            which model, task, examples and settings it was started with
//!     config.toml, tokenizer.json, MODEL_CARD.md
//!     cells/NAME.json          one report per finished training
//!     cells/NAME/              weights of those that are still needed
//!     pseudo-labels-STAGE.json labels given by the model
//!     predictions-seed-N.json  {id: answer} on test, one file per seed
//!     likelihood-seed-N.json   the same, answered by likelihood
//!     seed-N.json              scores of a seed
//!     checkpoints/             the best seed's model, for `generate`, `score` and `export`
//!     report.json, report.md
//! ```
//!
//! Every file is written whole or not at all, and a cell's report after its weights: what is there
//! need not be computed again.

pub(crate) use super::identity::read_examples;
pub use super::identity::{SETTINGS, read_settings};

use super::identity::{IDENTITY, Identity};
use super::settings::Settings;
use super::train::{Cell, CellReport};
use crate::cells::Cells;
use crate::checkpoint::{self, Checkpoint, Choice, DataState, Snapshot};
use crate::config::Config;
use crate::error::Error;
use crate::run;
use mediswift_data::{Tokenizer, tokenizer};
use mediswift_engine::Parameters;
use mediswift_files::{self as files, Lock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The folder, locked for writing.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Its trainings.
    cells: Cells,
    /// What it is made from.
    identity: Identity,
    /// Hash of the tokenizer.
    tokenizer: String,
    _lock: Lock,
}

impl Folder {
    /// Makes the folder, or takes it up if `resume` says so and there is a run.
    /// # Errors
    /// If the folder holds another run or anything else, another process writes it, or it cannot be
    /// written.
    pub fn open(
        path: &Path,
        settings: &Settings,
        identity: Identity,
        tokenizer: &Tokenizer,
        resume: bool,
    ) -> Result<Self, Error> {
        let there = path.join(SETTINGS).exists();
        if there && !resume {
            let problem = "holds a run already: go on with --resume, or choose another folder";
            return Err(Error::occupied(path, problem));
        }
        if resume && !there {
            let (path, what) = (path.to_path_buf(), "fine-tuning run to go on with");
            return Err(Error::NoRun { path, what, lacks: SETTINGS });
        }
        if !there {
            files::create_folders(path)?;
            run::check_unused_but(path, &[IDENTITY, tokenizer::FILE_NAME])?;
        }
        let _lock = run::lock(path)?;
        let (cells, tokenizer_hash) = (Cells::of(path.join("cells")), tokenizer.hash());
        let folder = Self { path: path.into(), cells, identity, tokenizer: tokenizer_hash, _lock };
        files::clear(folder.cells.path())?;
        if there {
            let known: Identity = folder.read(IDENTITY)?;
            known.check(path, &folder.identity, settings)?;
            run::load_tokenizer(path, &folder.tokenizer)?;
        } else {
            folder.write(IDENTITY, &folder.identity)?;
            tokenizer.save(&run::tokenizer_path(path))?;
            folder.write_text(SETTINGS, &settings.to_toml())?;
        }
        Ok(folder)
    }

    /// Where a file of the folder is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Reads a JSON file.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        run::json::read(&self.path(name))
    }

    /// Writes a JSON file.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        run::json::write(&self.path(name), value)
    }

    /// Writes a file.
    pub(crate) fn write_text(&self, name: &str, text: &str) -> Result<(), Error> {
        Ok(files::write(&self.path(name), text.as_bytes())?)
    }

    /// The report of a cell, if it is finished.
    pub fn cell(&self, cell: &Cell) -> Result<Option<CellReport>, Error> {
        self.cells.report(&cell.name())
    }

    /// Saves a finished cell, its weights first.
    pub(crate) fn save_cell(
        &self,
        report: &CellReport,
        config: &Config,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        let name = report.cell.name();
        self.save(&self.cells.place(&name), report.steps, config, parameters)?;
        self.cells.finish(&name, report)
    }

    /// The weights of a finished cell, with their settings.
    pub fn weights(&self, cell: &Cell) -> Result<(Config, Parameters), Error> {
        let path = self.cells.place(&cell.name());
        let chosen = checkpoint::choose(&path, Choice::default(), Checkpoint::parameters)?;
        let chosen = chosen.map(|chosen| (chosen.checkpoint.config, chosen.content));
        chosen.ok_or_else(|| {
            let problem = format!("holds no weights: remove {}.json to train again", cell.name());
            Error::not_found(path, problem)
        })
    }

    /// Removes the weights of a cell; its report stays.
    pub fn forget(&self, cell: &Cell) -> Result<(), Error> {
        self.cells.forget(&cell.name())
    }

    /// Makes weights those of the run.
    pub fn publish(
        &self,
        steps: usize,
        config: &Config,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        self.write_text("config.toml", &config.to_toml())?;
        self.save(&run::checkpoints(&self.path), steps, config, parameters)
    }

    /// Saves weights as a checkpoint without an optimiser: the next training starts anew.
    fn save(
        &self,
        path: &Path,
        steps: usize,
        config: &Config,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        let data = DataState {
            sequences: 0,
            fingerprint: self.identity.examples.clone(),
            tokenizer: self.tokenizer.clone(),
        };
        let step = steps as u64;
        let snapshot = Snapshot {
            config,
            step,
            skipped: 0,
            loss_scale: None,
            masks: None,
            parameters,
            moments: None,
            data,
        };
        checkpoint::save(path, &snapshot)?;
        Ok(())
    }
}
