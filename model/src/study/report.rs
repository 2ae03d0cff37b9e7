//! [`Report`]: tables and figures of a study, from its records alone.

use super::arm::Arm;
use super::cell::Work;
use super::column::{Column, Spread};
use super::file::FigureKind;
use super::plan::{Chapter, Study};
use super::record::{Machine, Outcome, Pretrained, Record};
use super::wanted::{Figure, Table};
use crate::curves::{Curves, Point};
use crate::error::Error;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What came of a study.
pub struct Report<'a> {
    study: &'a Study,
    records: &'a BTreeMap<String, Record>,
}

/// A figure to draw.
#[derive(Debug)]
pub enum Drawn {
    /// Loss curves against some axes.
    Losses {
        /// Title.
        title: String,
        /// One per arm.
        curves: Vec<Curves>,
        /// What they are drawn against.
        axes: Vec<Column>,
    },
    /// Points.
    Pareto {
        /// Title.
        title: String,
        /// From left to right, and upwards.
        columns: [Column; 2],
        /// One per arm.
        points: Vec<Dot>,
    },
}

/// An arm of a Pareto picture.
#[derive(Clone, Debug)]
pub struct Dot {
    /// Its name for people.
    pub label: String,
    /// From left to right.
    pub x: Spread,
    /// Upwards.
    pub y: Spread,
    /// Whether no other is at least as good in both.
    pub is_best: bool,
}

/// A row of a table.
#[derive(Debug)]
struct Row<'a> {
    arm: &'a Arm,
    values: Vec<Option<Spread>>,
}

impl<'a> Report<'a> {
    /// Of a study, as far as it is finished.
    /// # Errors
    /// If nothing is.
    pub fn new(
        study: &'a Study,
        records: &'a BTreeMap<String, Record>,
        cells: &Path,
    ) -> Result<Self, Error> {
        let is_trained = |record: &Record| matches!(record.outcome, Outcome::Pretrained(_));
        match records.values().any(is_trained) {
            true => Ok(Self { study, records }),
            false => Err(Error::not_found(cells, "no cell of this study is finished yet")),
        }
    }

