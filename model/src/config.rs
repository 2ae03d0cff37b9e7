//! [`Config`]: everything that decides a training run, as TOML tables.
//!
//! A configuration starts from a preset; a file or `--set table.key=value` changes single keys.
//! Whatever is unknown, of the wrong type or out of range is refused with one line that names it.

mod tables;

pub use tables::{
    CheckpointConfig, EvalConfig, KernelsConfig, ModelConfig, SparsityConfig, SparsityGroup,
    TrainConfig,
};

use crate::error::Error;
use crate::presets::{PRESETS, preset};
use mediswift_kernels::ops::LayerPlan;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use toml::{Table, Value};

/// A training run: model, sparsity, optimisation, evaluation, checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[model]`.
    pub model: ModelConfig,
    /// `[sparsity]`.
    pub sparsity: SparsityConfig,
    /// `[train]`.
    pub train: TrainConfig,
    /// `[eval]`.
    pub eval: EvalConfig,
    /// `[checkpoint]`.
    pub checkpoint: CheckpointConfig,
    /// `[kernels]`.
    pub kernels: KernelsConfig,
}

/// What to do with a step whose loss or gradient is not finite. It never changes a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// End the run with an error.
    #[default]
    Stop,
    /// Go on with the next step, unless a weight of the model is to blame.
    Skip,
}

/// Tables and keys that may differ between a run and its continuation: they change no weight, or
/// none of the steps that are done.
const FREE_ON_RESUME: [&str; 4] = ["eval", "checkpoint", "train.recompute", "train.on_nonfinite"];

impl Config {
    /// The defaults of a preset.
    /// # Errors
    /// If there is no such preset.
    pub fn from_preset(name: &str) -> Result<Self, Error> {
        let preset = preset(name)?;
        Ok(Self {
            model: ModelConfig {
                preset: preset.name.to_string(),
                layers: preset.layers,
                d_model: preset.d_model,
                heads: preset.heads,
                context: preset.context,
                vocabulary: 0,
            },
            sparsity: SparsityConfig {
                sparsity: 0.0,
                init_method: "random".into(),
                seed: 1,
                groups: Vec::new(),
            },
            train: TrainConfig {
                steps: preset.steps,
                batch: preset.batch,
                micro_batch: preset.micro_batch,
                recompute: false,
                context: preset.context,
                seed: 1,
                lr: preset.lr,
                final_lr_fraction: 0.1,
                warmup_fraction: 0.1,
                weight_decay: 0.1,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                clip_norm: 1.0,
                on_nonfinite: OnNonFinite::Stop,
            },
            eval: EvalConfig { every: preset.steps / 10, sequences: 64 },
            checkpoint: CheckpointConfig { every: preset.steps / 10, keep: 2, keep_every: 0 },
            kernels: KernelsConfig::default(),
        })
    }

