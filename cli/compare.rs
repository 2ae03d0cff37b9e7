//! `mediswift compare`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mediswift_data::write_atomically;
use mediswift_model::finetune::report::TuningReport;
use serde_json::json;

use crate::chart::Files;
use crate::chart::sizes::Sizes;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Put fine-tuned runs of one task side by side
///
/// One row per run, with the baselines and the paper's numbers below; with --out also as files,
/// with a chart of size against score (the paper's Figure 1).
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift compare tuned-dense tuned-50 tuned-75 --out results")]
pub struct Compare {
    /// Run folders made by `finetune`
    #[arg(value_name = "RUN2", required = true)]
    runs: Vec<PathBuf>,

    /// The folder to write results.md, results.json, accuracy.svg and accuracy.png to
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Verb for Compare {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let reports = reports(&self.runs)?;
        let first = &reports[0];
        let rows: Vec<_> = self
            .runs
            .iter()
            .zip(&reports)
            .map(|(run, report)| {
                json!({
                    "path": run.display().to_string(),
                    "preset": report.source.preset,
                    "linear_weights": report.source.linear_weights,
                    "sparsity": report.source.sparsity,
                    "tokens": report.source.tokens,
                    "method": report.method(),
                    "answer": report.answer,
                    "value": report.value,
                    "std": report.std,
                    "per_seed": report.per_seed,
                    "generation": report.generation,
                    "likelihood": report.likelihood,
                })
            })
            .collect();
        let json = json!({
            "task": first.task,
            "metric": first.metric,
            "split": first.split,
            "baselines": first.baselines,
            "rows": rows,
        });
        let text = markdown(&reports);
        if let Some(out) = &self.out {
            fs::create_dir_all(out).with_context(|| format!("{}: cannot create", out.display()))?;
            write_atomically(&out.join("results.md"), text.as_bytes())?;
            let printed = serde_json::to_string_pretty(&json)? + "\n";
            write_atomically(&out.join("results.json"), printed.as_bytes())?;
            let reports: Vec<&TuningReport> = reports.iter().collect();
            Files::create(&out.join("accuracy.svg"))?.draw(&Sizes { reports: &reports })?;
        }
        Ok(Outcome::new(json, text))
    }
}

/// The reports of fine-tuned runs, which must be comparable.
pub fn reports(runs: &[PathBuf]) -> anyhow::Result<Vec<TuningReport>> {
    let reports: Vec<TuningReport> =
        runs.iter().map(|run| read(run)).collect::<anyhow::Result<_>>()?;
    let subject =
        |report: &TuningReport| format!("{}: {} on {}", report.task, report.metric, report.split);
    let first = subject(&reports[0]);
    for (run, report) in runs.iter().zip(&reports) {
        if subject(report) != first {
            let message = format!(
                "{} has {}, but {} has {first}: they cannot be compared",
                run.display(),
                subject(report),
                runs[0].display(),
            );
            return Err(Exit::usage(message).into());
        }
    }
    Ok(reports)
}

fn read(run: &Path) -> anyhow::Result<TuningReport> {
    let path = run.join("report.json");
    let text = fs::read(&path)
        .with_context(|| format!("{}: cannot read: finish the run first", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{}: not the report of a fine-tuning run", path.display()))
}

/// A table for people.
fn markdown(reports: &[TuningReport]) -> String {
    let first = &reports[0];
    let mut text = format!(
        "{}, {}. Mean and standard deviation over seeds, in %. For research only, not for clinical \
         use.\n\n\
         | model | pre-training | fine-tuning | seeds | generation | likelihood |\n\
         |---|---|---|---|---|---|\n",
        first.metric, first.split
    );
    for report in reports {
        let (generation, likelihood) = (&report.generation[0], &report.likelihood[0]);
        text += &format!(
            "| {} ({:.1} M) | {:.0} % sparse, {:.1} M tokens | {} | {} | {:.2} ± {:.2} | {:.2} ± {:.2} |\n",
            report.source.preset,
            report.source.linear_weights as f64 / 1e6,
            100.0 * report.source.sparsity,
            report.source.tokens as f64 / 1e6,
            report.method(),
            report.seeds.len(),
            100.0 * generation.mean,
            100.0 * generation.std,
            100.0 * likelihood.mean,
            100.0 * likelihood.std,
        );
    }
    for baseline in &first.baselines {
        let value = 100.0 * baseline.scores[0].value;
        text += &format!("| {} | – | – | – | {value:.2} | – |\n", baseline.name);
    }
    let distinct: BTreeSet<&String> = reports.iter().flat_map(|report| &report.notes).collect();
    if !distinct.is_empty() {
        text += "\nNotes:\n\n";
        distinct.iter().for_each(|note| text += &format!("* {note}\n"));
    }
    text
}
