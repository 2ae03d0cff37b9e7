//! `mediswift data prepare`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mediswift_data::manifest::{Manifest, SplitManifest};
use mediswift_data::prepare::{Preparation, PrepareStage, TokenizerSource};
use serde_json::{Value, json};

use super::cleaning::{CleaningArgs, report_inputs};
use crate::output;
use crate::progress::{self, stage_name};
use crate::signals::StopSignal;
use crate::tokenizer::Kind;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Turn PubMed and PMC files, JSONL and text into a dataset folder to train on
///
/// Reads PubMed citation XML, JATS articles (.xml, .nxml), JSONL (`text`, or `title` and `abstract`,
/// or `title` and `sections`) and plain text (a blank line ends a document), each plain, .gz or
/// .zst, and .tar archives of them. Records are cleaned; revisions, withdrawals and duplicates are
/// resolved across all files; every record that is dropped is counted by reason. Damage is reported
/// with path and place, and costs the record that it lies in; what is passed over in folders and
/// archives is named.
///
/// The folder appears when it is complete. Interrupted or killed, the same command goes on where it
/// was.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift data prepare corpus.jsonl --out dataset --vocab-size 4096
  mediswift data prepare pubmed/ oa_comm.tar.gz --out dataset --kind moses-bpe
  mediswift data prepare pubmed/ more.jsonl.gz --out dataset --tokenizer tokenizer.json")]
pub struct Prepare {
    /// Files, or folders of them (searched to the bottom)
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,

    /// The dataset folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Use this tokenizer.json, or the one in this folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vocab_size", "kind", "sample"])]
    tokenizer: Option<PathBuf>,

    /// The kind of tokenizer to train on the training documents
    #[arg(long, value_enum, default_value = "byte-bpe")]
    kind: Kind,

    /// Tokens in its vocabulary, at most [default: 8192, or the paper's 42384 with moses-bpe]
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,

    /// The fraction of training documents it learns from
    #[arg(long, value_name = "FRACTION", default_value_t = 1.0)]
    sample: f64,

    /// The fraction of documents to hold out
    #[arg(long, value_name = "FRACTION", default_value_t = 0.03)]
    validation: f64,

    /// Close a shard file when it has this many tokens
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    shard_tokens: u64,

    /// Replace an existing dataset, once the new one is complete
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    cleaning: CleaningArgs,
}

impl Verb for Prepare {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        if !(0.0..1.0).contains(&self.validation) {
            let problem =
                format!("--validation {}: choose from 0 up to, not including, 1", self.validation);
            return Err(Exit::usage(problem).into());
        }
        let preparation = Preparation {
            inputs: self.inputs,
            out: self.out,
            tokenizer: match self.tokenizer {
                Some(path) => TokenizerSource::File(path),
                None => TokenizerSource::Train {
                    kind: self.kind.with_defaults(),
                    vocab_size: self.vocab_size.unwrap_or(self.kind.vocab_size()),
                    min_frequency: 2,
                    sample: self.sample,
                },
            },
            cleaning: self.cleaning.rules(),
            strict: self.cleaning.strict,
            validation_fraction: self.validation,
            shard_tokens: self.shard_tokens,
            force: self.force,
        };
        let stop = StopSignal::watch()?;
        let mut times = Times::start();
        let manifest = progress::preparing(&stop, |show| {
            mediswift_data::prepare(&preparation, &mut |now| {
                times.reached(now.stage);
                show(now)
            })
        })
        .map_err(|error| stop.explain(error))?;
        times.reached(PrepareStage::Tokenizing);
        report_inputs(&manifest.damaged, &manifest.notes);
        if manifest.validation.tokens == 0 && self.validation > 0.0 {
            output::note(
                "note: no document fell into the validation split; use more data or a larger --validation",
            );
        }
        Ok(describe(&preparation, &manifest, &times, context.threads))
    }
}

/// How long each step took.
struct Times {
    stage: PrepareStage,
    since: Instant,
    taken: Vec<(PrepareStage, Duration)>,
}

impl Times {
    fn start() -> Self {
        Self { stage: PrepareStage::Reading, since: Instant::now(), taken: Vec::new() }
    }

    /// The work is, or still is, at `stage`.
    fn reached(&mut self, stage: PrepareStage) {
        let now = Instant::now();
        match self.taken.last_mut() {
            Some((last, taken)) if *last == self.stage => *taken += now - self.since,
            _ => self.taken.push((self.stage, now - self.since)),
        }
        (self.stage, self.since) = (stage, now);
    }
}

fn describe(
    preparation: &Preparation,
    manifest: &Manifest,
    times: &Times,
    threads: usize,
) -> Outcome {
    let Manifest { documents, tokens, dropped, train, validation, .. } = manifest;
    let vocab_size = manifest.vocab_size;
    let split = |split: &SplitManifest| {
        json!({
            "documents": split.documents, "tokens": split.tokens, "words": split.words,
            "shards": split.shards.len(),
        })
    };
    let seconds: serde_json::Map<String, Value> = times
        .taken
        .iter()
        .map(|(stage, taken)| (stage_name(*stage).to_owned(), json!(taken.as_secs_f64())))
        .collect();
    let took: Vec<String> = times
        .taken
        .iter()
        .map(|(stage, taken)| format!("{} {:.1} s", stage_name(*stage), taken.as_secs_f64()))
        .collect();
    let records: u64 = manifest.inputs.iter().map(|input| input.records).sum();
    let json = json!({
        "records": records,
        "documents": documents,
        "tokens": tokens,
        "dropped": dropped,
        "damaged": manifest.damaged,
        "notes": manifest.notes,
        "inputs": manifest.inputs,
        "train": split(train),
        "validation": split(validation),
        "vocab_size": vocab_size,
        "tokenizer_hash": manifest.tokenizer_hash,
        "seconds": seconds,
        "path": preparation.out.display().to_string(),
        "threads": threads,
    });
    let drops: Vec<String> = dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let drops = if drops.is_empty() { "nothing".to_owned() } else { drops.join(", ") };
    let text = format!(
        "{}: {documents} documents of {records} records, {tokens} tokens of a vocabulary of {vocab_size}
  train       {} documents, {} tokens
  validation  {} documents, {} tokens
  dropped     {drops}
  took        {}
",
        preparation.out.display(),
        train.documents,
        train.tokens,
        validation.documents,
        validation.tokens,
        took.join(", "),
    );
    Outcome::new(json, text)
}
