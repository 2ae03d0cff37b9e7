//! [`Settings`]: everything that decides a fine-tuning run, as TOML tables.

use crate::config::checks::{require, require_fit, require_some};
use crate::config::moved;
use crate::config::tables::{settings, tables};
use crate::config::text::{Comment, Section, Tables, parse, parse_assignment};
use crate::config::value::{Setting, wrong_type};
use crate::config::{Config, OptimiserConfig};
use crate::error::{Error, Place};
use crate::named::named;
use crate::tasks::Task;
use mediswift_files::{self as files, SMALL};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::path::Path;
use toml::{Table, Value};

named! {
    /// What trains, values of `finetune.weights`.
    pub enum Weights: "value" {
        /// All weights: the mask falls.
        Dense = "dense",
        /// The weights that the mask keeps.
        Sparse = "sparse",
        /// The soft prompt alone.
        Frozen = "frozen",
    }
}

named! {
    /// How weights start that the mask had left out, values of `finetune.inactive`.
    pub enum Inactive: "value" {
        /// As zeros.
        Zero = "zero",
        /// As before pre-training.
        Random = "random",
    }
}

named! {
    /// Which answers make the score, values of `finetune.answer`.
    pub enum Answer: "value" {
        /// What the model writes.
        Generation = "generation",
        /// The label whose target is likeliest.
        Likelihood = "likelihood",
    }
}

tables! {
    /// Fine-tuning.
    ["finetune"] FinetuneConfig {
        /// Most passes over the training examples; at least 1.
        epochs: usize,
        /// Passes without a better dev score after which training stops; at least 1.
        patience: usize,
        /// How many seeds the best cell of the grid is trained with; at least 1.
        seeds: usize,
        /// The first seed, which the grid is searched with.
        seed: u64,
        /// Batch sizes of the grid.
        batch: Vec<usize>,
        /// Peak learning rates of the grid, above 0.
        lr: Vec<f64>,
        /// Examples per forward and backward pass, at most: smaller takes less memory.
        micro_batch: usize,
        /// Virtual tokens between source and target; 0 for no soft prompt.
        prompt_tokens: usize,
        /// Text whose tokens the prompt starts from, again and again if it is short; empty for
        /// random rows of the vocabulary.
        prompt_text: String,
        /// Peak learning rate of the prompt; 0 for that of the weights.
        prompt_lr: f64,
        /// What trains besides the prompt: dense (the mask falls, all weights), sparse (the mask
        /// stays), or frozen (nothing).
        weights: Weights,
        /// How weights start that the mask had left out: zero, or random as before pre-training.
        inactive: Inactive,
        /// Which answers make the score: generation, or likelihood of the labels' targets.
        answer: Answer,
        /// The form of the examples, as the task names it.
        form: String,
        /// The division into train, dev and test, as the task names it.
        split: String,
        /// Earlier stages, as the task names them; those whose file is missing are left out.
        stages: Vec<String>,
        /// Passes over the examples of an earlier stage; at least 1.
        stage_epochs: usize,
        /// Batch size of earlier stages; at least 1.
        stage_batch: usize,
        /// Peak learning rate of earlier stages, above 0.
        stage_lr: f64,
    }
}

settings! {
    /// A fine-tuning run.
    pub struct Settings {
        finetune: FinetuneConfig,
        optimiser: OptimiserConfig,
    }
}

/// Where settings start from, before single ones are changed.
#[derive(Clone, Debug)]
pub enum TuningBase<'a> {
    /// The paper's recipe for the task.
    Recipe,
    /// A file that changes keys of the recipe.
    File(&'a Path),
    /// Settings that are there already, as those of a run.
    Given(Box<Settings>),
}

impl Settings {
    /// The paper's recipe for a task.
    pub fn new(task: &dyn Task) -> Self {
        let recipe = task.recipe();
        Self {
            finetune: FinetuneConfig {
                epochs: recipe.epochs,
                patience: recipe.patience,
                seeds: 3,
                seed: 1,
                batch: recipe.batch.to_vec(),
                lr: recipe.lr.to_vec(),
                micro_batch: 8,
                prompt_tokens: recipe.prompt_tokens,
                prompt_text: String::new(),
                prompt_lr: 0.0,
                weights: Weights::Dense,
                inactive: Inactive::Zero,
                answer: Answer::Generation,
                form: task.forms()[0].into(),
                split: task.splits()[0].into(),
                stages: task.stages().iter().map(ToString::to_string).collect(),
                stage_epochs: 1,
                stage_batch: 32,
                stage_lr: 5e-5,
            },
            optimiser: OptimiserConfig {
                final_lr_fraction: 0.0,
                warmup_fraction: 0.1,
                weight_decay: 0.01,
                beta1: 0.9,
                beta2: 0.98,
                epsilon: 1e-8,
                clip_norm: 1.0,
            },
        }
    }

