//! [`Config`]: everything that decides a training run, as TOML tables.
//!
//! A configuration starts from a preset; a file or `--set table.key=value` changes single keys.
//! Whatever is unknown, of the wrong type or out of range is refused with one line that names it.

pub(crate) mod checks;
pub(crate) mod moved;
pub(crate) mod tables;
pub(crate) mod text;
pub(crate) mod value;

pub use tables::{
    CheckpointConfig, DropFractionConfig, EvalConfig, KernelsConfig, ModelConfig, OnNonFinite,
    OptimiserConfig, SparsityConfig, SparsityGroup, TrainConfig, UpdateConfig,
};

use crate::error::{Error, Place};
use crate::named::Named;
use crate::presets::{PRESETS, Preset};
use crate::sparsity::{Distribution, DropShape, Static};
use checks::{require_fit, require_some};
use mediswift_files::{self as files, SMALL};
use mediswift_kernels::Precision;
use mediswift_kernels::ops::LayerPlan;
use mediswift_kernels::sparse::mask::RANDOM;
use serde::Serialize;
use std::path::Path;
use tables::settings;
use text::{Comment, Section, Tables, parse, parse_assignment};
use toml::Value;
use value::wrong_type;

settings! {
    /// A training run: model, sparsity, optimisation, evaluation, checkpoints.
    pub struct Config {
        model: ModelConfig,
        sparsity: SparsityConfig,
        train: TrainConfig,
        optimiser: OptimiserConfig,
        eval: EvalConfig,
        checkpoint: CheckpointConfig,
        kernels: KernelsConfig,
    }
}