    /// Runs of an arm, by seed.
    fn runs(&self, arm: &str) -> Vec<&'a Pretrained> {
        let of_arm = self.study.cells.iter().filter(|cell| cell.arm == arm);
        let trained = of_arm.filter_map(|cell| match &self.records.get(&cell.name)?.outcome {
            Outcome::Pretrained(run) => Some(&**run),
            _ => None,
        });
        trained.collect()
    }

    /// Evaluations or scores of an arm's models, over all seeds.
    fn scores(&self, arm: &str, name: &str) -> Vec<f64> {
        let of_arm = self.study.cells.iter().filter(|cell| cell.arm == arm);
        let measured = of_arm.filter(|cell| is_measured_by(&cell.work, name));
        let records = measured.filter_map(|cell| self.records.get(&cell.name));
        records.flat_map(|record| Column::of_other(&record.outcome)).collect()
    }

    /// What a column of scores is.
    fn measure(&self, name: &str) -> Option<String> {
        let of_name = self.study.cells.iter().filter(|cell| is_measured_by(&cell.work, name));
        let mut records = of_name.filter_map(|cell| self.records.get(&cell.name));
        match &records.next()?.outcome {
            Outcome::Pretrained(_) => None,
            Outcome::Evaluated { .. } => Some("loss on it, in nats per token".into()),
            Outcome::Tuned { metric, .. } => Some(format!("{metric} on test, in percent")),
        }
    }

    fn spread(&self, arm: &str, column: &Column) -> Option<Spread> {
        if let Column::Score(name) = column {
            return Spread::of(&self.scores(arm, name));
        }
        let values = self.runs(arm).into_iter().filter_map(|run| column.of(run));
        Spread::of(&values.collect::<Vec<_>>())
    }

    /// What a table tells of an arm, compared with its reference, and with a loss that all reach.
    fn value(&self, table: &Table, arm: &str, column: &Column, loss: f64) -> Option<Spread> {
        let mean = |arm: &str, column: Column| Some(self.spread(arm, &column)?.mean);
        let reference = |column| mean(&table.reference, column);
        let of_runs = |value: &dyn Fn(&Pretrained) -> Option<f64>| {
            Spread::of(&self.runs(arm).into_iter().filter_map(value).collect::<Vec<_>>())
        };
        match column {
            Column::Gap => {
                let lowest = reference(Column::Loss)?;
                of_runs(&|run| Some(run.val_loss - lowest))
            }
            Column::Theory => {
                let cost = reference(Column::Flops)? / reference(Column::Tokens)?;
                of_runs(&|run| Some(cost * run.tokens as f64 / run.flops))
            }
            Column::Realised => {
                let speed = reference(Column::Speed)?;
                of_runs(&|run| Some(run.tokens as f64 / run.seconds / speed))
            }
            Column::ToLoss => of_runs(&|run| run.validation.seconds_to(loss)),
            Column::Sooner => {
                let there = self.value(table, &table.reference, &Column::ToLoss, loss)?.mean;
                of_runs(&|run| Some(there / run.validation.seconds_to(loss)?))
            }
            column => self.spread(arm, column),
        }
    }

    /// The loss that all arms of a table reach: the highest that one of their runs ends with.
    fn common_loss(&self, table: &Table) -> f64 {
        let runs = table.arms.iter().flat_map(|arm| self.runs(arm));
        // As curves have it, which are rounded.
        let last = runs.filter_map(|run| run.validation.loss.last().copied());
        last.fold(f64::NEG_INFINITY, f64::max)
    }

    fn rows(&self, chapter: &'a Chapter, table: &Table) -> Vec<Row<'a>> {
        let loss = self.common_loss(table);
        let arms = table.arms.iter().filter_map(|name| arm(chapter, name));
        let row = |arm: &'a Arm| {
            let value = |column| self.value(table, &arm.name, column, loss);
            Row { arm, values: table.columns.iter().map(value).collect() }
        };
        arms.map(row).collect()
    }

    /// Machines that cells ran on, each once.
    fn machines(&self) -> BTreeSet<&Machine> {
        let ours = self.study.cells.iter().filter_map(|cell| self.records.get(&cell.name));
        ours.map(|record| &record.machine).filter(|machine| machine.threads > 0).collect()
    }

    /// Cells that are not finished.
    fn missing(&self) -> Vec<&str> {
        let names = self.study.cells.iter().map(|cell| &*cell.name);
        names.filter(|name| !self.records.contains_key(*name)).collect()
    }

    /// All of it for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for chapter in &self.study.chapters {
            text += &format!("# {}\n\n", chapter.title);
            if !chapter.about.is_empty() {
                text += &format!("{}\n\n", chapter.about.trim());
            }
            for figure in &chapter.figures {
                text += &format!("![{}]({}.svg)\n\n", figure.title, figure.name);
            }
            for table in &chapter.tables {
                text += &self.table(chapter, table);
            }
        }
        text += "## How it was measured\n\n";
        for Machine { cpu, isa, threads, jobs } in self.machines() {
            let others = match jobs {
                1 => "one at a time".to_string(),
                jobs => format!("{jobs} side by side"),
            };
            let threads = match threads {
                1 => "one thread".to_string(),
                threads => format!("{threads} threads"),
            };
            text += &format!("* {cpu}, {isa}: cells with {threads} each, {others}.\n");
        }
        text += "* A value is the mean over the seeds of an arm, ± the standard deviation where it has several. \
                 FLOPs are those that are executed; seconds those of training steps, without evaluating and \
                 saving.\n";
        let missing = self.missing();
        if !missing.is_empty() {
            text += &format!("* Not finished: {}.\n", missing.join(", "));
        }
        text
    }

    fn table(&self, chapter: &'a Chapter, table: &Table) -> String {
        let mut text = String::new();
        if !table.title.is_empty() {
            text += &format!("**{}**\n\n", table.title);
        }
        let headings = table.columns.iter().map(Column::heading);
        let headings: Vec<&str> = ["", "seeds"].into_iter().chain(headings).collect();
        text += &format!("| {} |\n|{}\n", headings.join(" | "), "---|".repeat(headings.len()));
        for Row { arm, values } in self.rows(chapter, table) {
            let shown = |(column, value): (&Column, &Option<Spread>)| {
                value.map_or("–".into(), |value| column.show(value))
            };
            let values: Vec<String> = table.columns.iter().zip(&values).map(shown).collect();
            let seeds = self.runs(&arm.name).len();
            text += &format!("| {} | {seeds} | {} |\n", arm.label, values.join(" | "));
        }
        text.push('\n');
        let compares = |column: &Column| {
            use Column::{Gap, Realised, Sooner, Theory};
            matches!(column, Gap | Realised | Sooner | Theory)
        };
        let mut notes = Vec::new();
        if let (true, Some(reference)) =
            (table.columns.iter().any(compares), arm(chapter, &table.reference))
        {
            notes.push(format!("Compared with: {}.", reference.label));
        }
        let has_loss = |column: &Column| matches!(column, Column::ToLoss | Column::Sooner);
        if table.columns.iter().any(has_loss) {
            let loss = self.common_loss(table);
            if loss.is_finite() {
                notes.push(format!("That loss: {loss:.3}, which all of these runs reach."));
            }
        }
        let scores = table.columns.iter().filter_map(|column| match column {
            Column::Score(name) => Some((name, self.measure(name)?)),
            _ => None,
        });
        notes.extend(scores.map(|(name, measure)| format!("{name}: {measure}.")));
        if !notes.is_empty() {
            text += &format!("{}\n\n", notes.join(" "));
        }
        text
    }

    /// All of it for programs.
    pub fn json(&self) -> Value {
        let spread = |value: &Option<Spread>| match value {
            Some(Spread { mean, std, count }) => {
                json!({ "mean": mean, "std": std, "count": count })
            }
            None => Value::Null,
        };
        let table = |chapter: &'a Chapter, table: &Table| {
            let row = |row: Row<'_>| {
                let named = table.columns.iter().zip(&row.values);
                let values = named.map(|(column, value)| (column.name().into(), spread(value)));
                let values: serde_json::Map<String, Value> = values.collect();
                json!({ "arm": row.arm.name, "label": row.arm.label, "values": values })
            };
            let rows: Vec<Value> = self.rows(chapter, table).into_iter().map(row).collect();
            json!({
                "title": table.title,
                "reference": table.reference,
                "common_loss": self.common_loss(table),
                "rows": rows,
            })
        };
        let chapter = |chapter: &'a Chapter| {
            let tables: Vec<Value> = chapter.tables.iter().map(|t| table(chapter, t)).collect();
            let figures: Vec<&str> = chapter.figures.iter().map(|f| &*f.name).collect();
            json!({ "title": chapter.title, "tables": tables, "figures": figures })
        };
        json!({
            "chapters": self.study.chapters.iter().map(chapter).collect::<Vec<_>>(),
            "cells": self.cells(),
            "machines": self.machines(),
            "missing": self.missing(),
        })
    }

    /// Every finished cell in a few numbers.
    pub fn cells(&self) -> Vec<Value> {
        let finished = self.study.cells.iter().filter_map(|cell| {
            let Record { machine, outcome, .. } = self.records.get(&cell.name)?;
            let mut row = json!({ "cell": cell.name, "arm": cell.arm, "seed": cell.seed });
            let more = match outcome {
                Outcome::Pretrained(run) => json!({
                    "work": "pretrain",
                    "step": run.step,
                    "tokens": run.tokens,
                    "flops": run.flops,
                    "seconds": run.seconds,
                    "tokens_per_second": run.tokens as f64 / run.seconds,
                    "parameters": run.parameters,
                    "nnz": run.nnz,
                    "train_loss": run.train_loss,
                    "val_loss": run.val_loss,
                    "weights_hash": run.weights_hash,
                }),
                Outcome::Evaluated { val_loss, tokens } => {
                    json!({ "work": "evaluate", "tokens": tokens, "val_loss": val_loss })
                }
                Outcome::Tuned { metric, per_seed } => {
                    let value = Spread::of(per_seed).map(|spread| spread.mean);
                    let per_seed = json!(per_seed);
                    json!({ "work": "finetune", "metric": metric, "value": value, "per_seed": per_seed })
                }
            };
            let more = more.as_object().cloned().unwrap_or_default();
            row.as_object_mut().expect("an object").extend(more);
            row["machine"] = json!(machine);
            Some(row)
        });
        finished.collect()
    }

    /// Every finished cell in a line of numbers.
    pub fn csv(&self) -> String {
        const COLUMNS: [&str; 15] = [
            "cell",
            "arm",
            "seed",
            "work",
            "step",
            "tokens",
            "flops",
            "seconds",
            "tokens_per_second",
            "parameters",
            "nnz",
            "train_loss",
            "val_loss",
            "metric",
            "value",
        ];
        const MACHINE: [&str; 4] = ["cpu", "isa", "threads", "jobs"];
        let mut text = COLUMNS.iter().chain(&MACHINE).copied().collect::<Vec<_>>().join(",") + "\n";
        let shown = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) if text.contains([',', '"', '\n']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for cell in self.cells() {
            let own = COLUMNS.iter().map(|column| shown(&cell[column]));
            let machine = MACHINE.iter().map(|column| shown(&cell["machine"][column]));
            text += &(own.chain(machine).collect::<Vec<_>>().join(",") + "\n");
        }
        text
    }

    /// Every figure that has something to show, with the name of its files.
    pub fn figures(&self) -> Vec<(&'a str, Drawn)> {
        let chapters = self.study.chapters.iter();
        let figures =
            chapters.flat_map(|chapter| chapter.figures.iter().map(move |f| (chapter, f)));
        figures.filter_map(|(chapter, f)| Some((&*f.name, self.figure(chapter, f)?))).collect()
    }

    fn figure(&self, chapter: &'a Chapter, figure: &Figure) -> Option<Drawn> {
        let arms = || figure.arms.iter().filter_map(|name| arm(chapter, name));
        let title = figure.title.clone();
        match figure.kind {
            FigureKind::Losses => {
                let curves: Vec<Curves> = arms().filter_map(|arm| self.curves(arm)).collect();
                let axes = figure.x.clone();
                (!curves.is_empty()).then_some(Drawn::Losses { title, curves, axes })
            }
            FigureKind::Pareto => {
                let [x, y] = [&figure.x[0], &figure.y];
                // Compared, where the axes compare, as in a table of these arms.
                let table = Table {
                    title: String::new(),
                    arms: figure.arms.clone(),
                    columns: Vec::new(),
                    reference: figure.arms[0].clone(),
                };
                let loss = self.common_loss(&table);
                let dots = arms().filter_map(|arm| {
                    let value = |column| self.value(&table, &arm.name, column, loss);
                    let (x, y) = (value(x)?, value(y)?);
                    Some(Dot { label: arm.label.clone(), x, y, is_best: true })
                });
                let mut points: Vec<Dot> = dots.collect();
                let costs = [x.is_cost(), y.is_cost() && !self.is_score_of_task(y)];
                mark_best(&mut points, costs);
                let columns = [x.clone(), y.clone()];
                (!points.is_empty()).then_some(Drawn::Pareto { title, columns, points })
            }
        }
    }

    /// Whether a column is a score, of which more is better.
    fn is_score_of_task(&self, column: &Column) -> bool {
        let Column::Score(name) = column else { return false };
        self.study.cells.iter().any(|cell| match &cell.work {
            Work::Finetune { task, .. } => task.name() == name,
            _ => false,
        })
    }

    /// The loss curves of an arm: means over its seeds, if their points are at the same tokens.
    fn curves(&self, arm: &Arm) -> Option<Curves> {
        let runs = self.runs(&arm.name);
        let first = *runs.first()?;
        let alike: Vec<&Pretrained> = runs
            .iter()
            .copied()
            .filter(|run| {
                run.training.tokens == first.training.tokens
                    && run.validation.tokens == first.validation.tokens
            })
            .collect();
        let mean = |points: &dyn Fn(&Pretrained) -> Vec<Point>| {
            let all: Vec<Vec<Point>> = alike.iter().map(|run| points(run)).collect();
            let mean_of = |at: usize, part: fn(&Point) -> f64| {
                all.iter().map(|points| part(&points[at])).sum::<f64>() / all.len() as f64
            };
            let point = |at: usize| Point {
                hours: mean_of(at, |point| point.hours),
                loss: mean_of(at, |point| point.loss),
                ..all[0][at]
            };
            (0..all[0].len()).map(point).collect()
        };
        Some(Curves {
            label: arm.label.clone(),
            training: mean(&|run| run.training.points()),
            validation: mean(&|run| run.validation.points()),
        })
    }
}