    /// The settings of a run for `task`, checked: those of `base`, changed by `assignments` as in
    /// [`Settings::set`].
    /// # Errors
    /// If a file cannot be read, an assignment is wrong, or a value is out of range.
    pub fn load(
        task: &dyn Task,
        base: TuningBase<'_>,
        assignments: &[impl AsRef<str>],
    ) -> Result<Self, Error> {
        let mut settings = match base {
            TuningBase::Recipe => Self::new(task),
            TuningBase::File(path) => {
                let text = files::read_text(path, SMALL)?;
                Self::from_toml(&text, path, task)?
            }
            TuningBase::Given(settings) => *settings,
        };
        assignments.iter().try_for_each(|assignment| settings.set(assignment.as_ref()))?;
        settings.validate(task)?;
        Ok(settings)
    }

    /// Reads a file that changes single keys of a task's recipe; `path` is for messages. Ranges are
    /// not checked yet: see [`Settings::validate`].
    /// # Errors
    /// If the text is not TOML, or has an unknown key or one of the wrong type.
    pub fn from_toml(text: &str, path: &Path, task: &dyn Task) -> Result<Self, Error> {
        let place = Place::file(path);
        let mut settings = Self::new(task);
        settings.overlay(parse(text, &place)?, &place)?;
        Ok(settings)
    }

    /// Changes one key, as in `finetune.epochs=3`. A single number stands for a grid of one.
    /// # Errors
    /// If the assignment is malformed, the key unknown or the value of the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (over, place) = parse_assignment(assignment)?;
        self.overlay(over, &place)
    }

    /// All settings as TOML; [`Settings::from_toml`] reads them back.
    /// # Panics
    /// If a seed or a count has 64 bits, which no TOML can hold.
    pub fn to_toml(&self) -> String {
        self.plain()
    }

    /// All settings as TOML, with a comment above every table and key that says what it is.
    /// # Panics
    /// As for [`Settings::to_toml`].
    pub fn to_commented_toml(&self) -> String {
        self.commented()
    }

    /// Keys that differ from those of `other`, as `finetune.seeds is 3 here, but 1 there`: a run goes on
    /// with the settings it was started with.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        self.differing(other, &[])
    }

    /// Checks every value.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub fn validate(&self, task: &dyn Task) -> Result<(), Error> {
        let Self { finetune: tune, optimiser } = self;
        let counts = [
            ("finetune.epochs", tune.epochs),
            ("finetune.patience", tune.patience),
            ("finetune.seeds", tune.seeds),
            ("finetune.micro_batch", tune.micro_batch),
            ("finetune.stage_epochs", tune.stage_epochs),
            ("finetune.stage_batch", tune.stage_batch),
        ];
        counts.into_iter().try_for_each(|(key, count)| require_some(key, count))?;
        for (key, cells) in [("finetune.batch", tune.batch.len()), ("finetune.lr", tune.lr.len())] {
            require(cells > 0, key, "empty", "have at least one value")?;
        }
        tune.batch.iter().try_for_each(|&batch| require_some("finetune.batch", batch))?;
        optimiser.validate()?;
        tune.lr.iter().try_for_each(|&lr| optimiser.check_rate("finetune.lr", lr))?;
        optimiser.check_rate("finetune.stage_lr", tune.stage_lr)?;
        if tune.prompt_lr != 0.0 {
            optimiser.check_rate("finetune.prompt_lr", tune.prompt_lr)?;
        }
        let names = [
            ("finetune.form", &tune.form, task.forms()),
            ("finetune.split", &tune.split, task.splits()),
        ];
        let stages = tune.stages.iter().map(|stage| ("finetune.stages", stage, task.stages()));
        for (key, name, known) in names.into_iter().chain(stages) {
            if !known.contains(&&**name) {
                return Err(Error::unknown(key, "value", name, known.iter().copied()));
            }
        }
        let has_something = tune.weights != Weights::Frozen || tune.prompt_tokens > 0;
        require_fit(has_something, "finetune.weights", || {
            "frozen leaves only the prompt to train: set finetune.prompt_tokens".into()
        })
    }

    /// Whether the likelihood of targets answers.
    pub(crate) fn by_likelihood(&self) -> bool {
        self.finetune.answer == Answer::Likelihood
    }

    /// Examples per pass, in training and in judging: never more than the largest step has.
    pub(crate) fn micro_batch(&self) -> usize {
        let FinetuneConfig { batch, stage_batch, micro_batch, .. } = &self.finetune;
        let largest = batch.iter().copied().max().unwrap_or(1).max(*stage_batch);
        largest.min(*micro_batch)
    }

    /// The settings of one training of the model that `config` describes.
    pub fn training(&self, config: &Config, batch: usize, lr: f64, steps: usize) -> Config {
        let mut config = config.clone();
        let train = &mut config.train;
        (train.steps, train.batch, train.lr) = (steps, batch, lr);
        (train.micro_batch, train.context) = (self.micro_batch(), config.model.context);
        config.optimiser = self.optimiser.clone();
        config
    }
}

