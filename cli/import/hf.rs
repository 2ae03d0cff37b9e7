//! `mediswift import hf`.

use std::path::PathBuf;

use indicatif::HumanCount;
use mediswift_model::interchange::hf::{self, Imported};
use serde_json::json;

use crate::machine;
use crate::verb::{Context, Outcome, Verb};

/// Import a GPT-2 that Hugging Face's transformers saved
///
/// Any checkpoint of the GPT-2 architecture as safetensors, in one file or several, in 32 or 16 bits;
/// what the engine cannot compute as it was meant is refused. The run can be evaluated, sampled and
/// exported; `pretrain --resume --data D --out RUN` trains it on, on data prepared with its tokenizer.
/// A masks.safetensors written by `export hf` restores the masks.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift import hf gpt2 --out run
  mediswift import hf gpt2 --out sparse --sparsity 0.5 --sparsify magnitude --set train.steps=2000
  mediswift data prepare corpus.jsonl --out dataset --tokenizer run
  mediswift pretrain --resume --data dataset --out run")]
pub struct Hf {
    /// The folder with config.json, weights and tokenizer: not the name of a model on the Hub
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The run folder to make
    #[arg(long, value_name = "RUN")]
    out: PathBuf,

    /// Use this tokenizer.json, or the one in this folder, instead of the checkpoint's
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// Fraction of the linear layers' weights to leave out, from 0 up to, not including, 1
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    sparsity: Option<f64>,

    /// Which weights to leave out: the smallest (magnitude) or any (random)
    #[arg(long, value_name = "HOW", default_value = "magnitude", requires = "sparsity")]
    sparsify: String,

    /// Change one setting, as in train.lr=1e-4; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Import even what seems not to fit into memory
    #[arg(long)]
    anyway: bool,
}

impl Verb for Hf {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let mut set = self.set;
        if let Some(sparsity) = self.sparsity {
            set.push(format!("sparsity.sparsity={sparsity}"));
            set.push(format!("sparsity.init_method={:?}", self.sparsify));
        }
        let free = if self.anyway { None } else { machine::free_memory() };
        let options = hf::Import { tokenizer: self.tokenizer, set, free };
        let imported = hf::import(&self.folder, &self.out, &options)?;
        let Imported { config, tensors, parameters, weights_hash, has_masks } = &imported;
        let kept = config.sparsity.describe(&config.model);
        let by = if *has_masks { " (the masks it came with)" } else { "" };
        let text = format!(
            "{}: {tensors} tensors, {} parameters, {kept}{by}\n",
            self.out.display(),
            HumanCount(*parameters as u64),
        );
        let json = json!({
            "tensors": tensors,
            "parameters": parameters,
            "sparsity": config.sparsity.sparsity,
            "masks": has_masks,
            "weights_hash": weights_hash,
            "path": self.out.display().to_string(),
        });
        Ok(Outcome::new(json, text))
    }
}
