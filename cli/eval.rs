//! `mediswift eval`.

use std::path::PathBuf;

use indicatif::HumanCount;
use mediswift_data::Dataset;
use mediswift_model::evaluate::evaluate_run;
use serde_json::json;

use crate::output;
use crate::verb::{Context, Outcome, Verb};

/// Measure the loss of a trained model on held-out data
///
/// Reads the newest complete checkpoint of the run and all of the dataset's validation split.
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift eval run --data dataset")]
pub struct Eval {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// A dataset folder, made by `data prepare` with the run's tokenizer
    #[arg(long, value_name = "D")]
    data: PathBuf,
}

impl Verb for Eval {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let found = evaluate_run(&self.run, &Dataset::open(&self.data)?)?;
        found.skipped.iter().for_each(|warning| output::warning(warning));
        let text = format!(
            "validation loss {:.4}, perplexity {:.2}, over {} tokens\n",
            found.val_loss,
            found.perplexity,
            HumanCount(found.tokens),
        );
        Ok(Outcome::new(json!(found), text))
    }
}
