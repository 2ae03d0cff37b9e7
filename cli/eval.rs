//! `mediswift eval`.

use std::path::PathBuf;

use indicatif::HumanCount;
use mediswift_data::{Dataset, texts};
use mediswift_model::evaluate::evaluate_model;
use mediswift_model::run::LoadedModel;
use mediswift_model::score::evaluate_texts;
use serde_json::json;

use crate::trained::{self, Which};
use crate::verb::{Context, Outcome, Verb};

/// Measure the loss of a trained model on held-out data
///
/// Reads the newest whole checkpoint of the run, or the one that --step names. Of a dataset folder, all of the validation split
/// is read, as one stream of tokens. Of a file, each document is read by itself, cleaned as `data
/// prepare` cleans it, its first token predicted after the end of another document; documents
/// longer than the model's positions are read in windows that overlap by half.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift eval run --data dataset
  mediswift eval run --data abstracts.jsonl.gz
  mediswift eval run --data dataset --step 1000")]
pub struct Eval {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// A dataset folder, made by `data prepare` with the run's tokenizer, or a file: JSONL (`text`,
    /// or `title` and `abstract`), text or PubMed XML, plain, .gz or .zst
    #[arg(long, value_name = "D")]
    data: PathBuf,

    #[command(flatten)]
    which: Which,
}

impl Verb for Eval {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        if self.data.is_file() { self.on_file() } else { self.on_dataset() }
    }
}

impl Eval {
    fn on_dataset(self) -> anyhow::Result<Outcome> {
        let dataset = Dataset::open(&self.data)?;
        let model = trained::load(&self.run, self.which)?;
        let found = evaluate_model(&model, &dataset, &mut ())?;
        let text = format!(
            "validation loss {:.4}, perplexity {:.2}, over {} tokens\n",
            found.val_loss,
            found.perplexity,
            HumanCount(found.tokens),
        );
        let mut json = json!(found);
        json["step"] = json!(model.step);
        Ok(Outcome::new(json, text))
    }

    fn on_file(self) -> anyhow::Result<Outcome> {
        let LoadedModel { gpt, tokenizer, step, .. } = trained::load(&self.run, self.which)?;
        let path = self.data.display();
        let texts = texts(self.data.clone()).map(|text| anyhow::Ok(text?.text));
        let found = evaluate_texts(&gpt, &tokenizer, texts)?;
        anyhow::ensure!(found.tokens > 0, "{path}: it holds no text to measure the loss on");
        let text = format!(
            "loss {:.4} (mean over documents {:.4}), perplexity {:.2}, {:.4} bits per byte
  over {} documents, {} tokens; {} documents longer than the model's {} positions, {} without text\n",
            found.val_loss,
            found.document_loss,
            found.perplexity,
            found.bits_per_byte,
            HumanCount(found.documents),
            HumanCount(found.tokens),
            HumanCount(found.cut),
            gpt.size().context,
            HumanCount(found.empty),
        );
        let mut json = json!(found);
        json["step"] = json!(step);
        Ok(Outcome::new(json, text))
    }
}