    /// Reads a configuration file: `model.preset` names the defaults, every other key changes one.
    /// `path` is for messages. The result is not validated yet, for `--set` may follow.
    /// # Errors
    /// If the text is not TOML, names no preset, or has an unknown key or one of the wrong type.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, Error> {
        let place = path.display().to_string();
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|&byte| byte == b'\n').count();
            let problem = error.message().replace('\n', "; ");
            Error::config(format!("{place}:{line}"), problem)
        })?;
        let name = match table.get("model").and_then(|model| model.get("preset")) {
            Some(Value::String(name)) => name,
            Some(other) => return Err(wrong_type(&place, "model.preset", "string", other)),
            None => {
                let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
                let problem = format!(
                    "model.preset is missing: name the preset that the defaults come from ({})",
                    known.join(", ")
                );
                return Err(Error::config(place, problem));
            }
        };
        Self::from_preset(name)?.overlaid(table, &place)
    }

    /// Changes one key: `table.key=value`, the value as in TOML; quotes around strings may be left
    /// out.
    /// # Errors
    /// If the assignment is malformed, the key unknown or the value of the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let place = format!("--set {assignment}");
        let over = parse_assignment(assignment)?;
        if over.get("model").is_some_and(|model| model.get("preset").is_some()) {
            return Err(Error::config(place, "the preset is chosen by --preset or a file"));
        }
        *self = self.clone().overlaid(over, &place)?;
        Ok(())
    }

    /// This configuration with the keys of `over` changed.
    fn overlaid(self, over: Table, place: &str) -> Result<Self, Error> {
        overlay(self.to_table(), over, place)
    }

    fn to_table(&self) -> Table {
        Table::try_from(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// The whole configuration as TOML; [`Config::from_toml`] reads it back.
    /// # Panics
    /// If a seed or a count has 64 bits, which no TOML can hold.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// The whole configuration as TOML with a comment above every table and key that says what it
    /// is; [`Config::from_toml`] reads it back.
    /// # Panics
    /// As for [`Config::to_toml`].
    pub fn to_commented_toml(&self) -> String {
        let (mut text, mut table) = (String::new(), String::new());
        let mut said = BTreeSet::new();
        let mut comment = |path: &str| {
            // Once is enough where several groups have the same keys.
            let lines = tables::comment(path).filter(|_| said.insert(path.to_string()));
            lines.unwrap_or_default().iter().map(|line| format!("#{line}\n")).collect::<String>()
        };
        for line in self.to_toml().lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = name.trim_matches(['[', ']']).to_string();
                text += &comment(&table);
            } else if let Some((key, _)) = line.split_once(" = ") {
                text += &comment(&format!("{table}.{key}"));
            }
            text += &format!("{line}\n");
        }
        text
    }

    /// Steps over which the learning rate rises.
    pub fn warmup_steps(&self) -> usize {
        (self.train.steps as f64 * self.train.warmup_fraction).round() as usize
    }

    /// Forward and backward passes per optimiser step.
    pub fn micro_batches(&self) -> usize {
        self.train.batch.div_ceil(self.train.micro_batch)
    }

    /// Checks every value and how they fit together.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        let (model, train) = (&self.model, &self.train);
        let sizes = [
            ("model.layers", model.layers),
            ("model.d_model", model.d_model),
            ("model.heads", model.heads),
            ("model.context", model.context),
            ("train.steps", train.steps),
            ("train.batch", train.batch),
            ("train.micro_batch", train.micro_batch),
            ("train.context", train.context),
            ("checkpoint.keep", self.checkpoint.keep),
        ];
        for (key, size) in sizes {
            require(size > 0, key, || "is 0, but must be at least 1".into())?;
        }
        let fits = |product: Option<usize>| product.is_some_and(|n| n < u32::MAX as usize);
        require(fits(model.d_model.checked_mul(4)), "model.d_model", || {
            format!("is {}, too large for 32-bit indices", model.d_model)
        })?;
        require(model.d_model.is_multiple_of(model.heads), "model.d_model", || {
            format!("{} is not divisible by model.heads = {}", model.d_model, model.heads)
        })?;
        require(train.context <= model.context, "train.context", || {
            format!("{} exceeds model.context = {} positions", train.context, model.context)
        })?;
        self.sparsity.validate(model)?;
        let CheckpointConfig { every, keep_every, .. } = self.checkpoint;
        require(keep_every.is_multiple_of(every), "checkpoint.keep_every", || {
            format!("{keep_every} is not a multiple of checkpoint.every = {every}")
        })?;
        for (key, plan) in &self.kernels.plans {
            let checked = plan.parse::<LayerPlan>().map(|_| ());
            checked
                .map_err(|e| Error::config(format!("kernels.plans.\"{key}\""), e.to_string()))?;
        }
        for (key, value) in [("train.lr", train.lr), ("train.epsilon", train.epsilon)] {
            require(value.is_finite() && value > 0.0, key, || {
                format!("is {value}, but must be a finite number above 0")
            })?;
        }
        // An infinite norm is how to ask for no clipping.
        require(train.clip_norm > 0.0, "train.clip_norm", || {
            format!("is {}, but must be above 0 (inf never clips)", train.clip_norm)
        })?;
        require(
            train.weight_decay.is_finite() && train.weight_decay >= 0.0,
            "train.weight_decay",
            || format!("is {}, but must be a finite number of at least 0", train.weight_decay),
        )?;
        for (key, beta) in [("train.beta1", train.beta1), ("train.beta2", train.beta2)] {
            require((0.0..1.0).contains(&beta), key, || {
                format!("is {beta}, but must lie in [0, 1)")
            })?;
        }
        let fractions = [
            ("train.final_lr_fraction", train.final_lr_fraction),
            ("train.warmup_fraction", train.warmup_fraction),
        ];
        for (key, fraction) in fractions {
            require((0.0..=1.0).contains(&fraction), key, || {
                format!("is {fraction}, but must lie in [0, 1]")
            })?;
        }
        Ok(())
    }

    /// Keys that must not differ between a run and its continuation but do, as
    /// `train.lr is 0.1 here, but 0.2 there`: all that change weights, so not those of `[eval]` and
    /// `[checkpoint]`. `train.steps` counts, for the learning rate is planned over it.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        let (here, there) = (self.to_table(), other.to_table());
        let mut differences = Vec::new();
        for (name, table) in &here {
            let (Some(here), Some(there)) = (table.as_table(), there[name].as_table()) else {
                continue;
            };
            if FREE_ON_RESUME.contains(&name.as_str()) {
                continue;
            }
            for (key, value) in here {
                let (path, other) = (format!("{name}.{key}"), &there[key]);
                if value != other && !FREE_ON_RESUME.contains(&path.as_str()) {
                    differences.push(format!("{path} is {value} here, but {other} there"));
                }
            }
        }
        differences
    }
}

