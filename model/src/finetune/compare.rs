//! Fine-tuned runs of one task side by side.

use super::report::{REPORT, Summary, TuningReport};
use super::settings::Answer;
use crate::error::Error;
use crate::tasks::Published;
use crate::tasks::baselines::Baseline;
use mediswift_files::{self as files, SMALL};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Runs that answered the same examples and were scored by the same metric.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// What `value` measures: metric, unit, classes.
    pub metric: String,
    /// How test was set apart.
    pub split: String,
    /// What can be had without a language model.
    pub baselines: Vec<Baseline>,
    /// At least one run, in the order in which they were named.
    pub rows: Vec<Compared>,
    #[serde(skip)]
    published: &'static [Published],
    #[serde(skip)]
    notes: BTreeSet<String>,
}

/// One of the runs.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its folder.
    pub path: String,
    /// Preset of the pre-trained model.
    pub preset: String,
    /// Weights of its linear layers, zeros included.
    pub linear_weights: usize,
    /// Weights of its linear layers that pre-training kept.
    #[serde(skip)]
    pub nnz: usize,
    /// Fraction of them that pre-training left out.
    pub sparsity: f64,
    /// Tokens that pre-training saw.
    pub tokens: u64,
    /// How the model was tuned, in a few words.
    pub method: String,
    /// Which answers make the value.
    pub answer: Answer,
    /// Mean over seeds on test, as a fraction.
    pub value: f64,
    /// Standard deviation over seeds.
    pub std: f64,
    /// Every seed's value.
    pub per_seed: Vec<f64>,
    /// Generated answers, by every metric of the task.
    pub generation: Vec<Summary>,
    /// Answers by likelihood, by every metric of the task.
    pub likelihood: Vec<Summary>,
}

/// Scores of models alike but in size: what a chart draws as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What they have in common.
    pub name: String,
    /// Each of them.
    pub points: Vec<Scored>,
}

/// The score of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// What it is called, if that says more than the series does.
    pub name: Option<String>,
    /// Weights that pre-training kept.
    pub weights: f64,
    /// The score in %.
    pub score: f64,
    /// Its standard deviation over seeds, in % too; 0 of a single one.
    pub std: f64,
}

impl Comparison {
    /// Compares finished runs by the reports in their folders.
    /// # Errors
    /// If a report cannot be read, or is of another task, metric or split than the first.
    /// # Panics
    /// If no run is named.
    #[track_caller]
    pub fn read(runs: &[PathBuf]) -> Result<Self, Error> {
        let (first, others) = runs.split_first().expect("a run to compare");
        let mut comparison = Self::new(first, &read(first)?);
        let subject =
            |task: &str, metric: &str, split: &str| format!("{task}: {metric} on {split}");
        let wanted = subject(&comparison.task, &comparison.metric, &comparison.split);
        for run in others {
            let report = read(run)?;
            let found = subject(&report.task, &report.metric, &report.split);
            if found != wanted {
                let first = first.display();
                let problem =
                    format!("has {found}, but {first} has {wanted}: they cannot be compared");
                return Err(Error::incompatible(run, problem));
            }
            comparison.add(run, &report);
        }
        Ok(comparison)
    }

    /// One run by itself.
    pub fn new(run: &Path, report: &TuningReport) -> Self {
        let mut comparison = Self {
            task: report.task.clone(),
            metric: report.metric.clone(),
            split: report.split.clone(),
            baselines: report.baselines.clone(),
            rows: Vec::new(),
            published: report.published(),
            notes: BTreeSet::new(),
        };
        comparison.add(run, report);
        comparison
    }

    fn add(&mut self, run: &Path, report: &TuningReport) {
        let source = &report.source;
        self.rows.push(Compared {
            path: run.display().to_string(),
            preset: source.preset.clone(),
            linear_weights: source.linear_weights,
            nnz: source.nnz,
            sparsity: source.sparsity,
            tokens: source.tokens,
            method: report.method(),
            answer: report.answer,
            value: report.value,
            std: report.std,
            per_seed: report.per_seed.clone(),
            generation: report.generation.clone(),
            likelihood: report.likelihood.clone(),
        });
        self.notes.extend(report.notes.iter().cloned());
    }

