//! Which strategies the linear layers of a model run: those its configuration lists, else measured
//! or estimated ones.

use crate::config::{Config, KernelsConfig};
use crate::error::Error;
use crate::sparsity::{Targets, Trajectory, linear_weights};
use mediswift_engine::Shape;
use mediswift_files::{self as files, SMALL};
use mediswift_kernels::isa::{ISA_VARIABLE, IsaKind};
use mediswift_kernels::ops::{LayerPlan, StrategyError};
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{LinearLayer, Precision};
use std::collections::{BTreeMap, BTreeSet};
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
///
/// Where masks change their size, a run lists plans for the sizes that are to come ([`of_run`]), and a plan holds for all
/// masks of that shape that are no larger, until a plan for a smaller one does.
pub(crate) struct Planner<'a> {
    config: &'a KernelsConfig,
    isa: IsaKind,
    precision: Precision,
    /// Whether a plan for a larger mask of the same shape will do.
    masks_shrink: bool,
    found: BTreeMap<String, LayerPlan>,
}

impl<'a> Planner<'a> {
    /// Plans as `[kernels]` says.
    /// # Errors
    /// If the instruction set that is forced is unknown or missing.
    pub fn new(config: &'a Config) -> Result<Self, Error> {
        let isa = IsaKind::active().map_err(|e| Error::setting(ISA_VARIABLE, e.to_string()))?;
        let masks_shrink = config.sparsity.algorithm.changes_size();
        let (precision, found) = (config.train.precision, BTreeMap::new());
        Ok(Self { config: &config.kernels, isa, precision, masks_shrink, found })
    }

    /// The plan for a weight of that shape. Dense weights have nothing to choose, and none.
    /// # Errors
    /// If the configuration's plan for it is none.
    pub fn plan(&mut self, weight: &Shape) -> Result<Option<LayerPlan>, Error> {
        let Shape::Sparse(pattern) = weight else { return Ok(None) };
        let (rows, columns, nnz) = (pattern.rows(), pattern.columns(), pattern.nnz());
        let key = LayerPlan::key(rows, columns, nnz);
        let plan = match (self.found.get(&key), self.listed(rows, columns, nnz)) {
            (Some(plan), _) => plan.clone(),
            (None, Some((key, name))) => self.named(key, name)?,
            (None, None) if self.config.tune => {
                LayerPlan::measured(self.precision, self.isa, pattern, TUNING_TOKENS)
            }
            (None, None) => LayerPlan::of(self.precision, pattern.density(), self.isa),
        };
        self.found.insert(key, plan.clone());
        Ok(Some(plan))
    }

    /// The layer of a weight of that shape with its plan, yet without values.
    /// # Panics
    /// If the shape is not that of a matrix, or a sparse one has no plan.
    #[track_caller]
    pub fn layer(&self, weight: &Shape, plan: Option<LayerPlan>) -> LinearLayer {
        match weight {
            Shape::Sparse(pattern) => {
                let plan = plan.expect("a plan for a sparse weight");
                LinearLayer::sparse(self.isa, pattern.clone(), plan)
            }
            Shape::Matrix(rows, columns) => {
                LinearLayer::dense(self.isa, self.precision, *rows, *columns)
            }
            Shape::Vector(_) => panic!("a linear layer has a matrix"),
        }
    }

