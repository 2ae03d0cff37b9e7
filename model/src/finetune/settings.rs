//! [`Settings`]: everything that decides a fine-tuning run, as the TOML table `[finetune]`.

use crate::config::{Config, overlay, parse_assignment, require};
use crate::error::Error;
use crate::tasks::Task;
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// A fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `[finetune]`.
    pub finetune: Finetune,
}

/// Keys of `[finetune]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finetune {
    /// Most passes over the training examples.
    pub epochs: usize,
    /// Passes without a better dev score after which training stops.
    pub patience: usize,
    /// How many seeds the best cell of the grid is trained with.
    pub seeds: usize,
    /// The first seed, which the grid is searched with.
    pub seed: u64,
    /// Batch sizes of the grid.
    pub batch: Vec<usize>,
    /// Peak learning rates of the grid.
    pub lr: Vec<f64>,
    /// Examples per forward and backward pass, at most.
    pub micro_batch: usize,
    /// Virtual tokens between source and target; 0 for no soft prompt.
    pub prompt_tokens: usize,
    /// Text whose tokens the prompt starts from, again and again if it is short; empty for random
    /// rows of the vocabulary.
    pub prompt_text: String,
    /// Peak learning rate of the prompt; 0 for that of the weights.
    pub prompt_lr: f64,
    /// `dense`: the mask falls and all weights train; `sparse`: the mask stays; `frozen`: only the
    /// prompt trains.
    pub weights: String,
    /// How weights start that the mask had left out: `zero`, or `random` as before pre-training.
    pub inactive: String,
    /// Which answers make the score: `generation`, or `likelihood` of the labels' targets.
    pub answer: String,
    /// The form of the examples, as the task names it.
    pub form: String,
    /// The division into train, dev and test, as the task names it.
    pub split: String,
    /// Earlier stages, as the task names them; those whose file is missing are left out.
    pub stages: Vec<String>,
    /// Passes over the examples of an earlier stage.
    pub stage_epochs: usize,
    /// Batch size of earlier stages.
    pub stage_batch: usize,
    /// Peak learning rate of earlier stages.
    pub stage_lr: f64,
    /// Fraction of the steps over which the learning rate rises.
    pub warmup_fraction: f64,
    /// Last learning rate, as a fraction of the peak.
    pub final_lr_fraction: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Global gradient norm above which gradients are scaled down.
    pub clip_norm: f64,
}

/// Values of `finetune.weights`.
const WEIGHTS: [&str; 3] = ["dense", "sparse", "frozen"];
const INACTIVE: [&str; 2] = ["zero", "random"];
const ANSWERS: [&str; 2] = ["generation", "likelihood"];

impl Settings {
    /// The paper's recipe for a task.
    pub fn new(task: &dyn Task) -> Self {
        let recipe = task.recipe();
        Self {
            finetune: Finetune {
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
                weights: WEIGHTS[0].into(),
                inactive: INACTIVE[0].into(),
                answer: ANSWERS[0].into(),
                form: task.forms()[0].into(),
                split: task.splits()[0].into(),
                stages: task.stages().iter().map(ToString::to_string).collect(),
                stage_epochs: 1,
                stage_batch: 32,
                stage_lr: 5e-5,
                warmup_fraction: 0.1,
                final_lr_fraction: 0.0,
                weight_decay: 0.01,
                beta1: 0.9,
                beta2: 0.98,
                epsilon: 1e-8,
                clip_norm: 1.0,
            },
        }
    }

    /// Reads a file that changes single keys of a task's recipe; `path` is for messages.
    /// # Errors
    /// If the text is not TOML, or has an unknown key or one of the wrong type.
    pub fn from_toml(text: &str, path: &Path, task: &dyn Task) -> Result<Self, Error> {
        let place = path.display().to_string();
        let over: Table = text.parse().map_err(|error: toml::de::Error| {
            Error::config(&place, error.message().replace('\n', "; "))
        })?;
        overlay(Self::new(task).to_table(), over, &place)
    }

