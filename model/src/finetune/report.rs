//! [`TuningReport`]: what came of a fine-tuning run, for people and for programs.

use super::encode::Fit;
use super::settings::{Answer, Inactive, Settings, Weights};
use super::train::CellReport;
use crate::config::Config;
use crate::gpt::Gpt;
use crate::named::Named;
use crate::tasks::baselines::Baseline;
use crate::tasks::{Published, Task, TaskData, TaskScore, task};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The report's name in the run folder.
pub(super) const REPORT: &str = "report.json";

/// The pre-trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceModel {
    /// Its run folder.
    pub path: String,
    /// Preset that its settings come from.
    pub preset: String,
    /// Fraction of its linear layers' weights that pre-training left out.
    pub sparsity: f64,
    /// Weights of its linear layers, zeros included: the paper's size.
    pub linear_weights: usize,
    /// Weights that pre-training kept.
    pub nnz: usize,
    /// Tokens that pre-training saw, by its settings.
    pub tokens: u64,
}

impl SourceModel {
    /// Describes the model of a run.
    pub fn of(path: &Path, config: &Config, gpt: &Gpt) -> Self {
        let train = &config.train;
        let linear_weights: usize = gpt
            .linear_weights()
            .map(|weight| weight.shape.extents().iter().product::<usize>())
            .sum();
        let nnz: usize = gpt.linear_weights().map(|weight| weight.values.len()).sum();
        Self {
            path: path.display().to_string(),
            preset: config.model.preset.name.to_string(),
            sparsity: 1.0 - nnz as f64 / linear_weights as f64,
            linear_weights,
            nnz,
            tokens: (train.steps * train.batch * train.context) as u64,
        }
    }
}

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Scores of generated answers on test.
    pub generation: Vec<TaskScore>,
    /// Scores of the answers that likelihoods give.
    pub likelihood: Vec<TaskScore>,
    /// Generated answers that could not be read, and count as wrong.
    pub unparsable: usize,
    /// Margin over no label from which a likelihood answers, chosen on dev.
    pub threshold: f64,
    /// How the test examples fitted.
    pub fit: Fit,
    /// The training.
    pub cell: CellReport,
}

/// A score over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What is measured.
    pub name: String,
    /// Mean over seeds.
    pub mean: f64,
    /// Standard deviation over seeds (of a sample; 0 with one seed).
    pub std: f64,
    /// Every seed.
    pub per_seed: Vec<f64>,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuningReport {
    /// The task.
    pub task: String,
    /// What `value` measures: metric, unit, classes.
    pub metric: String,
    /// Mean over seeds on test, as a fraction.
    pub value: f64,
    /// Standard deviation over seeds.
    pub std: f64,
    /// Every seed's value.
    pub per_seed: Vec<f64>,
    /// How test was set apart.
    pub split: String,
    /// Which answers make the value.
    pub answer: Answer,
    /// Generated answers, by every metric of the task.
    pub generation: Vec<Summary>,
    /// Answers by likelihood, by every metric of the task.
    pub likelihood: Vec<Summary>,
    /// What can be had without a language model, on the same test.
    pub baselines: Vec<Baseline>,
    /// The pre-trained model.
    pub source: SourceModel,
    /// The settings.
    pub settings: Settings,
    /// Every seed.
    pub seeds: Vec<SeedReport>,
    /// What was left out.
    pub notes: Vec<String>,
}

impl TuningReport {
    /// Sums up.
    pub fn new(
        task: &dyn Task,
        settings: &Settings,
        data: &TaskData,
        source: SourceModel,
        seeds: Vec<SeedReport>,
        baselines: Vec<Baseline>,
    ) -> Self {
        let generation = summaries(&seeds, |seed| &seed.generation);
        let likelihood = summaries(&seeds, |seed| &seed.likelihood);
        let main = if settings.by_likelihood() { &likelihood[0] } else { &generation[0] };
        let notes = data.notes.clone();
        Self {
            task: task.name().into(),
            metric: main.name.clone(),
            value: main.mean,
            std: main.std,
            per_seed: main.per_seed.clone(),
            split: data.split.clone(),
            answer: settings.finetune.answer,
            generation,
            likelihood,
            baselines,
            source,
            settings: settings.clone(),
            seeds,
            notes,
        }
    }

    /// How the model was tuned, in a few words.
    pub fn method(&self) -> String {
        let tune = &self.settings.finetune;
        let weights = match (tune.weights, self.source.sparsity > 0.0, tune.inactive) {
            (Weights::Frozen, ..) => "frozen weights",
            (Weights::Sparse, true, _) => "sparse",
            (Weights::Dense, true, Inactive::Random) => "dense, random re-initialisation",
            _ => "dense",
        };
        match tune.prompt_tokens {
            0 => weights.to_string(),
            1 => format!("{weights}, 1 prompt token"),
            n => format!("{weights}, {n} prompt tokens"),
        }
    }

