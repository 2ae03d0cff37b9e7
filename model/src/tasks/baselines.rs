//! What can be had without a language model: the commonest answer, and words in a bag.
//!
//! **Majority** answers every test example with the set of labels that is commonest in train.
//!
//! **TF-IDF + linear** weighs the words of a source by tf · idf with idf = ln((1 + n) / (1 + df)) + 1
//! for n examples of which df have the word, scaled to Euclidean norm 1 (scikit-learn's
//! definition), and fits one logistic regression per label,
//!
//! ```text
//! min over w, b   Σ ln(1 + exp(−y (w·x + b))) + |w|² / 2C,      y = ±1
//! ```
//!
//! by Nesterov's accelerated gradient descent, which is deterministic and needs no tuning: rows have
//! norm 1, so the gradient's Lipschitz constant is at most n/2 + 1/C. C is chosen on dev. With one
//! label per example the largest w·x + b answers, otherwise all labels above 0 do.

use super::{Example, Task, TaskData, TaskScore};
use crate::error::Error;
use crate::watch::{Progress, Watch};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Values of C to choose from.
const STRENGTHS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// Steps of gradient descent: the loss of our tasks changes by less than 10⁻⁴ after them.
const STEPS: usize = 300;

/// Steps between two questions to the watch.
const ROUND: usize = 10;

/// A baseline's scores on test.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Baseline {
    /// What it is.
    pub name: String,
    /// The task's scores.
    pub scores: Vec<TaskScore>,
}

/// All baselines of a task.
/// # Errors
/// If `watch` asks to stop.
pub fn baselines(
    task: &dyn Task,
    form: &str,
    data: &TaskData,
    watch: &mut dyn Watch,
) -> Result<Vec<Baseline>, Error> {
    let score = |name: &str, answers: &[Vec<String>]| Baseline {
        name: name.into(),
        scores: task.score(form, &data.test, answers),
    };
    let majority = vec![majority(task, &data.train); data.test.len()];
    let linear = linear(task, form, data, watch)?;
    Ok(vec![score("majority", &majority), score("TF-IDF + linear", &linear)])
}

/// The answer that is right most often in train; of equal ones, the first in order.
fn majority(task: &dyn Task, train: &[Example]) -> Vec<String> {
    let mut counts: BTreeMap<&[usize], usize> = BTreeMap::new();
    train.iter().for_each(|example| *counts.entry(&example.labels).or_default() += 1);
    let most = counts.iter().max_by_key(|(labels, count)| (**count, std::cmp::Reverse(**labels)));
    // Through its text, so that having no label reads as it does in a model's answer.
    most.map_or(Vec::new(), |(labels, _)| task.parse(&task.target(labels)))
}

fn linear(
    task: &dyn Task,
    form: &str,
    data: &TaskData,
    watch: &mut dyn Watch,
) -> Result<Vec<Vec<String>>, Error> {
    let vectoriser = Vectoriser::new(&data.train);
    let rows = |examples: &[Example]| -> Vec<Row> {
        examples.par_iter().map(|example| vectoriser.row(example)).collect()
    };
    let (train, dev, test) = (rows(&data.train), rows(&data.dev), rows(&data.test));
    let sign = |label: usize| move |e: &Example| if e.labels.contains(&label) { 1.0 } else { -1.0 };
    let labels = 0..task.labels().len();
    let signs: Vec<Vec<f64>> =
        labels.map(|label| data.train.iter().map(sign(label)).collect()).collect();
    let mut best: Option<(f64, Vec<Linear>)> = None;
    for (nth, strength) in STRENGTHS.into_iter().enumerate() {
        let mut fits: Vec<Fit> =
            signs.iter().map(|_| Fit::new(vectoriser.words.len(), strength)).collect();
        for step in (0..STEPS).step_by(ROUND) {
            let (done, all) = (nth * STEPS + step, STRENGTHS.len() * STEPS);
            watch.tell(Progress::Judging { done, all })?;
            fits.par_iter_mut().zip(&signs).for_each(|(fit, signs)| {
                (0..ROUND).for_each(|_| fit.step(&train, signs));
            });
        }
        let models: Vec<Linear> = fits.into_iter().map(|fit| fit.now).collect();
        let score = task.score(form, &data.dev, &answers(task, &models, &dev))[0].value;
        if best.as_ref().is_none_or(|(best, _)| score > *best) {
            best = Some((score, models));
        }
    }
    Ok(best.map_or(Vec::new(), |(_, models)| answers(task, &models, &test)))
}

