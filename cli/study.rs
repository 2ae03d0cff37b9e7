//! `mediswift study`.

mod crew;
mod folders;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mediswift_data::Dataset;
use mediswift_files as files;
use mediswift_model::Reduce;
use mediswift_model::memory::Memory;
use mediswift_model::study::report::Drawn;
use mediswift_model::study::{Cell, Ledger, Report, Study as Plan, Work};

use serde_json::{Value, json};

use self::crew::{Crew, Ended};
use crate::chart::Files;
use crate::chart::losses::{Axis, Losses};
use crate::chart::pareto::Pareto;
use crate::machine;
use crate::signals::StopSignal;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Train a grid of models, measure and fine-tune them, and report
///
/// A file says which arms there are, that is ways to pre-train, with which seeds, what is measured of every
/// trained model, and which tables and figures are wanted. Every run is a cell with a folder of its own. A signal
/// (SIGINT, SIGTERM, SIGUSR1) saves all cells under way; the same command goes on, and repeats none that is
/// finished. The report is made from what is kept of each cell in a few kilobytes; --report makes it again from
/// those alone. Several files share cells of the same names and settings, and have one report.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift study study.toml --data dataset --out results
  mediswift study study.toml --data dataset --out results --jobs 8 --threads 16
  mediswift study study.toml --data dataset --data hoc=hoc --out results
  mediswift study study.toml --out results --plan
  mediswift study study.toml --out results --report")]
pub struct Study {
    /// What to study, as TOML; several files have one report
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// The folder to write report.md, report.json, report.csv and the figures to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The dataset folder to train on; or NAME=D, the data that the study calls NAME. May be repeated
    #[arg(long, value_name = "D")]
    data: Vec<String>,

    /// The folder of the cells, which studies may share [default: cells in --out]
    #[arg(long, value_name = "DIR")]
    cells: Option<PathBuf>,

    /// How many cells to work on side by side, each with its share of the threads and CPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,

    /// Only make the report of what is finished
    #[arg(long, conflicts_with_all = ["data", "jobs", "plan"])]
    report: bool,

    /// Only list the cells, and which of them are finished
    #[arg(long)]
    plan: bool,
}

impl Verb for Study {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let plan = Plan::read(&self.files)?;
        let cells = self.cells.clone().unwrap_or_else(|| self.out.join("cells"));
        let sources = folders::read(&self.data)?;
        let dataset = sources.trained_on.as_deref().map(Dataset::open).transpose()?;
        let known = Ledger::read(&cells, &plan, &sources)?;
        if self.plan {
            return Ok(listed(&plan, &known));
        }
        let missing = plan.cells.iter().any(|cell| known.record(&cell.name).is_none());
        if self.report || !missing {
            return self.finished(&plan, &known, &cells);
        }
        folders::check(&sources, &plan, &known)?;
        let jobs = usize::from(self.jobs);
        if let Some(dataset) = &dataset {
            has_room(&plan, &known, dataset.vocab_size(), jobs)?;
        }
        let ledger = Ledger::open(&cells, &plan, &sources)?;
        let signals = StopSignal::watch()?;
        let crew = Crew { plan: &plan, sources: &sources, signals: &signals, jobs };
        let (ledger, ended) = crew.work(ledger, context.threads)?;
        match ended {
            Ended::Stopped => {
                let report = Report::new(&plan, ledger.records(), &cells);
                let done = report.map_or(Vec::new(), |report| report.cells());
                let note = format!(
                    "{} of {} cells are finished, the others saved; the same command goes on",
                    done.len(),
                    plan.cells.len()
                );
                Ok(signals.outcome(&note, json!({ "cells": done, "report": null })))
            }
            Ended::Done => self.finished(&plan, &ledger, &cells),
            Ended::Failed(problems) => {
                let reported = self.finished(&plan, &ledger, &cells);
                let rest = match reported {
                    Ok(_) => format!("the others are in {}", self.out.join("report.md").display()),
                    Err(_) => "there is nothing to report".to_string(),
                };
                anyhow::bail!(
                    "{} of {} cells failed; {rest}: {}",
                    problems.len(),
                    plan.cells.len(),
                    problems.join("; ")
                )
            }
        }
    }
}

impl Study {
    /// Writes the report of what is finished.
    fn finished(&self, plan: &Plan, ledger: &Ledger, cells: &Path) -> anyhow::Result<Outcome> {
        let report = Report::new(plan, ledger.records(), cells)?;
        files::create_folders(&self.out)?;
        let markdown = report.markdown();
        let printed = serde_json::to_string_pretty(&report.json())? + "\n";
        let mut written = Vec::new();
        for (name, text) in
            [("report.md", &markdown), ("report.json", &printed), ("report.csv", &report.csv())]
        {
            let path = self.out.join(name);
            files::write(&path, text.as_bytes())?;
            written.push(path);
        }
        for (name, drawn) in report.figures() {
            let file = Files::create(&self.out.join(format!("{name}.svg")))?;
            written.extend(match drawn {
                Drawn::Losses { title, curves: runs, axes } => {
                    let axes = axes.iter().filter_map(Axis::of_column).collect();
                    file.draw(&Losses { title, runs, axes })?
                }
                Drawn::Pareto { title, columns, points } => {
                    file.draw(&Pareto { title, columns, points })?
                }
            });
        }
        let json = json!({
            "cells": report.cells(),
            "report": self.out.join("report.md"),
            "files": written,
        });
        let list = written.iter().map(|path| format!("wrote {}\n", path.display()));
        Ok(Outcome::new(json, format!("{markdown}\n{}", list.collect::<String>())))
    }
}

/// The cells, and which are finished.
fn listed(plan: &Plan, ledger: &Ledger) -> Outcome {
    let (mut rows, mut text) = (Vec::<Value>::new(), String::new());
    for cell in &plan.cells {
        let is_finished = ledger.record(&cell.name).is_some();
        let work = cell.describe();
        rows.push(json!({
            "cell": cell.name, "arm": cell.arm, "seed": cell.seed, "work": work, "finished": is_finished,
        }));
        let state = if is_finished { "finished" } else { "to do" };
        text += &format!("{:<40} {state:<9} {work}\n", cell.name);
    }
    Outcome::new(json!({ "cells": rows, "report": null }), text)
}

/// Checks that this machine has memory for so many of the largest cells that are not finished.
fn has_room(plan: &Plan, known: &Ledger, vocabulary: usize, jobs: usize) -> anyhow::Result<()> {
    let missing = || plan.cells.iter().filter(|cell| known.record(&cell.name).is_none());
    let jobs = jobs.min(missing().count()).max(1);
    let free = machine::free_memory().map(|free| free / jobs as u64);
    let by_name: HashMap<&str, &Cell> = plan.cells.iter().map(|cell| (&*cell.name, cell)).collect();
    let settings = |cell: &Cell| {
        let Work::Pretrain { config, .. } = &cell.work else { return None };
        let mut config = config.as_ref().clone();
        if config.model.vocabulary == 0 {
            config.model.vocabulary = vocabulary;
        }
        Some(config)
    };
    for cell in missing() {
        let memory = match &cell.work {
            Work::Finetune { of, settings: tuning, .. } => {
                settings(by_name[&**of]).map(|config| Memory::of_tuning(&config, tuning))
            }
            _ => settings(cell).map(|config| Memory::of_rank(&config, 1, Reduce::Exact)),
        };
        let Some(memory) = memory else { continue };
        memory
            .require("a cell", free)
            .map_err(|error| Exit::usage(format!("{} (with --jobs {jobs}): {error}", cell.name)))?;
    }
    Ok(())
}
