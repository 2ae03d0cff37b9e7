//! `mediswift compare`.

use std::path::PathBuf;

use mediswift_files as files;
use mediswift_model::error::ErrorKind;
use mediswift_model::finetune::compare::Comparison;
use serde_json::json;

use crate::chart::Files;
use crate::chart::sizes::Sizes;
use crate::verb::{Context, Exit, Outcome, Verb, refuse_to_overwrite};

/// Put fine-tuned runs of one task side by side
///
/// One row per run, which it names by its folder, with the baselines and the paper's numbers below; with --out also as files,
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

    /// Replace the results of an earlier comparison in that folder
    #[arg(long, requires = "out")]
    force: bool,
}

impl Verb for Compare {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        if let Some(out) = &self.out {
            let parts = ["results.md", "results.json", "accuracy.svg", "accuracy.png"];
            parts.iter().try_for_each(|part| refuse_to_overwrite(&out.join(part), self.force))?;
        }
        let comparison = read(&self.runs)?;
        let (json, text) = (json!(comparison), comparison.markdown());
        if let Some(out) = &self.out {
            files::create_folders(out)?;
            files::write(&out.join("results.md"), text.as_bytes())?;
            let printed = serde_json::to_string_pretty(&json)? + "\n";
            files::write(&out.join("results.json"), printed.as_bytes())?;
            Files::create(&out.join("accuracy.svg"))?.draw(&Sizes(&comparison))?;
        }
        Ok(Outcome::new(json, text))
    }
}

/// Fine-tuned runs; naming some that cannot be compared is a usage error.
pub fn read(runs: &[PathBuf]) -> anyhow::Result<Comparison> {
    Comparison::read(runs).map_err(|error| match error.kind() {
        ErrorKind::Incompatible => Exit::usage(error.to_string()).into(),
        _ => error.into(),
    })
}
