//! What a task is: examples, how to read and write answers, and scores.

use crate::error::Error;
use std::path::PathBuf;

/// What an answer is that cannot be read (BioGPT's word).
pub const FAILED: &str = "failed";

/// Something to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its name in its files, such as a PMID.
    pub id: String,
    /// Beginning of the source, which is never cut: the question.
    pub head: String,
    /// What follows it; the beginning of this is cut where a model's positions do not suffice.
    pub passage: String,
    /// The right labels, as places in [`Task::labels`], in rising order; may be none.
    pub labels: Vec<usize>,
}

/// Examples of an earlier stage of training.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name in `finetune.stages`.
    pub name: String,
    /// What to train on.
    pub train: Vec<Example>,
    /// What to stop by.
    pub dev: Vec<Example>,
    /// Whether the labels of `train` are still missing: the model of the stage before gives them.
    pub unlabelled: bool,
}

/// A task's examples.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskData {
    /// Stages before the last one, in order.
    pub stages: Vec<Stage>,
    /// What to train on.
    pub train: Vec<Example>,
    /// What to choose and stop by.
    pub dev: Vec<Example>,
    /// What to be judged by.
    pub test: Vec<Example>,
    /// How they were split, for reports.
    pub split: String,
    /// What was left out, such as a stage whose file is missing.
    pub notes: Vec<String>,
}

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Folders that the files may lie in; the first is the task's own.
    pub folders: &'a [PathBuf],
    /// One of [`Task::forms`].
    pub form: &'a str,
    /// One of [`Task::splits`].
    pub split: &'a str,
    /// Stages wanted before the last, of [`Task::stages`].
    pub stages: &'a [String],
    /// Whether examples to be judged by may also be trained on.
    pub allow_overlap: bool,
}

/// Settings that suit a task: the paper's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Most passes over the training examples.
    pub epochs: usize,
    /// Passes without a better score on dev after which training stops.
    pub patience: usize,
    /// Batch sizes to try.
    pub batch: &'static [usize],
    /// Peak learning rates to try.
    pub lr: &'static [f64],
    /// Virtual tokens between source and target.
    pub prompt_tokens: usize,
}

/// A published result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The model.
    pub model: &'static str,
    /// Weights of its linear layers as the paper counts them, where it says: those of the dense model.
    pub weights: Option<f64>,
    /// Sparsity of its pre-training.
    pub sparsity: f64,
    /// The score, as a fraction.
    pub value: f64,
}

impl Published {
    pub(super) const fn medi_swift(
        model: &'static str,
        weights: f64,
        sparsity: f64,
        value: f64,
    ) -> Self {
        Self { model, weights: Some(weights), sparsity, value }
    }

    pub(super) const fn other(model: &'static str, value: f64) -> Self {
        Self { model, weights: None, sparsity: 0.0, value }
    }
}

/// A measure of answers.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TaskScore {
    /// What is measured: metric, unit and classes.
    pub name: String,
    /// From 0 to 1, larger is better.
    pub value: f64,
}

/// A benchmark.
pub trait Task: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Its name in reports.
    fn title(&self) -> &'static str;

    /// Every label as it is written, in the order of its number.
    fn labels(&self) -> &'static [&'static str];

    /// Whether an example has exactly one label.
    fn one_label(&self) -> bool;

    /// The forms that examples can be given in; the first is the default.
    fn forms(&self) -> &'static [&'static str];

    /// The known divisions into train, dev and test; the first is the default.
    fn splits(&self) -> &'static [&'static str];

    /// The stages of training before the last, in order; all are optional.
    fn stages(&self) -> &'static [&'static str] {
        &[]
    }

    /// The paper's recipe.
    fn recipe(&self) -> Recipe;

    /// Reads the examples.
    /// # Errors
    /// If a file is missing or malformed, an id appears twice, or an example is both in test and
    /// in train or dev.
    fn load(&self, request: &Request<'_>) -> Result<TaskData, Error>;

    /// What every target begins with.
    fn template(&self) -> &'static str;

    /// The target of an example with these labels.
    fn target(&self, labels: &[usize]) -> String;

    /// The words that a generated text answers with, or [`FAILED`] alone.
    fn parse(&self, text: &str) -> Vec<String>;

    /// Scores answers in the order of the examples; the first score is the task's metric.
    fn score(&self, form: &str, examples: &[Example], answers: &[Vec<String>]) -> Vec<TaskScore>;

    /// Results of others, for comparison.
    fn published(&self) -> &'static [Published];

    /// The place of a label.
    fn label(&self, word: &str) -> Option<usize> {
        self.labels().iter().position(|label| *label == word)
    }

    /// Labels as answers.
    fn words(&self, labels: &[usize]) -> Vec<String> {
        labels.iter().map(|&label| self.labels()[label].to_string()).collect()
    }
}

/// What follows `template` in `text`, without the final full stop (BioGPT's reading).
pub(super) fn after_template<'t>(text: &'t str, template: &str) -> Option<&'t str> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    Some(text.split_once(template)?.1.trim())
}
