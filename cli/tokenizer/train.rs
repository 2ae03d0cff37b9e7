//! `mediswift tokenizer train`.

use std::path::PathBuf;

use mediswift_data::prepare::train_tokenizer;
use serde_json::json;

use super::Kind;
use crate::signals::StopSignal;
use crate::verb::{Context, Outcome, Verb, refuse_to_overwrite};
use crate::{output, progress};

/// Learn a vocabulary from JSONL files
///
/// The tokenizer depends on the documents alone, not on their order or the number of threads.
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift tokenizer train corpus.jsonl --vocab-size 4096 --out tokenizer.json")]
pub struct Train {
    /// JSONL files (.jsonl, .jsonl.gz, .jsonl.zst), or folders of them
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

    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Verb for Train {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let Self { inputs, kind, vocab_size, min_frequency, out, force } = self;
        let vocab_size = vocab_size.unwrap_or(kind.vocab_size());
        refuse_to_overwrite(&out, force)?;
        let stop = StopSignal::watch()?;
        let bar = progress::bytes(0, "reading");
        let (tokenizer, documents) =
            train_tokenizer(&inputs, kind.with_defaults(), vocab_size, min_frequency, &mut |now| {
                bar.set_length(now.bytes_total);
                bar.set_position(now.bytes_read);
                stop.flow()
            })
            .map_err(|error| stop.explain(error))?;
        bar.finish_and_clear();
        tokenizer.save(&out)?;

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
                "tokenizer_hash": tokenizer.hash().to_hex().as_str(),
                "path": out,
            }),
            format!("{}: {learned} tokens, from {documents} documents\n", out.display()),
        ))
    }
}
