//! Which strategies the linear layers of a model run: those its configuration lists, else measured
//! or estimated ones.

use crate::config::KernelsConfig;
use crate::error::Error;
use mediswift_engine::Shape;
use mediswift_files::{self as files, SMALL};
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use mediswift_kernels::ops::{LayerPlan, StrategyError};
use mediswift_kernels::{LinearLayer, Precision};
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens on which a new run measures.
const TUNING_TOKENS: usize = 512;

/// Strategies by [`LayerPlan::key`].
pub type Plans = BTreeMap<String, String>;

/// Reads a file of plans: `"OUTxIN@nnz" = "forward/dx/dw"`, one a line, as `bench layer` writes it.
/// # Errors
/// If the file cannot be read or is something else.
pub fn read(path: &Path) -> Result<Plans, Error> {
    let text = files::read_text(path, SMALL)?;
    let plans: Plans = toml::from_str(&text)
        .map_err(|e| Error::malformed(path, e.message().replace('\n', "; ")))?;
    for (key, plan) in &plans {
        let checked = plan.parse::<LayerPlan>();
        checked.map_err(|e| Error::malformed(path, format!("\"{key}\": {e}")))?;
    }
    Ok(plans)
}

/// Writes a file of plans, which [`read`] reads.
/// # Errors
/// If the system refuses.
pub fn write(path: &Path, plans: &Plans) -> Result<(), Error> {
    let lines = plans.iter().map(|(key, plan)| format!("\"{key}\" = \"{plan}\"\n"));
    let about = "# Strategies of sparse layers by shape and non-zeros, for `pretrain --plans`.\n";
    let text: String = std::iter::once(about.to_string()).chain(lines).collect();
    Ok(files::write(path, text.as_bytes())?)
}

/// Plans the layers of a model, equal ones alike.
pub(crate) struct Planner<'a> {
    config: &'a KernelsConfig,
    isa: IsaKind,
    precision: Precision,
    found: BTreeMap<String, LayerPlan>,
}

impl<'a> Planner<'a> {
    /// Plans as `[kernels]` says.
    /// # Errors
    /// If the instruction set that is forced is unknown or missing.
    pub fn new(config: &'a KernelsConfig, precision: Precision) -> Result<Self, Error> {
        let isa = IsaKind::active().map_err(|e| Error::setting(ISA_VARIABLE, e.to_string()))?;
        Ok(Self { config, isa, precision, found: BTreeMap::new() })
    }

    /// The layer of a weight of that shape, yet without values. Dense weights have nothing to choose.
    /// # Errors
    /// If the configuration's plan for it is none.
    /// # Panics
    /// If the shape is not that of a matrix.
    #[track_caller]
    pub fn layer(&mut self, weight: &Shape) -> Result<LinearLayer, Error> {
        let pattern = match weight {
            Shape::Sparse(pattern) => pattern,
            Shape::Matrix(rows, columns) => {
                return Ok(LinearLayer::dense(self.isa, self.precision, *rows, *columns));
            }
            Shape::Vector(_) => panic!("a linear layer has a matrix"),
        };
        let key = LayerPlan::key(pattern.rows(), pattern.columns(), pattern.nnz());
        let plan = match (self.found.get(&key), self.config.plans.get(&key)) {
            (Some(plan), _) => plan.clone(),
            (None, Some(name)) => self.named(&key, name)?,
            (None, None) if self.config.tune => {
                LayerPlan::measured(self.precision, self.isa, pattern, TUNING_TOKENS)
            }
            (None, None) => LayerPlan::of(self.precision, pattern.density(), self.isa),
        };
        self.found.insert(key, plan.clone());
        Ok(LinearLayer::sparse(self.isa, pattern.clone(), plan))
    }

    /// A plan that the configuration lists.
    fn named(&self, key: &str, name: &str) -> Result<LayerPlan, Error> {
        let setting = || format!("kernels.plans.\"{key}\"");
        let plan: LayerPlan =
            name.parse().map_err(|e: StrategyError| Error::setting(setting(), e.to_string()))?;
        if plan.precision() != self.precision {
            let (has, run) = (plan.precision(), self.precision);
            let what = format!("'{name}' is of {has}, and train.precision is {run}");
            return Err(Error::setting(setting(), what));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_kernels::sparse::mask::uniform_random;
    use std::sync::Arc;

    fn sparse(seed: u64) -> Shape {
        Shape::Sparse(Arc::new(uniform_random(20, 30, 0.5, seed).unwrap()))
    }

    #[test]
    fn listed_plans_come_first() {
        let name = "csr/dense/panels-r1-v4-u2-k16-m8-p1";
        let mut config = KernelsConfig::default();
        config.plans.insert("20x30@300".into(), name.into());
        let layer = Planner::new(&config, Precision::F32).unwrap().layer(&sparse(1)).unwrap();
        assert_eq!(layer.plan().to_string(), name);
        config.plans.insert("20x30@300".into(), "fast".into());
        let error = Planner::new(&config, Precision::F32)
            .unwrap()
            .layer(&sparse(1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("20x30@300") && error.contains("'fast'"), "{error}");
    }

    #[test]
    fn tuning_happens_once_for_equal_layers() {
        let config = KernelsConfig { tune: true, ..KernelsConfig::default() };
        let mut planner = Planner::new(&config, Precision::F32).unwrap();
        let plans: Vec<LayerPlan> =
            (1..4).map(|seed| planner.layer(&sparse(seed)).unwrap().plan().clone()).collect();
        assert!(plans.iter().all(|plan| *plan == plans[0]));
        assert_eq!(planner.found.len(), 1);
    }

    #[test]
    fn files_of_plans_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plans.toml");
        std::fs::write(&path, "# note\n\"20x30@300\" = \"csr/csr/csr\"\n").unwrap();
        assert_eq!(read(&path).unwrap()["20x30@300"], "csr/csr/csr");
        for text in ["x", "\"1x1@1\" = 3", "\"1x1@1\" = \"csr\""] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("plans.toml"), "{error}");
        }
    }
}
