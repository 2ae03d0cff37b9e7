//! `mediswift tokenizer train`.

use std::path::PathBuf;

use mediswift_data::prepare::{TokenizerSource, train_tokenizer};
use serde_json::json;

use super::Kind;
use crate::data::{CleaningArgs, report_inputs};
use crate::signals::StopSignal;
use crate::verb::{Context, Outcome, Verb, refuse_to_overwrite};
use crate::{output, progress};

/// Learn a vocabulary from PubMed and PMC files, JSONL and text
///
/// Inputs are read and cleaned as by `data prepare`. The tokenizer depends on the documents alone, not
/// on their order or the number of threads.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift tokenizer train corpus.jsonl --vocab-size 4096 --out tokenizer.json
  mediswift tokenizer train pubmed/ --kind moses-bpe --sample 0.1 --out tokenizer.json")]
pub struct Train {
    /// Files, or folders of them (searched to the bottom)
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,

    /// What to train
    #[arg(long, value_enum, default_value = "byte-bpe")]
    kind: Kind,

    /// Tokens in the vocabulary, at most [default: 8192, or the paper's 42384 with moses-bpe]
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,

    /// Join only pairs that occur this often
    #[arg(long, value_name = "N", default_value_t = 2)]
    min_frequency: u64,

    /// The fraction of documents to learn from
    #[arg(long, value_name = "FRACTION", default_value_t = 1.0)]
    sample: f64,

    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    cleaning: CleaningArgs,
}

impl Verb for Train {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let Self { inputs, kind, vocab_size, min_frequency, sample, out, force, cleaning } = self;
        let vocab_size = vocab_size.unwrap_or(kind.vocab_size());
        refuse_to_overwrite(&out, force)?;
        let learn = TokenizerSource::Train {
            kind: kind.with_defaults(),
            vocab_size,
            min_frequency,
            sample,
        };
        let stop = StopSignal::watch()?;
        let (tokenizer, documents, report) = progress::preparing(&stop, |show| {
            let (rules, strict) = (cleaning.rules(), cleaning.strict);
            train_tokenizer(&inputs, &rules, strict, &learn, &out, show)
        })
        .map_err(|error| stop.explain(error))?;
        tokenizer.save(&out)?;
        report_inputs(&report.damaged, &report.notes);

        let learned = tokenizer.vocab_size();
        if learned < vocab_size {
            output::note(&format!(
                "note: the documents support {learned} tokens, not {vocab_size}; no other pair occurs {min_frequency} times"
            ));
        }
        Ok(Outcome::new(
            json!({
                "vocab_size": learned,
                "documents": documents,
                "dropped": report.dropped,
                "damaged": report.damaged,
                "notes": report.notes,
                "tokenizer_hash": tokenizer.hash(),
                "path": out.display().to_string(),
            }),
            format!("{}: {learned} tokens, from {documents} documents\n", out.display()),
        ))
    }
}