fn answers(task: &dyn Task, models: &[Linear], rows: &[Row]) -> Vec<Vec<String>> {
    let answer = |row: &Row| {
        let margins: Vec<f64> = models.iter().map(|model| model.margin(row)).collect();
        let labels: Vec<usize> = if task.one_label() {
            let largest = |best: usize, next: usize| {
                if margins[next] > margins[best] { next } else { best }
            };
            (0..margins.len()).reduce(largest).into_iter().collect()
        } else {
            (0..margins.len()).filter(|&label| margins[label] > 0.0).collect()
        };
        task.parse(&task.target(&labels))
    };
    rows.iter().map(answer).collect()
}

/// Words of a source by number, with their weights.
type Row = Vec<(usize, f64)>;

/// Words of at least two letters or digits, in lower case.
fn words(example: &Example) -> impl Iterator<Item = String> {
    let text = format!("{} {}", example.head, example.passage).to_lowercase();
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| word.chars().nth(1).is_some())
        .map(str::to_string)
        .collect();
    words.into_iter()
}

/// The words of train with their idf.
struct Vectoriser {
    words: HashMap<String, (usize, f64)>,
}

impl Vectoriser {
    fn new(train: &[Example]) -> Self {
        let mut frequencies: BTreeMap<String, usize> = BTreeMap::new();
        for example in train {
            let distinct: std::collections::BTreeSet<String> = words(example).collect();
            distinct.into_iter().for_each(|word| *frequencies.entry(word).or_default() += 1);
        }
        let idf = |df: usize| ((1 + train.len()) as f64 / (1 + df) as f64).ln() + 1.0;
        let numbered = frequencies.into_iter().enumerate();
        Self { words: numbered.map(|(at, (word, df))| (word, (at, idf(df)))).collect() }
    }

    fn row(&self, example: &Example) -> Row {
        let mut weights: BTreeMap<usize, f64> = BTreeMap::new();
        for word in words(example) {
            if let Some(&(at, idf)) = self.words.get(&word) {
                *weights.entry(at).or_default() += idf;
            }
        }
        let norm = weights.values().map(|w| w * w).sum::<f64>().sqrt();
        weights.into_iter().map(|(at, weight)| (at, weight / norm)).collect()
    }
}

/// A logistic regression.
struct Linear {
    weights: Vec<f64>,
    bias: f64,
}

impl Linear {
    fn margin(&self, row: &Row) -> f64 {
        row.iter().map(|&(at, x)| self.weights[at] * x).sum::<f64>() + self.bias
    }
}

/// A logistic regression while it is fitted.
struct Fit {
    now: Linear,
    ahead: Linear,
    momentum: f64,
    strength: f64,
}

impl Fit {
    fn new(features: usize, strength: f64) -> Self {
        let zero = || Linear { weights: vec![0.0; features], bias: 0.0 };
        Self { now: zero(), ahead: zero(), momentum: 1.0, strength }
    }

