//! `mediswift tokenizer moses` and `mediswift tokenizer demoses`.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};

use anyhow::Context as _;
use mediswift_data::tokenizer::moses::{Options, detokenize, tokenize};
use mediswift_files::without_mark;
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

/// Longest line that is held, in bytes.
const LONGEST: u64 = 64 << 20;

/// Applies `change` to every line. The lines go out as they come in, each before the next one is waited
/// for, or all in one JSON object.
fn each_line(context: &Context, change: impl Fn(&str) -> String) -> anyhow::Result<Outcome> {
    let mut stdin = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut stdout = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let mut all = Vec::new();
    let mut lines = 0u64;
    let mut line = Vec::new();
    loop {
        let waits = !stdin.buffer().contains(&b'\n');
        if waits && output::reader_left(stdout.flush())? {
            break;
        }
        line.clear();
        let at = || format!("stdin, line {}", lines + 1);
        let read = stdin.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line);
        if read.with_context(at)? == 0 {
            break;
        }
        anyhow::ensure!(line.len() as u64 <= LONGEST, "{}: longer than {LONGEST} bytes", at());
        let bytes = if lines == 0 { without_mark(&line) } else { &line };
        let text = std::str::from_utf8(bytes)
            .with_context(|| format!("{}: not UTF-8; convert the text to UTF-8", at()))?;
        lines += 1;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let changed = change(text.strip_suffix('\r').unwrap_or(text));
        if context.json {
            all.push(changed);
        } else if output::reader_left(writeln!(stdout, "{changed}"))? {
            break;
        }
    }
    output::reader_left(stdout.flush())?;
    Ok(Outcome::new(json!({ "lines": lines, "text": all.join("\n") }), ""))
}
