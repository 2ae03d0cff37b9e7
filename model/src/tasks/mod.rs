//! Fine-tuning tasks: files become [`Example`]s, generated texts become scores.
//!
//! A task is one file and one line in [`TASKS`]; its name is what `mediswift finetune` takes. A
//! task turns labels into plain words (MediSwift §3.3, after BioGPT): the model reads a source and
//! writes a target such as `the answer to the question given the context is yes.` What it wrote is
//! read back by [`Task::parse`], and whatever cannot be read counts as wrong.
//!
//! * [`pubmedqa`], [`hoc`]: the tasks of the paper; [`metrics`]: their scores.
//! * [`baselines`]: what can be had without a language model.

pub mod baselines;
mod files;
pub mod hoc;
pub mod metrics;
pub mod pubmedqa;
mod python_random;

use crate::error::Error;
use crate::named::Named;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Every task.
pub const TASKS: &[&dyn Task] = &[&pubmedqa::PubMedQa, &hoc::Hoc];

/// What an answer is that cannot be read (BioGPT's word).
pub const FAILED: &str = "failed";

/// The task of that name.
/// # Errors
/// If there is none; the message names the nearest.
pub fn task(name: &str) -> Result<&'static dyn Task, Error> {
    Named::named(name, "finetune")
}

impl Named for &'static dyn Task {
    const WHAT: &'static str = "task";

    fn all() -> impl Iterator<Item = Self> {
        TASKS.iter().copied()
    }

    fn name(&self) -> &'static str {
        Task::name(*self)
    }
}

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
    const fn medi_swift(model: &'static str, weights: f64, sparsity: f64, value: f64) -> Self {
        Self { model, weights: Some(weights), sparsity, value }
    }

    const fn other(model: &'static str, value: f64) -> Self {
        Self { model, weights: None, sparsity: 0.0, value }
    }
}

/// A measure of answers.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Score {
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
    fn score(&self, form: &str, examples: &[Example], answers: &[Vec<String>]) -> Vec<Score>;

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
fn after_template<'t>(text: &'t str, template: &str) -> Option<&'t str> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    Some(text.split_once(template)?.1.trim())
}

/// Runs of white space as single blanks, none at the ends.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Refuses examples that are in test and in train or dev, by id or, if wanted, by source.
fn check_overlap(data: &TaskData, request: &Request<'_>, by_source: bool) -> Result<(), Error> {
    if request.allow_overlap {
        return Ok(());
    }
    let tested: HashSet<&str> = data.test.iter().map(|example| &*example.id).collect();
    let compared = if by_source { &data.test[..] } else { &[] };
    let sources: HashMap<(&str, &str), &str> =
        compared.iter().map(|e| ((&*e.head, &*e.passage), &*e.id)).collect();
    let stages = data.stages.iter().flat_map(|s| [(&*s.name, &s.train), (&*s.name, &s.dev)]);
    let parts = [("train", &data.train), ("dev", &data.dev)].into_iter().chain(stages);
    for (part, example) in parts.flat_map(|(part, list)| list.iter().map(move |e| (part, e))) {
        let id = &example.id;
        let place = request.folders[0].display().to_string();
        let advice = "take it out, or allow it with --allow-overlap";
        if tested.contains(&**id) {
            let problem = format!("example {id} is in {part} and in test: {advice}");
            return Err(Error::config(place, problem));
        }
        if let Some(twin) = sources.get(&(&*example.head, &*example.passage)) {
            let problem =
                format!("example {id} of {part} has the source of {twin} in test: {advice}");
            return Err(Error::config(place, problem));
        }
    }
    Ok(())
}

/// Refuses an id that appears twice.
fn check_ids<'a>(place: &str, ids: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(Error::config(place, format!("id {id} appears twice: keep one of them")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_back_and_begin_with_the_template() {
        for task in TASKS {
            let count = task.labels().len();
            let mut sets: Vec<Vec<usize>> = (0..count).map(|label| vec![label]).collect();
            if !task.one_label() {
                sets.extend([vec![], vec![0, 3, 9], (0..count).collect()]);
            }
            for labels in sets {
                let target = task.target(&labels);
                assert!(target.starts_with(task.template()), "{target}");
                let words: Vec<String> = task.parse(&format!(" {target} "));
                let found: Vec<usize> = words.iter().filter_map(|w| task.label(w)).collect();
                assert_eq!(found, labels, "{target}");
            }
            assert_eq!(task.parse("the answer to another question"), [FAILED]);
            assert_eq!(task.parse(""), [FAILED]);
        }
    }

    #[test]
    fn an_unknown_task_names_the_nearest() {
        let error = task("pubmedq").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("did you mean 'pubmedqa'?"), "{error}");
    }
}