    /// One step of gradient descent.
    fn step(&mut self, rows: &[Row], signs: &[f64]) {
        let Self { now, ahead, momentum, strength } = self;
        // The curvature of the logistic loss is at most 1/4, and |(x, 1)|² = 2.
        let step = 1.0 / (0.5 * rows.len() as f64 + 1.0 / *strength);
        let mut slope: Vec<f64> = ahead.weights.iter().map(|w| w / *strength).collect();
        let mut bias_slope = 0.0;
        for (row, sign) in rows.iter().zip(signs) {
            let pull = -sign / (1.0 + (sign * ahead.margin(row)).exp());
            row.iter().for_each(|&(at, x)| slope[at] += pull * x);
            bias_slope += pull;
        }
        let next_momentum = 0.5 * (1.0 + (1.0 + 4.0 * *momentum * *momentum).sqrt());
        let beta = (*momentum - 1.0) / next_momentum;
        *momentum = next_momentum;
        let advance = |now: &mut f64, ahead: &mut f64, slope: f64| {
            let next = *ahead - step * slope;
            *ahead = next + beta * (next - *now);
            *now = next;
        };
        for ((now, ahead), slope) in now.weights.iter_mut().zip(&mut ahead.weights).zip(slope) {
            advance(now, ahead, slope);
        }
        advance(&mut now.bias, &mut ahead.bias, bias_slope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{hoc::Hoc, pubmedqa::PubMedQa};

    fn example(passage: &str, labels: &[usize]) -> Example {
        Example {
            id: passage.into(),
            head: String::new(),
            passage: passage.into(),
            labels: labels.to_vec(),
        }
    }

    fn data(examples: Vec<Example>) -> TaskData {
        TaskData {
            stages: vec![],
            train: examples.clone(),
            dev: examples.clone(),
            test: examples,
            split: String::new(),
            notes: vec![],
        }
    }

    #[test]
    fn weights_are_scikit_learns() {
        // TfidfVectorizer().fit_transform(["cells die", "cells grow grow", "a vessel"])
        let texts = ["cells die", "cells grow grow", "a vessel"].map(|text| example(text, &[]));
        let vectoriser = Vectoriser::new(&texts);
        let row = vectoriser.row(&texts[1]);
        assert_eq!(row.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2]);
        assert!((row[0].1 - 0.355_432_47).abs() < 1e-8, "{row:?}");
        assert!((row[1].1 - 0.934_701_96).abs() < 1e-8, "{row:?}");
        assert_eq!(vectoriser.row(&example("unknown", &[])), []);
    }

    #[test]
    fn the_fit_is_the_minimum() {
        let rows: Vec<Row> = (0..12).map(|i| vec![(i % 3, 0.8), (3 + i % 2, 0.6)]).collect();
        let signs: Vec<f64> = (0..12).map(|i| if i % 4 == 1 { 1.0 } else { -1.0 }).collect();
        let loss = |model: &Linear| {
            let fit =
                rows.iter().zip(&signs).map(|(row, y)| (-y * model.margin(row)).exp().ln_1p());
            fit.sum::<f64>() + model.weights.iter().map(|w| w * w).sum::<f64>() / (2.0 * 10.0)
        };
        let mut fit = Fit::new(5, 10.0);
        (0..STEPS).for_each(|_| fit.step(&rows, &signs));
        let mut model = fit.now;
        let least = loss(&model);
        for at in 0..5 {
            for change in [-1e-2, 1e-2] {
                model.weights[at] += change;
                assert!(loss(&model) > least, "weight {at} is not at its minimum");
                model.weights[at] -= change;
            }
        }
    }

    #[test]
    fn words_decide_where_they_can_and_the_commonest_answer_where_not() {
        let examples: Vec<Example> = (0..30)
            .map(|i| match i % 3 {
                0 => example(&format!("case {i} improved"), &[0]),
                1 => example(&format!("case {i} failed"), &[1]),
                _ => example(&format!("another {i} improved"), &[0]),
            })
            .collect();
        let found = baselines(&PubMedQa, "reasoning-required", &data(examples), &mut ());
        let found = found.unwrap();
        assert_eq!(found[0].scores[0].value, 20.0 / 30.0);
        assert_eq!(found[1].scores[0].value, 1.0);
        let examples: Vec<Example> = (0..30)
            .map(|i| match i % 3 {
                0 => example(&format!("cells {i} die"), &[7]),
                1 => example(&format!("cells {i} die and vessels grow"), &[6, 7]),
                _ => example(&format!("nothing {i}"), &[]),
            })
            .collect();
        let found = baselines(&Hoc, "document", &data(examples), &mut ()).unwrap();
        assert_eq!((&*found[0].name, found[0].scores[0].value), ("majority", 0.0));
        assert_eq!(found[1].scores[0].value, 1.0);
    }
}
