//! `mediswift data synth`.

use std::path::PathBuf;

use serde_json::json;

use crate::progress;
use crate::signals::StopSignal;
use crate::verb::{Context, Outcome, Verb, refuse_to_overwrite};

/// Make a synthetic corpus of biomedical abstracts, offline
///
/// The abstracts are invented, but consistent: drugs, diseases, genes and numbers follow rules a
/// model can learn, so training losses on them mean something. The same seed gives the same bytes.
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift data synth --documents 20000 --seed 1 --out corpus.jsonl.gz")]
pub struct Synth {
    /// How many abstracts to make
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    documents: u64,

    /// Another seed makes another corpus
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// The file to write: .jsonl, .jsonl.gz or .jsonl.zst
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Verb for Synth {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let Self { documents, seed, out, force } = self;
        refuse_to_overwrite(&out, force)?;
        let stop = StopSignal::watch()?;
        let bar = progress::count(documents, "writing");
        let bytes = mediswift_data::synth::write(&out, seed, documents, &mut |done| {
            bar.set_position(done);
            stop.flow()
        })
        .map_err(|error| stop.explain(error))?;
        bar.finish_and_clear();
        Ok(Outcome::new(
            json!({ "documents": documents, "bytes": bytes, "seed": seed, "path": out.display().to_string() }),
            format!("{}: {documents} abstracts, {bytes} bytes of text\n", out.display()),
        ))
    }
}