    /// The listed plan for a mask, and its key.
    fn listed(&self, rows: usize, columns: usize, nnz: usize) -> Option<(&'a str, &'a str)> {
        let plans = &self.config.plans;
        let exact = plans.get_key_value(&LayerPlan::key(rows, columns, nnz));
        let shape = LayerPlan::key(rows, columns, 0);
        let shape = shape.trim_end_matches('0');
        let of_larger = || {
            let sizes = plans.iter().filter_map(|entry| {
                let size = entry.0.strip_prefix(shape)?.parse::<usize>().ok()?;
                (size >= nnz).then_some((size, entry))
            });
            sizes.min_by_key(|(size, _)| *size).map(|(_, entry)| entry)
        };
        let (key, name) = exact.or_else(|| if self.masks_shrink { of_larger() } else { None })?;
        Some((key, name))
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

/// The plans of a run that begins with those of `now`. Where masks change their size, these are listed ones, and
/// besides one for the largest mask of each shape that another plan is for.
/// # Errors
/// If a mask to measure with is too large for 32-bit indices, or the instruction set that is forced is missing.
pub(crate) fn of_run(config: &Config, now: Plans) -> Result<Plans, Error> {
    if !config.sparsity.algorithm.changes_size() {
        return Ok(now);
    }
    let mut listed = config.kernels.plans.clone();
    listed.extend(now);
    let targets = Targets::new(&config.sparsity, &config.model);
    let planner = Planner::new(config)?;
    let (mut last, mut done) = (BTreeMap::new(), BTreeSet::new());
    for progress in Trajectory::new(config).progress() {
        for weight in linear_weights(&config.model) {
            let sparsity = config.sparsity.algorithm.sparsity(targets.of(&weight), progress);
            let (rows, columns, nnz) = (weight.rows, weight.columns, weight.kept(sparsity));
            if sparsity == 0.0 || !done.insert((rows, columns, nnz)) {
                continue;
            }
            let density = nnz as f64 / weight.len() as f64;
            let estimate = LayerPlan::of(planner.precision, density, planner.isa);
            let shape = (rows, columns, targets.of(&weight).to_bits());
            if planner.listed(rows, columns, nnz).is_some() || last.get(&shape) == Some(&estimate) {
                continue;
            }
            let plan = match config.kernels.tune {
                true => {
                    let mask =
                        uniform_random(rows, columns, 1.0 - density, config.sparsity.seed)
                            .map_err(|source| Error::Mask { layer: weight.name.clone(), source })?;
                    LayerPlan::measured(planner.precision, planner.isa, &mask.into(), TUNING_TOKENS)
                }
                false => estimate.clone(),
            };
            last.insert(shape, estimate);
            listed.insert(LayerPlan::key(rows, columns, nnz), plan.to_string());
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn config() -> Config {
        Config::from_preset("micro").unwrap()
    }

    #[test]
    fn plans_hold_for_smaller_masks_where_masks_shrink_and_nowhere_else() {
        let mut config = config();
        config.kernels.plans.insert("20x30@400".into(), "csr/csr/csr".into());
        config.kernels.plans.insert("20x30@299".into(), "dense/dense/dense".into());
        config.kernels.plans.insert("2x30@300".into(), "dense/dense/dense".into());
        let plan = |config: &Config| {
            Planner::new(config).unwrap().plan(&sparse(1)).unwrap().unwrap().to_string()
        };
        assert!(plan(&config).starts_with("panels"));
        config.set("sparsity.algorithm=rigl").unwrap();
        assert!(plan(&config).starts_with("panels"));
        config.set("sparsity.algorithm=gmp").unwrap();
        assert_eq!(plan(&config), "csr/csr/csr");
    }

    #[test]
    fn masks_that_are_to_come_have_plans() {
        let mut config = config();
        for set in
            ["sparsity.sparsity=0.9", "sparsity.algorithm=gmp", "sparsity.update={freq=3, stop=90}"]
        {
            config.set(set).unwrap();
        }
        config.kernels.plans = of_run(&config, Plans::new()).unwrap();
        let isa = IsaKind::active().unwrap();
        let mut planner = Planner::new(&config).unwrap();
        for sparsity in [0.1, 0.4, 0.6, 0.78, 0.85, 0.9] {
            let mask = uniform_random(64, 64, sparsity, 1).unwrap();
            let density = mask.density();
            let plan = planner.plan(&Shape::Sparse(Arc::new(mask))).unwrap().unwrap();
            assert_eq!(plan, LayerPlan::of(Precision::F32, density, isa), "{sparsity}");
        }
        // Bands of density, not updates.
        assert!(
            (4 * 2..=4 * 6).contains(&config.kernels.plans.len()),
            "{:?}",
            config.kernels.plans
        );
        assert_eq!(of_run(&config, Plans::new()).unwrap(), config.kernels.plans);
    }

    fn sparse(seed: u64) -> Shape {
        Shape::Sparse(Arc::new(uniform_random(20, 30, 0.5, seed).unwrap()))
    }

    #[test]
    fn listed_plans_come_first() {
        let name = "csr/dense/panels-r1-v4-u2-k16-m8-p1";
        let mut config = config();
        config.kernels.plans.insert("20x30@300".into(), name.into());
        let plan = Planner::new(&config).unwrap().plan(&sparse(1)).unwrap().unwrap();
        assert_eq!(plan.to_string(), name);
        config.kernels.plans.insert("20x30@300".into(), "fast".into());
        let error = Planner::new(&config).unwrap().plan(&sparse(1)).unwrap_err().to_string();
        assert!(error.contains("20x30@300") && error.contains("'fast'"), "{error}");
    }

    #[test]
    fn tuning_happens_once_for_equal_layers() {
        let mut config = config();
        config.kernels.tune = true;
        let mut planner = Planner::new(&config).unwrap();
        let plans: Vec<LayerPlan> =
            (1..4).map(|seed| planner.plan(&sparse(seed)).unwrap().unwrap()).collect();
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
