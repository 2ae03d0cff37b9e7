//! [`Folders`]: where the data of a study is, by the names that the study gives it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mediswift_model::study::{Ledger, Study, Work};

use crate::verb::Exit;

/// What `--data` said.
pub struct Folders {
    trained_on: Option<PathBuf>,
    named: BTreeMap<String, PathBuf>,
}

impl Folders {
    /// Reads the values of `--data`: a folder, or a name and a path.
    pub fn read(values: &[String]) -> anyhow::Result<Self> {
        let mut folders = Self { trained_on: None, named: BTreeMap::new() };
        for value in values {
            let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']);
            let named = value.split_once('=').filter(|(name, _)| is_name(name));
            let before = match named {
                Some((name, path)) => folders.named.insert(name.into(), path.into()),
                None => folders.trained_on.replace(value.into()),
            };
            if before.is_some() {
                let which =
                    named.map_or("the data to train on".to_string(), |(name, _)| name.into());
                let message = format!("--data {value}: {which} is given twice");
                return Err(Exit::usage(message).into());
            }
        }
        Ok(folders)
    }

    /// The dataset to train on.
    pub fn trained_on(&self) -> Option<&Path> {
        self.trained_on.as_deref()
    }

    /// What the study calls `name`.
    pub fn named(&self, name: &str) -> Option<&Path> {
        self.named.get(name).map(PathBuf::as_path)
    }

    /// Checks that there is data for all cells that are not finished.
    pub fn check(&self, plan: &Study, known: &Ledger) -> anyhow::Result<()> {
        for cell in &plan.cells {
            if known.record(&cell.name).is_some() {
                continue;
            }
            let (path, option) = match &cell.work {
                Work::Pretrain { .. } => (self.trained_on(), "--data D".to_string()),
                Work::Evaluate { data, .. } | Work::Finetune { data, .. } => {
                    (self.named(data), format!("--data {data}=D"))
                }
            };
            let Some(path) = path else {
                let message = format!("{}: where is its data? Say it with {option}", cell.name);
                return Err(Exit::usage(message).into());
            };
            anyhow::ensure!(
                path.exists(),
                "{}: there is no such data, which {} needs",
                path.display(),
                cell.name
            );
        }
        Ok(())
    }
}