/// `table.key=value` as a table of tables; a value that is not TOML is a string.
/// # Errors
/// If the assignment is malformed.
pub(crate) fn parse_assignment(assignment: &str) -> Result<Table, Error> {
    let place = format!("--set {assignment}");
    let malformed = || Error::config(&place, "expected table.key=value, as in train.lr=1e-3");
    let (key, value) = assignment.split_once('=').ok_or_else(malformed)?;
    let (table, key) = key.trim().split_once('.').ok_or_else(malformed)?;
    let value = value.trim();
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").ok_or_else(malformed)?,
        _ => Value::String(value.to_string()),
    };
    let keys = Table::from_iter([(key.to_string(), value)]);
    Ok(Table::from_iter([(table.to_string(), Value::Table(keys))]))
}

/// Settings with the keys of `over` changed.
/// # Errors
/// If a key is unknown or a value has the wrong type.
pub(crate) fn overlay<T: DeserializeOwned>(
    mut base: Table,
    over: Table,
    place: &str,
) -> Result<T, Error> {
    for (name, table) in over {
        let tables: Vec<String> = base.keys().cloned().collect();
        let Some(keys) = base.get_mut(&name).and_then(Value::as_table_mut) else {
            let known = tables.iter().map(String::as_str);
            return Err(Error::unknown(place, "table", &name, known));
        };
        let Value::Table(table) = table else {
            return Err(wrong_type(place, &name, "table", &table));
        };
        for (key, value) in table {
            let path = format!("{name}.{key}");
            let Some(old) = keys.get(&key) else {
                let known = keys.keys().map(String::as_str);
                return Err(Error::unknown(format!("{place}: [{name}]"), "key", &key, known));
            };
            let value = like(old, value, &path, place)?;
            keys.insert(key, value);
        }
    }
    base.try_into().map_err(|error: toml::de::Error| Error::config(place, error.message()))
}

/// An error about `key` unless something `holds`.
pub(crate) fn require(
    holds: bool,
    key: &str,
    problem: impl FnOnce() -> String,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::config(key, problem())) }
}

