//! `mediswift tokenizer moses` and `mediswift tokenizer demoses`.

use std::io::{BufRead, Write};

use anyhow::Context as _;
use mediswift_data::tokenizer::moses::{Options, detokenize, tokenize};
use serde_json::json;

use crate::output;
use crate::verb::{Context, Outcome, Verb};

/// Split lines into Moses words (stdin to stdout, a line each)
///
/// English rules; the defaults are BioGPT's.
#[derive(clap::Args)]
#[command(after_help = "Example:
  echo \"Crohn's disease (n=5).\" | mediswift tokenizer moses")]
pub struct Moses {
    /// Normalise quotation marks, dashes and spaces first
    #[arg(long)]
    normalise: bool,

    /// Leave hyphenated words whole
    #[arg(long)]
    keep_hyphens: bool,

    /// Leave & | < > ' " [ ] as they are
    #[arg(long)]
    no_escape: bool,
}

impl Verb for Moses {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let options = Options {
            normalise: self.normalise,
            split_hyphens: !self.keep_hyphens,
            escape: !self.no_escape,
        };
        each_line(context, |line| tokenize(line, &options))
    }
}

/// Put Moses words together again (stdin to stdout, a line each)
#[derive(clap::Args)]
#[command(after_help = "Example:
  mediswift tokenizer moses < text.txt | mediswift tokenizer demoses")]
pub struct Demoses {}

impl Verb for Demoses {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        each_line(context, detokenize)
    }
}

/// Applies `change` to every line. The lines go out as they come in, or all in one JSON object.
fn each_line(context: &Context, change: impl Fn(&str) -> String) -> anyhow::Result<Outcome> {
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    let mut all = Vec::new();
    let mut lines = 0u64;
    for line in std::io::stdin().lock().lines() {
        lines += 1;
        let changed = change(&line.with_context(|| format!("stdin, line {lines}"))?);
        if context.json {
            all.push(changed);
        } else if output::reader_left(writeln!(stdout, "{changed}"))? {
            break;
        }
    }
    output::reader_left(stdout.flush())?;
    Ok(Outcome::new(json!({ "lines": lines, "text": all.join("\n") }), ""))
}