    /// Changes one key, as in `finetune.epochs=3`.
    /// # Errors
    /// If the assignment is malformed, the key unknown or the value of the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let mut over = parse_assignment(assignment)?;
        // A single number stands for a grid of one.
        if let Some(keys) = over.get_mut("finetune").and_then(Value::as_table_mut) {
            for key in ["batch", "lr", "stages"] {
                if let Some(value) = keys.get_mut(key).filter(|value| !value.is_array()) {
                    *value = Value::Array(vec![value.clone()]);
                }
            }
        }
        *self = overlay(self.to_table(), over, &format!("--set {assignment}"))?;
        Ok(())
    }

    fn to_table(&self) -> Table {
        Table::try_from(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// All settings as TOML.
    /// # Panics
    /// If a seed or a count has 64 bits, which no TOML can hold.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// Checks every value.
    /// # Errors
    /// The first key that is out of range, with what it must be.
    pub fn validate(&self, task: &dyn Task) -> Result<(), Error> {
        let tune = &self.finetune;
        let counts = [
            ("finetune.epochs", tune.epochs),
            ("finetune.patience", tune.patience),
            ("finetune.seeds", tune.seeds),
            ("finetune.micro_batch", tune.micro_batch),
            ("finetune.stage_epochs", tune.stage_epochs),
            ("finetune.stage_batch", tune.stage_batch),
            ("finetune.batch", tune.batch.iter().copied().min().unwrap_or(0)),
        ];
        for (key, count) in counts {
            require(count > 0, key, || "must be at least 1, and a grid must not be empty".into())?;
        }
        require(!tune.lr.is_empty(), "finetune.lr", || "a grid must not be empty".into())?;
        for &lr in tune.lr.iter().chain([&tune.stage_lr, &tune.epsilon]) {
            require(lr.is_finite() && lr > 0.0, "finetune.lr, stage_lr and epsilon", || {
                format!("{lr} is no finite number above 0")
            })?;
        }
        for (key, value) in
            [("finetune.prompt_lr", tune.prompt_lr), ("finetune.weight_decay", tune.weight_decay)]
        {
            require(value.is_finite() && value >= 0.0, key, || {
                format!("is {value}, but must be a finite number of at least 0")
            })?;
        }
        require(tune.clip_norm > 0.0, "finetune.clip_norm", || "must be above 0".into())?;
        for (key, value, most) in [
            ("finetune.warmup_fraction", tune.warmup_fraction, 1.0),
            ("finetune.final_lr_fraction", tune.final_lr_fraction, 1.0),
            ("finetune.beta1", tune.beta1, 1.0 - f64::EPSILON),
            ("finetune.beta2", tune.beta2, 1.0 - f64::EPSILON),
        ] {
            require((0.0..=most).contains(&value), key, || format!("is {value}, out of [0, 1]"))?;
        }
        let names = [
            ("finetune.weights", &tune.weights, &WEIGHTS[..]),
            ("finetune.inactive", &tune.inactive, &INACTIVE[..]),
            ("finetune.answer", &tune.answer, &ANSWERS[..]),
            ("finetune.form", &tune.form, task.forms()),
            ("finetune.split", &tune.split, task.splits()),
        ];
        let stages = tune.stages.iter().map(|stage| ("finetune.stages", stage, task.stages()));
        for (key, name, known) in names.into_iter().chain(stages) {
            if !known.contains(&&**name) {
                return Err(Error::unknown(key, "value", name, known.iter().copied()));
            }
        }
        require(tune.weights != "frozen" || tune.prompt_tokens > 0, "finetune.weights", || {
            "frozen leaves only the prompt to train: set finetune.prompt_tokens".into()
        })
    }

    /// Whether the mask of a sparse model falls.
    pub fn is_dense(&self) -> bool {
        self.finetune.weights == WEIGHTS[0]
    }

    /// Whether only the prompt trains.
    pub fn is_frozen(&self) -> bool {
        self.finetune.weights == WEIGHTS[2]
    }

    /// Whether inactive weights start at random.
    pub fn is_random(&self) -> bool {
        self.finetune.inactive == INACTIVE[1]
    }

    /// Whether the likelihood of targets answers.
    pub fn by_likelihood(&self) -> bool {
        self.finetune.answer == ANSWERS[1]
    }

    /// The settings of one training of the model that `config` describes.
    pub fn training(&self, config: &Config, batch: usize, lr: f64, steps: usize) -> Config {
        let tune = &self.finetune;
        let mut config = config.clone();
        let train = &mut config.train;
        (train.steps, train.batch, train.lr) = (steps, batch, lr);
        (train.micro_batch, train.context) = (tune.micro_batch, config.model.context);
        train.warmup_fraction = tune.warmup_fraction;
        train.final_lr_fraction = tune.final_lr_fraction;
        train.weight_decay = tune.weight_decay;
        (train.beta1, train.beta2, train.epsilon) = (tune.beta1, tune.beta2, tune.epsilon);
        train.clip_norm = tune.clip_norm;
        config
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
            ("finetune.epochs=0", "finetune.epochs: must be at least 1"),
            ("finetune.batch=[]", "finetune.batch: must be at least 1"),
            ("finetune.lr=nan", "NaN is no finite number above 0"),
            ("finetune.weights=dens", "did you mean 'dense'?"),
            ("finetune.form=document", "unknown value 'document'"),
            ("finetune.stages=pqab", "did you mean 'pqaa'?"),
            ("finetune.clip_norm=0", "finetune.clip_norm: must be above 0"),
            ("finetune.beta2=1", "finetune.beta2: is 1"),
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
