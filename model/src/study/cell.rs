//! [`Cell`]: one run of a study, and what it does.

use super::baseline::Rule;
use super::record::Record;
use crate::config::Config;
use crate::config::text::Tables;
use crate::error::Error;
use crate::finetune::settings::Settings;
use crate::tasks::Task;
use std::path::Path;

/// One run of a study.
#[derive(Clone)]
pub struct Cell {
    /// Its name, and that of its folder.
    pub name: String,
    /// Name of its arm.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// What it does.
    pub work: Work,
}

/// What a cell does.
#[derive(Clone)]
pub enum Work {
    /// Trains a model.
    Pretrain {
        /// Its settings, but for what the rule decides.
        config: Box<Config>,
        /// What decides the number of steps.
        rule: Rule,
    },
    /// Measures the model of another cell.
    Evaluate {
        /// That cell.
        of: String,
        /// What the data is called.
        data: String,
    },
    /// Fine-tunes the model of another cell.
    Finetune {
        /// That cell.
        of: String,
        /// The task.
        task: &'static dyn Task,
        /// Its settings.
        settings: Box<Settings>,
        /// What the data is called.
        data: String,
    },
}

impl Cell {
    /// Cells that must be finished before.
    pub fn after(&self) -> Vec<&str> {
        match &self.work {
            Work::Pretrain { rule, .. } => rule.sources(),
            Work::Evaluate { of, .. } | Work::Finetune { of, .. } => vec![of],
        }
    }

    /// The cell when those that it comes after are finished: nothing is left to a rule.
    pub fn decided<'r>(&self, record: impl Fn(&str) -> Option<&'r Record>) -> Option<Self> {
        let mut cell = self.clone();
        match &mut cell.work {
            Work::Pretrain { config, rule } => {
                let decided = rule.applied(config, record)?;
                cell.work = Work::Pretrain { config: decided.into(), rule: Rule::Given };
            }
            Work::Evaluate { of, .. } | Work::Finetune { of, .. } => {
                record(of)?;
            }
        }
        Some(cell)
    }

    /// All its settings, as TOML.
    pub fn settings(&self) -> String {
        match &self.work {
            Work::Pretrain { config, .. } => config.to_toml(),
            Work::Evaluate { .. } => String::new(),
            Work::Finetune { settings, .. } => settings.to_toml(),
        }
    }

    /// What makes two cells the same run.
    pub(super) fn identity(&self) -> String {
        let work = match &self.work {
            Work::Pretrain { rule, .. } => format!("{rule:?}"),
            Work::Evaluate { of, data } => format!("loss of {of} on {data}"),
            Work::Finetune { of, task, data, .. } => format!("{} of {of} with {data}", task.name()),
        };
        work + &self.settings()
    }

    /// Settings that differ from those in the text `known`, which was found at `path`; keys that are new since
    /// are as they were by default.
    /// # Errors
    /// If the text is not one of settings.
    pub(super) fn differences(&self, known: &str, path: &Path) -> Result<Vec<String>, Error> {
        Ok(match &self.work {
            Work::Pretrain { config, .. } => {
                config.differing(&Config::from_toml(known, path)?, &[])
            }
            Work::Evaluate { .. } => Vec::new(),
            Work::Finetune { settings, task, .. } => {
                settings.differing(&Settings::from_toml(known, path, *task)?, &[])
            }
        })
    }

    /// What it does, in one line.
    pub fn describe(&self) -> String {
        match &self.work {
            Work::Pretrain { config, rule } => {
                let steps = match rule {
                    Rule::Given => format!("{} steps", config.train.steps),
                    Rule::Flops { of } => format!("as many operations as {of}"),
                    Rule::Seconds { of, .. } => format!("as many seconds as {of}"),
                };
                let kind = config.sparsity.describe(&config.model);
                format!("pre-training, {}, {kind}, {steps}", config.model.preset.name)
            }
            Work::Evaluate { of, data } => format!("loss of {of} on {data}"),
            Work::Finetune { of, task, .. } => format!("{} from {of}", task.name()),
        }
    }
}