    /// Results of others; the task is known if the report is one of ours.
    pub fn published(&self) -> &'static [Published] {
        task(&self.task).map_or(&[], |task| task.published())
    }

    /// Unreadable answers of all seeds.
    fn unparsable(&self) -> usize {
        self.seeds.iter().map(|seed| seed.unparsable).sum()
    }

    /// The report for people.
    pub fn markdown(&self) -> String {
        let title = task(&self.task).map_or(&*self.task, |task| task.title());
        let source = &self.source;
        let cell = &self.seeds[0].cell.cell;
        let mut text = format!(
            "# {title}\n\n\
             *For research only, not for clinical use.*\n\n\
             **{:.2} %** {} (mean of {} seeds, standard deviation {:.2}), {}; answers by {}.\n\n\
             Model: {} of {} linear weights, {:.0} % left out in pre-training on {} tokens; \
             fine-tuned {}. Best cell on dev: batch {}, learning rate {:e}. Generated answers that \
             could not be read and count as wrong: {} of {}.\n\n\
             | on the same test examples | {} |\n|---|{}\n",
            100.0 * self.value,
            self.metric,
            self.seeds.len(),
            100.0 * self.std,
            self.split,
            self.answer.name(),
            source.preset,
            source.linear_weights,
            100.0 * source.sparsity,
            source.tokens,
            self.method(),
            cell.batch,
            cell.lr,
            self.unparsable(),
            self.seeds.iter().map(|seed| seed.fit.examples).sum::<usize>(),
            self.generation.iter().map(|s| &*s.name).collect::<Vec<_>>().join(" | "),
            "---|".repeat(self.generation.len()),
        );
        let mut row = |name: &str, values: Vec<String>| {
            text += &format!("| {name} | {} |\n", values.join(" | "));
        };
        let spread = |summaries: &[Summary]| {
            let value = |s: &Summary| format!("{:.2} ± {:.2}", 100.0 * s.mean, 100.0 * s.std);
            summaries.iter().map(value).collect::<Vec<_>>()
        };
        row("this model, generation", spread(&self.generation));
        row("this model, likelihood", spread(&self.likelihood));
        for baseline in &self.baselines {
            let values = baseline.scores.iter().map(|s| format!("{:.2}", 100.0 * s.value));
            row(&baseline.name, values.collect());
        }
        text += "\n| published, for reference | weights | sparsity | value |\n|---|---|---|---|\n";
        for Published { model, weights, sparsity, value } in self.published() {
            let weights = weights.map_or("–".into(), |n| format!("{:.0} M", n / 1e6));
            text += &format!(
                "| {model} | {weights} | {:.0} % | {:.2} |\n",
                100.0 * sparsity,
                100.0 * value
            );
        }
        if !self.notes.is_empty() {
            text += "\nNotes:\n\n";
            self.notes.iter().for_each(|note| text += &format!("* {note}\n"));
        }
        text
    }

    /// What the model is and is not for.
    pub fn model_card(&self) -> String {
        format!(
            "# MediSwift {}, fine-tuned for {}\n\n\
             **For research only. Not for clinical use:** this model has not been evaluated for any \
             medical purpose. Its answers may be wrong, outdated or harmful, and must not inform \
             the care of anyone.\n\n\
             Fine-tuned from `{}` ({}). On {}: {:.2} % {}.\n\n\
             ## Settings\n\n```toml\n{}```\n",
            self.source.preset,
            self.task,
            self.source.path,
            self.method(),
            self.split,
            100.0 * self.value,
            self.metric,
            self.settings.to_toml(),
        )
    }
}

/// Mean and deviation of every score.
fn summaries(
    seeds: &[SeedReport],
    scores: impl Fn(&SeedReport) -> &Vec<TaskScore>,
) -> Vec<Summary> {
    let count = scores(&seeds[0]).len();
    (0..count)
        .map(|at| {
            let per_seed: Vec<f64> = seeds.iter().map(|seed| scores(seed)[at].value).collect();
            let n = per_seed.len() as f64;
            let mean = per_seed.iter().sum::<f64>() / n;
            let squares: f64 = per_seed.iter().map(|value| (value - mean).powi(2)).sum();
            let std = if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
            Summary { name: scores(&seeds[0])[at].name.clone(), mean, std, per_seed }
        })
        .collect()
}