/// `value` if it has the type of `old`; whole numbers also stand for fractions.
fn like(old: &Value, value: Value, key: &str, place: &str) -> Result<Value, Error> {
    match (old, value) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (Value::Integer(_), Value::Integer(n)) if n < 0 => {
            Err(wrong_type(place, key, "whole number of at least 0", &Value::Integer(n)))
        }
        (old, value) if old.same_type(&value) => Ok(value),
        (Value::Integer(_), value) => {
            Err(wrong_type(place, key, "whole number of at least 0", &value))
        }
        (Value::Float(_), value) => Err(wrong_type(place, key, "number", &value)),
        (old, value) => Err(wrong_type(place, key, old.type_str(), &value)),
    }
}

fn wrong_type(place: &str, key: &str, expected: &str, found: &Value) -> Error {
    let kind = found.type_str();
    let shown = found.to_string().replace('\n', " ");
    Error::config(place, format!("{key} must be a {expected}, but is the {kind} {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Config {
        Config::from_preset("tiny").unwrap()
    }

    fn from_toml(text: &str) -> Result<Config, Error> {
        Config::from_toml(text, Path::new("run.toml"))
    }

    #[test]
    fn every_preset_is_valid_and_survives_toml() {
        for preset in PRESETS {
            let config = Config::from_preset(preset.name).unwrap();
            config.validate().unwrap();
            let text = config.to_toml();
            assert_eq!(from_toml(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn every_key_is_printed_below_its_comment() {
        let mut config = tiny();
        let plain = config.to_commented_toml();
        config.set("sparsity.groups=[{param_filter=['*.mlp.*'], sparsity=0}]").unwrap();
        config.set("kernels.plans={ \"8x8@9\" = \"csr/csr/csr\" }").unwrap();
        for (text, config) in [(plain, tiny()), (config.to_commented_toml(), config)] {
            assert_eq!(from_toml(&text).unwrap(), config, "{text}");
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.windows(2).filter(|pair| !pair[1].is_empty()) {
                let explained = pair[0].starts_with("# ") || pair[1].starts_with(['#', '"']);
                assert!(explained, "{} has no comment:\n{text}", pair[1]);
            }
        }
    }

    #[test]
    fn files_and_assignments_change_single_keys() {
        let text = "[model]\npreset = 'tiny'\nlayers = 3\n[train]\nlr = 1\n";
        let mut config = from_toml(text).unwrap();
        for assignment in [
            "train.steps=12",
            " sparsity.sparsity = 0.5",
            "train.lr=1e-3",
            "sparsity.init_method=random",
            "sparsity.init_method=\"random\"",
        ] {
            config.set(assignment).unwrap();
        }
        let mut expected = tiny();
        expected.model.layers = 3;
        expected.train.steps = 12;
        expected.train.lr = 1e-3;
        expected.sparsity.sparsity = 0.5;
        assert_eq!(config, expected);
    }

    #[test]
    fn every_mistake_is_one_line_that_names_it() {
        let files = [
            (
                "[model]\npreset = 'tiny'\n[trian]\nlr = 1.0",
                "run.toml: unknown table 'trian': did you mean 'train'?",
            ),
            (
                "[model]\npreset = 'tiny'\n[train]\nstep = 1",
                "run.toml: [train]: unknown key 'step': did you mean 'steps'?",
            ),
            ("[model]\npreset = 'tinny'", "unknown preset 'tinny': did you mean 'tiny'?"),
            ("[model]\npreset = 3", "model.preset must be a string, but is the integer 3"),
            ("[model]\nlayers = 3", "model.preset is missing"),
            ("model = 3", "model.preset is missing"),
            ("train = 3\n[model]\npreset = 'tiny'", "train must be a table, but is the integer 3"),
            (
                "[model]\npreset = 'tiny'\nlayers = 'x'",
                "model.layers must be a whole number of at least 0, but is the string \"x\"",
            ),
            (
                "[model]\npreset = 'tiny'\nlayers = -1",
                "model.layers must be a whole number of at least 0, but is the integer -1",
            ),
            (
                "[model]\npreset = 'tiny'\n[[sparsity.groups]]\nparam_filters = []",
                "run.toml: unknown field `param_filters`, expected `param_filter` or `sparsity`",
            ),
            (
                "[model]\npreset = 'tiny'\n[train]\nlr = [1]",
                "train.lr must be a number, but is the array",
            ),
            ("[model]\npreset = 'tiny'\npreset = 'tiny'", "run.toml:3: duplicate key"),
            ("[model]\n\n= 3", "run.toml:3: "),
        ];
        let errors = files.map(|(text, expected)| (from_toml(text).unwrap_err(), expected));
        let assignments = [
            ("train.lr", "expected table.key=value"),
            ("lr=1", "expected table.key=value"),
            (
                "train.steps=1e3",
                "train.steps must be a whole number of at least 0, but is the float 1000",
            ),
            ("train.lr=fast", "train.lr must be a number, but is the string \"fast\""),
            ("train.rl=1", "--set train.rl=1: [train]: unknown key 'rl': did you mean 'lr'?"),
            ("model.preset=xl", "the preset is chosen by --preset or a file"),
            ("train.on_nonfinite=halt", "expected `stop` or `skip`"),
            ("train.on_nonfinite=1", "train.on_nonfinite must be a string"),
        ];
        let errors = errors
            .into_iter()
            .chain(assignments.map(|(text, expected)| (tiny().set(text).unwrap_err(), expected)));
        for (error, expected) in errors {
            let message = error.to_string();
            assert!(message.contains(expected), "{message}\n{expected}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (assignment, expected) in [
            ("model.layers=0", "model.layers: is 0"),
            ("model.heads=0", "model.heads: is 0"),
            ("model.heads=3", "model.d_model: 128 is not divisible by model.heads = 3"),
            ("model.d_model=9223372036854775804", "too large for 32-bit indices"),
            ("train.context=129", "train.context: 129 exceeds model.context = 128"),
            ("train.batch=0", "train.batch: is 0"),
            ("train.micro_batch=0", "train.micro_batch: is 0"),
            ("train.steps=0", "train.steps: is 0"),
            ("train.lr=nan", "train.lr: is NaN"),
            ("train.lr=0", "train.lr: is 0"),
            ("train.lr=inf", "train.lr: is inf"),
            ("train.epsilon=-1", "train.epsilon: is -1"),
            ("train.beta1=1", "train.beta1: is 1"),
            ("train.beta2=nan", "train.beta2: is NaN"),
            ("train.weight_decay=-0.1", "train.weight_decay: is -0.1"),
            ("train.clip_norm=0", "train.clip_norm: is 0"),
            ("train.clip_norm=nan", "train.clip_norm: is NaN"),
            ("train.warmup_fraction=1.5", "train.warmup_fraction: is 1.5"),
            ("train.final_lr_fraction=-1", "train.final_lr_fraction: is -1"),
            ("sparsity.sparsity=1", "sparsity.sparsity: is 1, but must lie in [0, 1)"),
            ("sparsity.sparsity=-0.1", "sparsity.sparsity: is -0.1"),
            ("sparsity.sparsity=nan", "sparsity.sparsity: is NaN"),
            ("sparsity.init_method=topology", "unknown mask policy 'topology'"),
            ("checkpoint.keep=0", "checkpoint.keep: is 0"),
            ("checkpoint.keep_every=150", "150 is not a multiple of checkpoint.every = 100"),
        ] {
            let mut config = tiny();
            config.set(assignment).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{assignment}: {message}");
        }
    }

    #[test]
    fn only_evaluation_and_checkpoints_may_differ_on_resume() {
        let mut other = tiny();
        other.set("eval.every=7").unwrap();
        other.set("checkpoint.keep=9").unwrap();
        other.set("train.on_nonfinite=skip").unwrap();
        assert!(tiny().differences(&other).is_empty());
        other.set("train.steps=7").unwrap();
        other.set("sparsity.seed=2").unwrap();
        let expected =
            ["sparsity.seed is 1 here, but 2 there", "train.steps is 1000 here, but 7 there"];
        assert_eq!(tiny().differences(&other), expected);
    }
}