/// Reads all settings, as a report has them; reports from before `[optimiser]` have its keys in
/// `[finetune]`.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Read {
            finetune: Table,
            #[serde(default)]
            optimiser: Table,
        }
        let Read { mut finetune, mut optimiser } = Read::deserialize(deserializer)?;
        for key in moved::TO_OPTIMISER {
            optimiser.extend(finetune.remove_entry(key));
        }
        Ok(Self {
            finetune: finetune.try_into().map_err(de::Error::custom)?,
            optimiser: optimiser.try_into().map_err(de::Error::custom)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{TASKS, task};

    #[test]
    fn recipes_are_valid_and_survive_toml() {
        for task in TASKS {
            let settings = Settings::new(*task);
            settings.validate(*task).unwrap();
            let text = settings.to_toml();
            assert_eq!(Settings::from_toml(&text, Path::new("f.toml"), *task).unwrap(), settings);
        }
    }

    #[test]
    fn every_key_is_printed_below_its_comment() {
        for task in TASKS {
            let settings = Settings::new(*task);
            let text = settings.to_commented_toml();
            assert_eq!(Settings::from_toml(&text, Path::new("f.toml"), *task).unwrap(), settings);
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.windows(2).filter(|pair| !pair[1].is_empty()) {
                let explained = pair[0].starts_with("# ") || pair[1].starts_with('#');
                assert!(explained, "{} has no comment:\n{text}", pair[1]);
            }
        }
    }

    #[test]
    fn keys_that_have_moved_are_found_in_their_old_place() {
        let pubmedqa = task("pubmedqa").unwrap();
        let default = Settings::new(pubmedqa);
        let mut json = serde_json::to_value(&default).unwrap();
        for key in moved::TO_OPTIMISER {
            let (mut old, mut new) = (default.clone(), default.clone());
            old.set(&format!("finetune.{key}=0.25")).unwrap();
            new.set(&format!("optimiser.{key}=0.25")).unwrap();
            assert_eq!(old, new, "{key}");
            assert_ne!(new, default, "{key}");
            let text = format!("[finetune]\n{key} = 0.25\n");
            assert_eq!(Settings::from_toml(&text, Path::new("f.toml"), pubmedqa).unwrap(), new);
            let value = json["optimiser"].as_object_mut().unwrap().remove(key).unwrap();
            json["finetune"][key] = value;
        }
        // As reports had them.
        json.as_object_mut().unwrap().remove("optimiser");
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), default);
        let json = serde_json::to_value(&default).unwrap();
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), default);
    }

    #[test]
    fn single_keys_change_and_mistakes_are_named() {
        let pubmedqa = task("pubmedqa").unwrap();
        let mut settings = Settings::new(pubmedqa);
        for assignment in ["finetune.epochs=1", "finetune.batch=4", "finetune.lr=[1e-3, 1]"] {
            settings.set(assignment).unwrap();
        }
        assert_eq!(settings.finetune.epochs, 1);
        assert_eq!((settings.finetune.batch, settings.finetune.lr), (vec![4], vec![1e-3, 1.0]));
        for (assignment, expected) in [
            ("finetune.epoch=1", "did you mean 'epochs'?"),
            ("train.steps=1", "unknown table 'train': did you mean 'finetune'?"),
            ("finetune.epochs=x", "finetune.epochs must be a whole number of at least 0"),
            ("finetune.epochs=0", "finetune.epochs: is 0, but must be at least 1"),
            ("finetune.batch=[]", "finetune.batch: is empty"),
            ("finetune.batch=[8,0]", "finetune.batch: is 0, but must be at least 1"),
            ("finetune.batch=[8,x]", "finetune.batch must be a whole number of at least 0"),
            ("finetune.batch=[8,'x']", "finetune.batch[2] must be a whole number of at least 0"),
            ("finetune.lr=[]", "finetune.lr: is empty"),
            ("finetune.lr=nan", "finetune.lr: is NaN, but must be a finite number above 0"),
            (
                "finetune.lr=[1e-3,1e38]",
                "finetune.lr: is 1e38, but must leave lr / (1 - beta1) finite",
            ),
            ("finetune.stage_lr=0", "finetune.stage_lr: is 0.0, but must be"),
            ("finetune.prompt_lr=-1", "finetune.prompt_lr: is -1.0, but must be"),
            ("finetune.inactive=one", "finetune.inactive: unknown value 'one'"),
            ("finetune.answer=likelyhood", "did you mean 'likelihood'?"),
            ("finetune.weights=dens", "did you mean 'dense'?"),
            ("finetune.form=document", "unknown value 'document'"),
            ("finetune.stages=pqab", "did you mean 'pqaa'?"),
            ("optimiser.clip_norm=0", "optimiser.clip_norm: is 0.0, but must be above 0"),
            ("optimiser.beta2=1", "optimiser.beta2: is 1.0"),
            ("finetune.beta2=1", "optimiser.beta2: is 1.0"),
        ] {
            let mut settings = Settings::new(pubmedqa);
            let error = settings.set(assignment).and_then(|()| settings.validate(pubmedqa));
            let message = error.unwrap_err().to_string();
            assert!(message.contains(expected), "{assignment}: {message}");
        }
        let mut settings = Settings::new(pubmedqa);
        settings.set("finetune.weights=frozen").unwrap();
        settings.validate(pubmedqa).unwrap();
        settings.set("finetune.prompt_tokens=0").unwrap();
        assert!(settings.validate(pubmedqa).is_err());
    }
}
