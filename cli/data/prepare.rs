//! `mediswift data prepare`.

use std::path::PathBuf;

use mediswift_data::manifest::{Manifest, SplitManifest};
use mediswift_data::prepare::{Options, Stage, TokenizerSource};
use serde_json::json;

use crate::signals::StopSignal;
use crate::verb::{Context, Exit, Outcome, Verb};
use crate::{output, progress};

/// Turn JSONL files into a dataset folder to train on
///
/// Each line is an object with `text`, or with `title` and `abstract`; `id` or `pmid`, if there,
/// decides whether the document is held out for validation. Duplicates, empty records and titles
/// without an abstract are dropped and counted; malformed input is an error. The folder appears
/// when it is complete.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift data prepare corpus.jsonl --out dataset --vocab-size 4096
  mediswift data prepare abstracts/ more.jsonl.gz --out dataset --tokenizer tokenizer.json")]
pub struct Prepare {
    /// JSONL files (.jsonl, .jsonl.gz, .jsonl.zst), or folders of them
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,

    /// The dataset folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Use this tokenizer.json, or the one in this folder
    #[arg(long, value_name = "FILE", conflicts_with = "vocab_size")]
    tokenizer: Option<PathBuf>,

    /// Train a tokenizer with this many tokens on the training documents
    #[arg(long, value_name = "N", default_value_t = 8192)]
    vocab_size: usize,

    /// The fraction of documents to hold out
    #[arg(long, value_name = "FRACTION", default_value_t = 0.03)]
    validation: f64,

    /// Close a shard file when it has this many tokens
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    shard_tokens: u64,

    /// Replace an existing dataset, once the new one is complete
    #[arg(long)]
    force: bool,
}

impl Verb for Prepare {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        if !(0.0..1.0).contains(&self.validation) {
            let problem =
                format!("--validation {}: choose from 0 up to, not including, 1", self.validation);
            return Err(Exit::usage(problem).into());
        }
        let options = Options {
            inputs: self.inputs,
            out: self.out,
            tokenizer: match self.tokenizer {
                Some(path) => TokenizerSource::File(path),
                None => TokenizerSource::Train {
                    kind: mediswift_data::tokenizer::Kind::ByteBpe,
                    vocab_size: self.vocab_size,
                    min_frequency: 2,
                },
            },
            validation_fraction: self.validation,
            shard_tokens: self.shard_tokens,
            force: self.force,
        };
        let stop = StopSignal::watch()?;
        let bar = progress::bytes(0, "reading");
        let manifest = mediswift_data::prepare(&options, &mut |now| {
            bar.set_message(match now.stage {
                Stage::Reading => "reading",
                Stage::Tokenizing => "tokenizing",
            });
            bar.set_length(now.bytes_total);
            bar.set_position(now.bytes_read);
            stop.flow()
        })
        .map_err(|error| stop.explain(error))?;
        bar.finish_and_clear();

        if manifest.validation.tokens == 0 && self.validation > 0.0 {
            output::note(
                "note: no document fell into the validation split; use more data or a larger --validation",
            );
        }
        Ok(describe(&options, &manifest, context.threads))
    }
}

fn describe(options: &Options, manifest: &Manifest, threads: usize) -> Outcome {
    let Manifest { documents, tokens, dropped, train, validation, .. } = manifest;
    let vocab_size = manifest.vocab_size;
    let split = |split: &SplitManifest| {
        json!({
            "documents": split.documents, "tokens": split.tokens, "shards": split.shards.len(),
        })
    };
    let json = json!({
        "documents": documents,
        "tokens": tokens,
        "dropped": dropped,
        "train": split(train),
        "validation": split(validation),
        "vocab_size": vocab_size,
        "tokenizer_hash": manifest.tokenizer_hash,
        "path": options.out,
        "threads": threads,
    });
    let drops: Vec<String> =
        dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let text = format!(
        "{}: {documents} documents, {tokens} tokens of a vocabulary of {vocab_size}
  train       {} documents, {} tokens
  validation  {} documents, {} tokens
  dropped     {}
",
        options.out.display(),
        train.documents,
        train.tokens,
        validation.documents,
        validation.tokens,
        drops.join(", "),
    );
    Outcome::new(json, text)
}