/// Where settings start from, before single ones are changed.
#[derive(Clone, Debug)]
pub enum Base<'a> {
    /// The defaults of a preset.
    Preset(&'a str),
    /// A file that names a preset, and may change any key.
    File(&'a Path),
    /// Settings that are there already, as those of a run.
    Given(Box<Config>),
}

/// Tables and keys that may differ between a run and its continuation: they change no weight, or
/// none of the steps that are done.
const FREE_ON_RESUME: [&str; 4] = ["eval", "checkpoint", "train.recompute", "train.on_nonfinite"];

/// Tokens of a run are counted in 64 bits, and rounded up to whole tiles.
const MOST_TOKENS: usize = usize::MAX >> 5;

/// Dense.
impl Default for SparsityConfig {
    fn default() -> Self {
        Self {
            sparsity: 0.0,
            distribution: Distribution::Uniform,
            init_method: &RANDOM,
            seed: 1,
            algorithm: &Static,
            drop_fraction: DropFractionConfig {
                r#type: DropShape::Cosine,
                init: 0.3,
                half_period: 0,
            },
            update: UpdateConfig { start: 0, freq: 100, stop: 0 },
            groups: Vec::new(),
        }
    }
}

impl Config {
    /// The defaults of a preset.
    pub fn new(preset: &'static Preset) -> Self {
        Self {
            model: ModelConfig {
                preset,
                layers: preset.layers,
                d_model: preset.d_model,
                heads: preset.heads,
                context: preset.context,
                vocabulary: 0,
            },
            sparsity: SparsityConfig::default(),
            train: TrainConfig {
                steps: preset.steps,
                batch: preset.batch,
                micro_batch: preset.micro_batch,
                leaves: 8,
                recompute: false,
                precision: Precision::F32,
                context: preset.context,
                seed: 1,
                lr: preset.lr,
                on_nonfinite: OnNonFinite::Stop,
            },
            optimiser: OptimiserConfig {
                final_lr_fraction: 0.1,
                warmup_fraction: 0.1,
                weight_decay: 0.1,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                clip_norm: 1.0,
            },
            eval: EvalConfig { every: preset.steps / 10, sequences: 64 },
            checkpoint: CheckpointConfig { every: preset.steps / 10, keep: 2, keep_every: 0 },
            kernels: KernelsConfig::default(),
        }
    }

    /// The defaults of the preset of that name.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mediswift_model::Config;
    ///
    /// let mut config = Config::from_preset("tiny")?;
    /// config.set("train.steps=100")?;
    /// config.sparsity.sparsity = 0.75;
    /// config.validate()?;
    /// let file = config.to_commented_toml();
    /// assert_eq!(Config::from_toml(&file, Path::new("run.toml"))?, config);
    /// let error = config.set("train.stesp=100").unwrap_err().to_string();
    /// assert!(error.contains("did you mean 'steps'?"), "{error}");
    /// # Ok::<(), mediswift_model::Error>(())
    /// ```
    /// # Errors
    /// If there is no such preset.
    pub fn from_preset(name: &str) -> Result<Self, Error> {
        Ok(Self::new(Named::named(name, "model.preset")?))
    }

    /// The settings of a run, checked: those of `base`, changed by `assignments` as in
    /// [`Config::set`], then by `adjust`.
    /// # Errors
    /// If a file cannot be read, an assignment is wrong, or a value is out of range.
    pub fn load(
        base: Base<'_>,
        assignments: &[impl AsRef<str>],
        adjust: impl FnOnce(&mut Self),
    ) -> Result<Self, Error> {
        let mut config = match base {
            Base::Preset(name) => Self::from_preset(name)?,
            Base::File(path) => {
                let text = files::read_text(path, SMALL)?;
                Self::from_toml(&text, path)?
            }
            Base::Given(config) => *config,
        };
        assignments.iter().try_for_each(|assignment| config.set(assignment.as_ref()))?;
        adjust(&mut config);
        config.validate()?;
        Ok(config)
    }

    /// Reads a configuration: `model.preset` names the defaults, every other key changes one. `path`
    /// is for messages. Ranges are not checked yet: see [`Config::validate`].
    /// # Errors
    /// If the text is not TOML, names no preset, or has an unknown key or one of the wrong type.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, Error> {
        let place = Place::file(path);
        let table = parse(text, &place)?;
        let name = match table.get("model").and_then(|model| model.get("preset")) {
            Some(Value::String(name)) => name,
            Some(other) => return Err(wrong_type(&place, "model.preset", "string", other)),
            None => {
                let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
                let problem = format!(
                    "model.preset is missing: name the preset that the defaults come from ({})",
                    known.join(", ")
                );
                return Err(Error::setting(place, problem));
            }
        };
        let mut config = Self::new(Named::named(name, place.within("model.preset"))?);
        config.overlay(table, &place)?;
        Ok(config)
    }

    /// Changes one key: `table.key=value`, the value as in TOML; quotes around strings may be left
    /// out.
    /// # Errors
    /// If the assignment is malformed, the key unknown or the value of the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (over, place) = parse_assignment(assignment)?;
        if over.get("model").is_some_and(|model| model.get("preset").is_some()) {
            return Err(Error::setting(place, "the preset is chosen by --preset or a file"));
        }
        self.overlay(over, &place)
    }

    /// The whole configuration as TOML; [`Config::from_toml`] reads it back.
    /// # Panics
    /// If a seed or a count has 64 bits, which no TOML can hold.
    pub fn to_toml(&self) -> String {
        self.plain()
    }

    /// The whole configuration as TOML with a comment above every table and key that says what it
    /// is; [`Config::from_toml`] reads it back.
    /// # Panics
    /// As for [`Config::to_toml`].
    pub fn to_commented_toml(&self) -> String {
        self.commented()
    }

    /// Steps over which the learning rate rises.
    pub fn warmup_steps(&self) -> usize {
        (self.train.steps as f64 * self.optimiser.warmup_fraction).round() as usize
    }

    /// Forward and backward passes per optimiser step.
    pub fn micro_batches(&self) -> usize {
        self.train.batch.div_ceil(self.train.micro_batch)
    }

    /// Checks every value and how they fit together.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        self.validate_model()?;
        let (model, train) = (&self.model, &self.train);
        let sizes = [
            ("train.steps", train.steps),
            ("train.batch", train.batch),
            ("train.micro_batch", train.micro_batch),
            ("train.leaves", train.leaves),
            ("train.context", train.context),
            ("checkpoint.keep", self.checkpoint.keep),
        ];
        sizes.into_iter().try_for_each(|(key, size)| require_some(key, size))?;
        require_fit(train.leaves.is_power_of_two(), "train.leaves", || {
            format!("{} is not a power of two", train.leaves)
        })?;
        require_fit(train.context <= model.context, "train.context", || {
            format!("{} exceeds model.context = {} positions", train.context, model.context)
        })?;
        let tokens = train.batch.checked_mul(train.context);
        let tokens = tokens.and_then(|tokens| tokens.checked_mul(train.steps));
        require_fit(tokens.is_some_and(|tokens| tokens <= MOST_TOKENS), "train.steps", || {
            let TrainConfig { steps, batch, context, .. } = train;
            format!("{steps} steps of {batch} × {context} tokens are more than can be counted")
        })?;
        let CheckpointConfig { every, keep_every, .. } = self.checkpoint;
        require_fit(keep_every.is_multiple_of(every), "checkpoint.keep_every", || {
            format!("{keep_every} is not a multiple of checkpoint.every = {every}")
        })?;
        self.sparsity.validate_updates(model, train.steps)?;
        self.validate_optimiser()
    }

    /// Checks what a model is made by: size, sparsity and plans; not the vocabulary, which may be that
    /// of data to come.
    pub(crate) fn validate_model(&self) -> Result<(), Error> {
        self.model.validate()?;
        self.sparsity.validate(&self.model)?;
        for (key, plan) in &self.kernels.plans {
            let checked = plan.parse::<LayerPlan>().map(|_| ());
            checked
                .map_err(|e| Error::setting(format!("kernels.plans.\"{key}\""), e.to_string()))?;
        }
        Ok(())
    }

    /// Checks what updates are made by.
    pub(crate) fn validate_optimiser(&self) -> Result<(), Error> {
        self.optimiser.validate()?;
        self.optimiser.check_rate("train.lr", self.train.lr)
    }

    /// Keys that must not differ between a run and its continuation but do, as
    /// `train.lr is 0.1 here, but 0.2 there`: all that change weights, so not those of `[eval]` and
    /// `[checkpoint]`. `train.steps` counts, for the learning rate is planned over it.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        self.differing(other, &FREE_ON_RESUME)
    }

    /// The same without `train.steps`, for a run whose steps are all done.
    pub(crate) fn differences_but_steps(&self, other: &Config) -> Vec<String> {
        let mut other = other.clone();
        other.train.steps = self.train.steps;
        self.differences(&other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

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
            (
                "[model]\npreset = 'tinny'",
                "run.toml: model.preset: unknown preset 'tinny': did you mean 'tiny'?",
            ),
            ("[model]\npreset = 3", "model.preset must be a string, but is the integer 3"),
            ("[model]\nlayers = 3", "model.preset is missing"),
            ("model = 3", "model.preset is missing"),
            ("train = 3\n[model]\npreset = 'tiny'", "train must be a table, but is the integer 3"),
            (
                "[model]\npreset = 'tiny'\nlayers = 'x'",
                "model.layers must be a whole number of at least 0 and below 2^63, but is the string \"x\"",
            ),
            (
                "[model]\npreset = 'tiny'\nlayers = -1",
                "model.layers must be a whole number of at least 0 and below 2^63, but is the integer -1",
            ),
            (
                "[model]\npreset = 'tiny'\n[[sparsity.groups]]\nparam_filters = []",
                "run.toml: sparsity.groups[1].param_filter is missing",
            ),
            (
                "[model]\npreset = 'tiny'\n[[sparsity.groups]]\nparam_filter=[]\nsparsity=0\nseeed=1",
                "run.toml: sparsity.groups[1]: unknown key 'seeed': did you mean 'sparsity'?",
            ),
            (
                "[model]\npreset = 'tiny'\n[train]\nbeta1 = 0.5\n[optimiser]\nbeta1 = 0.6",
                "run.toml: optimiser.beta1 is given twice: its old place is [train]",
            ),
            (
                "[model]\npreset = 'tiny'\n[optimiser]\nlr = 0.5",
                "run.toml: [optimiser]: unknown key 'lr'",
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
                "train.steps must be a whole number of at least 0 and below 2^63, but is the float 1000",
            ),
            ("train.lr=fast", "train.lr must be a number, but is the string \"fast\""),
            ("train.rl=1", "--set train.rl=1: [train]: unknown key 'rl': did you mean 'lr'?"),
            ("model.preset=xl", "the preset is chosen by --preset or a file"),
            (
                "train.on_nonfinite=halt",
                "unknown value 'halt': did you mean 'stop'? (known: stop, skip)",
            ),
            (
                "train.on_nonfinite=stpo",
                "train.on_nonfinite: unknown value 'stpo': did you mean 'stop'?",
            ),
            (
                "sparsity.init_method=topology",
                "sparsity.init_method: unknown mask policy 'topology'",
            ),
            ("train.beta1=half", "optimiser.beta1 must be a number"),
            ("train.beta3=0.5", "[train]: unknown key 'beta3'"),
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
            ("model.d_model=1000000000", "1000000000 with 4 layers makes 4.8e19 weights"),
            ("model.layers=100000000", "model.layers: is 100000000, but must be at most 4096"),
            ("model.context=4294967295", "model.context: is 4294967295, but must be below"),
            ("model.vocabulary=9223372036854775807", "model.vocabulary: is 9223372036854775807"),
            ("train.batch=9223372036854775807", "are more than can be counted"),
            ("train.steps=9223372036854775807", "are more than can be counted"),
            ("train.context=129", "train.context: 129 exceeds model.context = 128"),
            ("train.batch=0", "train.batch: is 0"),
            ("train.micro_batch=0", "train.micro_batch: is 0"),
            ("train.steps=0", "train.steps: is 0"),
            ("train.lr=nan", "train.lr: is NaN"),
            ("train.lr=0", "train.lr: is 0"),
            ("train.lr=inf", "train.lr: is inf"),
            (
                "train.lr=1e-60",
                "train.lr: is 1e-60, but must be a finite number above 0 in 32 bits",
            ),
            ("train.lr=1e38", "train.lr: is 1e38, but must leave lr / (1 - beta1) finite"),
            ("train.lr=1e60", "train.lr: is 1e60, but must leave lr / (1 - beta1) finite"),
            ("optimiser.epsilon=-1", "optimiser.epsilon: is -1"),
            ("optimiser.epsilon=1e-300", "optimiser.epsilon: is 1e-300, but must be"),
            ("optimiser.epsilon=1e39", "optimiser.epsilon: is 1e39, but must be"),
            ("optimiser.beta1=1", "optimiser.beta1: is 1"),
            ("optimiser.beta1=0.99999999999", "optimiser.beta1: is 0.99999999999, but must lie"),
            ("optimiser.beta2=nan", "optimiser.beta2: is NaN"),
            ("optimiser.weight_decay=-0.1", "optimiser.weight_decay: is -0.1"),
            ("optimiser.weight_decay=1e39", "optimiser.weight_decay: is 1e39"),
            ("optimiser.clip_norm=0", "optimiser.clip_norm: is 0"),
            ("optimiser.clip_norm=nan", "optimiser.clip_norm: is NaN"),
            ("optimiser.clip_norm=1e-300", "optimiser.clip_norm: is 1e-300"),
            ("optimiser.warmup_fraction=1.5", "optimiser.warmup_fraction: is 1.5"),
            ("optimiser.final_lr_fraction=-1", "optimiser.final_lr_fraction: is -1"),
            ("train.epsilon=-1", "optimiser.epsilon: is -1"),
            ("sparsity.sparsity=1", "sparsity.sparsity: is 1, but must lie in [0, 1)"),
            ("sparsity.sparsity=-0.1", "sparsity.sparsity: is -0.1"),
            ("sparsity.sparsity=nan", "sparsity.sparsity: is NaN"),
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
    fn keys_that_have_moved_are_found_in_their_old_place() {
        let values = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
        let mut text = "[model]\npreset = 'tiny'\n[train]\nsteps = 7\n".to_string();
        let mut expected = tiny();
        expected.set("train.steps=7").unwrap();
        for (key, value) in moved::TO_OPTIMISER.into_iter().zip(values) {
            let (mut old, mut new) = (tiny(), tiny());
            old.set(&format!("train.{key}={value}")).unwrap();
            new.set(&format!("optimiser.{key}={value}")).unwrap();
            assert_eq!(old, new, "{key}");
            assert_ne!(new, tiny(), "{key}");
            assert_eq!(old.differences(&tiny()).len(), 1, "{key}");
            text += &format!("{key} = {value}\n");
            let one = from_toml(&format!("[model]\npreset = 'tiny'\n[train]\n{key} = {value}\n"));
            assert_eq!(one.unwrap(), new, "{key}");
            expected.set(&format!("optimiser.{key}={value}")).unwrap();
        }
        let read = from_toml(&text).unwrap();
        assert_eq!(read, expected);
        assert!(read.differences(&expected).is_empty());
        assert_eq!(from_toml(&read.to_toml()).unwrap(), expected);
    }

    /// Written by the program before `[optimiser]` was there.
    #[test]
    fn a_configuration_of_the_past_says_what_it_said() {
        let old = include_str!("config/before_optimiser.toml");
        let read = from_toml(old).unwrap();
        let mut expected = Config::from_preset("micro").unwrap();
        for assignment in [
            "model.vocabulary=512",
            "sparsity.sparsity=0.75",
            "train.steps=8",
            "train.lr=0.002",
            "optimiser.weight_decay=0.05",
            "optimiser.beta2=0.98",
            "optimiser.clip_norm=inf",
            "sparsity.groups={param_filter='blocks.0.mlp.*', sparsity=0}",
            "kernels.plans={ \"192x64@3072\" = \"csr/csr/csr\" }",
        ] {
            expected.set(assignment).unwrap();
        }
        expected.validate().unwrap();
        assert!(read.differences(&expected).is_empty(), "{:?}", read.differences(&expected));
        assert_eq!(read, expected);
    }

    #[test]
    fn settings_are_loaded_in_order_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "[model]\npreset = 'tiny'\n[train]\nlr = 0.5\nsteps = 3\n").unwrap();
        let config = Config::load(Base::File(&file), &["train.steps=4", "train.batch=5"], |c| {
            c.train.batch += 1;
        });
        let config = config.unwrap();
        assert_eq!((config.train.lr, config.train.steps, config.train.batch), (0.5, 4, 6));
        let again = Config::load(Base::Given(Box::new(config.clone())), &[""; 0], |_| ()).unwrap();
        assert_eq!(again, config);

        let kind = |base, set: &[&str]| Config::load(base, set, |_| ()).unwrap_err().kind();
        assert_eq!(kind(Base::Preset("tinny"), &[]), ErrorKind::Setting);
        assert_eq!(kind(Base::Preset("tiny"), &["train.stesp=1"]), ErrorKind::Setting);
        assert_eq!(kind(Base::File(&file), &["train.batch=0"]), ErrorKind::Setting);
        std::fs::write(&file, "[model]\npreset = 'tinny'\n").unwrap();
        assert_eq!(kind(Base::File(&file), &[]), ErrorKind::Malformed);
        assert_eq!(kind(Base::File(&folder.path().join("absent.toml")), &[]), ErrorKind::NotFound);
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
