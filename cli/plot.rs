//! `mediswift plot`: the paper's figures from this program's results.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mediswift_files::{self as files, LARGE};
use mediswift_model::curves::{Curves, Point};
use mediswift_model::finetune::compare::Compared;
use mediswift_model::finetune::folder::SETTINGS;
use serde_json::{Value, json};

use crate::chart::losses::{Axis, Losses};
use crate::chart::sizes::Sizes;
use crate::chart::speedup::Speedups;
use crate::chart::{Files, Picture};
use crate::compare;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Draw results as SVG and PNG: loss curves of runs, or speedups of layers
///
/// Run folders, finished or not, give their loss curves against tokens, operations and time, side by
/// side (the paper's Figure 2): training losses smoothed, validation losses as they are. Fine-tuned
/// runs of one task give size against score (Figure 1). A file with the output of `bench layer --json`
/// gives realised against theoretical speedup (Figure 3).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift plot dense sparse --out losses.svg
  mediswift plot runs/* --x hours --out hours.png
  mediswift plot tuned-dense tuned-75 --out accuracy.svg
  mediswift bench layer --json > layers.json && mediswift plot layers.json --out speedup.svg")]
pub struct Plot {
    /// Run folders, or one file that `bench layer --json` printed
    #[arg(value_name = "RUN", required = true)]
    inputs: Vec<PathBuf>,

    /// The picture to write, .svg or .png; the other one is written beside it
    #[arg(long, value_name = "F", default_value = "plot.svg")]
    out: PathBuf,

    /// Draw losses against this alone
    #[arg(long, value_name = "AXIS")]
    x: Option<Axis>,

    /// Replace pictures that are there already
    #[arg(long)]
    force: bool,
}

impl Verb for Plot {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        match &self.inputs[..] {
            [file] if file.is_file() => {
                if self.x.is_some() {
                    return Err(Exit::usage("--x is for the losses of run folders").into());
                }
                self.draw(&speedups(file)?, json!({ "figure": "speedup" }), String::new())
            }
            inputs => {
                if let Some(file) = inputs.iter().find(|path| path.is_file()) {
                    let message = "is a file among several inputs; draw it by itself";
                    return Err(Exit::usage(format!("{}: {message}", file.display())).into());
                }
                let is_tuned = |run: &&PathBuf| run.join(SETTINGS).is_file();
                match inputs.iter().filter(is_tuned).count() {
                    0 => self.losses(),
                    n if n == inputs.len() => self.sizes(),
                    _ => {
                        let message = "losses of pre-training and scores of fine-tuned runs are \
                                       different figures: name runs of one kind";
                        Err(Exit::usage(message).into())
                    }
                }
            }
        }
    }
}

impl Plot {
    fn losses(&self) -> anyhow::Result<Outcome> {
        let runs: Vec<Curves> =
            self.inputs.iter().map(|run| Curves::read(run)).collect::<Result<_, _>>()?;
        let mut text = format!(
            "{:<32} {:>10} {:>10} {:>8} {:>8} {:>10}\n",
            "run", "tokens", "FLOPs", "hours", "training", "validation"
        );
        let mut rows: Vec<Value> = Vec::new();
        for (path, run) in self.inputs.iter().zip(&runs) {
            let last = run.training.last().expect("a run has a step");
            let val_loss = run.validation.last().map(|point| point.loss);
            let Point { tokens, flops, hours, loss } = *last;
            text += &format!(
                "{:<32} {tokens:>10.3e} {flops:>10.3e} {hours:>8.3} {loss:>8.4} {:>10}\n",
                run.label,
                val_loss.map_or("–".into(), |loss| format!("{loss:.4}")),
            );
            rows.push(json!({
                "run": path.display().to_string(),
                "label": run.label,
                "tokens": tokens,
                "flops": flops,
                "hours": hours,
                "train_loss": loss,
                "val_loss": val_loss,
            }));
        }
        let axes = self.x.map_or(Axis::ALL.to_vec(), |axis| vec![axis]);
        let title = "Loss of training and validation".to_string();
        self.draw(&Losses { title, runs, axes }, json!({ "figure": "losses", "runs": rows }), text)
    }

    fn sizes(&self) -> anyhow::Result<Outcome> {
        if self.x.is_some() {
            return Err(Exit::usage("--x is for the losses of runs that are not fine-tuned").into());
        }
        let runs = compare::read(&self.inputs)?;
        let mut text = format!("{}, {}\n", runs.metric, runs.split);
        let mut rows: Vec<Value> = Vec::new();
        for Compared { path, nnz, value, std, .. } in &runs.rows {
            text += &format!(
                "{path:<32} {nnz:>12} weights kept {:>7.2} % ± {:.2}\n",
                100.0 * value,
                100.0 * std
            );
            rows.push(json!({ "run": path, "nnz": nnz, "value": value, "std": std }));
        }
        self.draw(&Sizes(&runs), json!({ "figure": "sizes", "runs": rows }), text)
    }

    /// Draws a picture, and says where.
    fn draw(
        &self,
        picture: &impl Picture,
        mut json: Value,
        mut text: String,
    ) -> anyhow::Result<Outcome> {
        let files = Files::fresh(&self.out, self.force)?.draw(picture)?;
        for path in &files {
            text += &format!("wrote {}\n", path.display());
        }
        json["files"] = json!(files);
        Ok(Outcome::new(json, text))
    }
}

/// What `bench layer --json` printed.
fn speedups(path: &Path) -> anyhow::Result<Speedups> {
    serde_json::from_str(&files::read_text(path, LARGE)?).with_context(|| {
        format!("{}: neither a run folder nor the output of `bench layer --json`", path.display())
    })
}