/// Whether work gives the score of that name.
fn is_measured_by(work: &Work, name: &str) -> bool {
    match work {
        Work::Pretrain { .. } => false,
        Work::Evaluate { data, .. } => data == name,
        Work::Finetune { task, .. } => task.name() == name,
    }
}

fn arm<'a>(chapter: &'a Chapter, name: &str) -> Option<&'a Arm> {
    chapter.arms.iter().find(|arm| arm.name == name)
}

/// Marks the points that no other is at least as good as in both, where less of a cost is better.
fn mark_best(points: &mut [Dot], costs: [bool; 2]) {
    let sign = costs.map(|is_cost| if is_cost { 1.0 } else { -1.0 });
    let places: Vec<[f64; 2]> =
        points.iter().map(|dot| [sign[0] * dot.x.mean, sign[1] * dot.y.mean]).collect();
    for (dot, place) in points.iter_mut().zip(&places) {
        let beats =
            |other: &[f64; 2]| other != place && other[0] <= place[0] && other[1] <= place[1];
        dot.is_best = !places.iter().any(beats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_those_that_no_other_beats_in_both() {
        let spread = |mean| Spread { mean, std: None, count: 1 };
        let dot = |x, y| Dot { label: String::new(), x: spread(x), y: spread(y), is_best: true };
        let best = |costs| {
            let mut points = vec![dot(1.0, 5.0), dot(2.0, 4.0), dot(2.0, 6.0), dot(3.0, 3.0)];
            mark_best(&mut points, costs);
            points.iter().map(|dot| dot.is_best).collect::<Vec<_>>()
        };
        assert_eq!(best([true, true]), [true, true, false, true]);
        assert_eq!(best([false, true]), [false, false, false, true]);
        assert_eq!(best([false, false]), [false, false, true, true]);
    }
}