    /// The runs by sparsity and method.
    pub fn runs_by_size(&self) -> Vec<Series> {
        grouped(self.rows.iter().map(|row| {
            let name = format!("{:.0} % sparse pre-training, {}", 100.0 * row.sparsity, row.method);
            let folder = Path::new(&row.path).file_name();
            let scored = Scored {
                name: folder.map(|folder| folder.to_string_lossy().into_owned()),
                weights: row.nnz as f64,
                score: 100.0 * row.value,
                std: if row.std.is_finite() { 100.0 * row.std } else { 0.0 },
            };
            (name, scored)
        }))
    }

    /// The paper's models by sparsity.
    pub fn published_by_size(&self) -> Vec<Series> {
        grouped(self.published.iter().filter_map(|published| {
            let kept = published.weights? * (1.0 - published.sparsity);
            let name = format!("MediSwift paper, {:.0} % sparse", 100.0 * published.sparsity);
            let score = 100.0 * published.value;
            Some((name, Scored { name: None, weights: kept, score, std: 0.0 }))
        }))
    }

    /// A table for people.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}, {}. Mean and standard deviation over seeds, in %. For research only, not for clinical \
             use.\n\n\
             | run | model | pre-training | fine-tuning | seeds | generation | likelihood |\n\
             |---|---|---|---|---|---|---|\n",
            self.metric, self.split
        );
        for row in &self.rows {
            let (generation, likelihood) = (&row.generation[0], &row.likelihood[0]);
            text += &format!(
                "| {} | {} ({:.1} M) | {:.0} % sparse, {:.1} M tokens | {} | {} | {:.2} ± {:.2} | {:.2} ± {:.2} |\n",
                row.path,
                row.preset,
                row.linear_weights as f64 / 1e6,
                100.0 * row.sparsity,
                row.tokens as f64 / 1e6,
                row.method,
                row.per_seed.len(),
                100.0 * generation.mean,
                100.0 * generation.std,
                100.0 * likelihood.mean,
                100.0 * likelihood.std,
            );
        }
        for baseline in &self.baselines {
            let value = 100.0 * baseline.scores[0].value;
            text += &format!("| {} | – | – | – | – | {value:.2} | – |\n", baseline.name);
        }
        if !self.notes.is_empty() {
            text += "\nNotes:\n\n";
            self.notes.iter().for_each(|note| text += &format!("* {note}\n"));
        }
        text
    }
}

fn read(run: &Path) -> Result<TuningReport, Error> {
    let path = run.join(REPORT);
    let text = files::read_text(&path, SMALL).map_err(|error| match error.source.kind() {
        ErrorKind::NotFound => Error::not_found(&path, "there is no report: finish the run first"),
        _ => error.into(),
    })?;
    let wrong = |error| format!("not the report of a fine-tuning run: {error}");
    serde_json::from_str(&text).map_err(|error| Error::malformed(&path, wrong(error)))
}

/// Points of the same name together, names in the order in which they first appear.
fn grouped(points: impl Iterator<Item = (String, Scored)>) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for (name, point) in points {
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_one_name_make_one_series() {
        let points = [("b", 1.0), ("a", 2.0), ("b", 3.0)];
        let scored = |score| Scored { name: None, weights: 1.0, score, std: 0.0 };
        let found = grouped(points.into_iter().map(|(name, x)| (name.to_string(), scored(x))));
        let names: Vec<&str> = found.iter().map(|series| &*series.name).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(found[0].points, [scored(1.0), scored(3.0)]);
    }

    #[test]
    fn what_is_no_finished_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [folder.path().to_path_buf()];
        let none = Comparison::read(&runs).unwrap_err().to_string();
        assert!(none.contains("finish the run first"), "{none}");
        std::fs::write(folder.path().join(REPORT), "{}").unwrap();
        let other = Comparison::read(&runs).unwrap_err().to_string();
        assert!(other.contains("not the report of a fine-tuning run"), "{other}");
    }
}
