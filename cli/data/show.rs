//! `mediswift data show`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use mediswift_data::DataError;
use mediswift_data::source::{self, Event};
use serde_json::{Value, json};

use super::cleaning::{CleaningArgs, report_inputs};
use crate::output;
use crate::verb::{Context, Outcome, Verb};

/// Show the documents of PubMed and PMC files, JSONL and text, as `data prepare` would read them
///
/// One JSON object a line: `id` and `text` of a document, or `id`, `title` and the reason why a
/// record is `dropped`. What depends on other documents (duplicates, revisions, withdrawals) is found
/// by `prepare` only.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift data show pubmed26n0001.xml.gz | head -n 3
  mediswift data show oa_comm.tar.gz --language any > documents.jsonl")]
pub struct Show {
    /// Files, or folders of them (searched to the bottom)
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,

    #[command(flatten)]
    cleaning: CleaningArgs,
}

impl Verb for Show {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let rules = self.cleaning.rules();
        let mut shown = Shown::default();
        let source::Found { files, passed_over } = source::find(&self.inputs)?;
        let mut damaged = Vec::new();
        let mut notes: Vec<String> = passed_over.iter().map(ToString::to_string).collect();
        let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
        // What stopped a parser that could have gone on.
        let mut failure = None;
        for (_, path) in files {
            let outcome = source::read(&path, &mut |event| {
                let line = match event {
                    Event::Record(record) => shown.describe(record, &rules),
                    Event::Damaged(damage) if self.cleaning.strict => return Err(damage),
                    Event::Damaged(damage) => {
                        damaged.push(damage.to_string());
                        return Ok(());
                    }
                    Event::Noted(note) => {
                        notes.push(note.to_string());
                        return Ok(());
                    }
                    Event::Deleted(_) => return Ok(()),
                };
                if context.json {
                    shown.records.push(line);
                    return Ok(());
                }
                match output::reader_left(writeln!(stdout, "{line}")) {
                    Ok(false) => Ok(()),
                    Ok(true) => Err(DataError::Interrupted),
                    Err(error) => {
                        failure = Some(error);
                        Err(DataError::Interrupted)
                    }
                }
            });
            match outcome {
                Ok(()) => {}
                Err(DataError::Interrupted) => break,
                Err(damage @ DataError::Input { .. }) if !self.cleaning.strict => {
                    damaged.push(damage.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        failure.map_or(Ok(()), Err)?;
        output::reader_left(stdout.flush())?;
        report_inputs(&damaged, &notes);
        let Shown { documents, dropped, records } = shown;
        let json = json!({
            "documents": documents, "dropped": dropped, "damaged": damaged, "notes": notes,
            "records": records,
        });
        Ok(Outcome::new(json, ""))
    }
}

#[derive(Default)]
struct Shown {
    documents: u64,
    dropped: BTreeMap<&'static str, u64>,
    /// With `--json`.
    records: Vec<Value>,
}

impl Shown {
    fn describe(
        &mut self,
        record: source::Record,
        rules: &mediswift_data::clean::Cleaning,
    ) -> Value {
        let (id, title) = (record.identity.clone(), record.title.clone());
        match rules.clean(record) {
            Ok(document) => {
                self.documents += 1;
                json!({ "id": id, "text": document.text })
            }
            Err(reason) => {
                *self.dropped.entry(reason.name()).or_default() += 1;
                json!({ "id": id, "title": title, "dropped": reason.name() })
            }
        }
    }
}
