//! Fine-tuning tasks: files become [`Example`]s, generated texts become scores.
//!
//! A task is one file and one line in [`TASKS`]; its name is what `mediswift finetune` takes. A
//! task turns labels into plain words (MediSwift §3.3, after BioGPT): the model reads a source and
//! writes a target such as `the answer to the question given the context is yes.` What it wrote is
//! read back by [`Task::parse`], and whatever cannot be read counts as wrong.
//!
//! * `pubmedqa`, `hoc`: the tasks of the paper; [`metrics`]: their scores.
//! * [`baselines`]: what can be had without a language model.

pub mod baselines;
mod checks;
mod files;
pub(crate) mod hoc;
pub mod metrics;
pub(crate) mod pubmedqa;
mod python_random;
mod task;

use task::after_template;
pub use task::{Example, FAILED, Published, Recipe, Request, Stage, Task, TaskData, TaskScore};

use crate::error::Error;
use crate::named::Named;

/// Every task.
pub const TASKS: &[&dyn Task] = &[&pubmedqa::PubMedQa, &hoc::Hoc];

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
