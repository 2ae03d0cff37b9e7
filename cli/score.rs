//! `mediswift score`.

use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::HumanCount;
use mediswift_data::clean::Document;
use mediswift_data::{Tokenizer, texts};
use mediswift_files as files;
use mediswift_model::run::LoadedModel;
use mediswift_model::score::{Before, ScoredText, score_texts};
use serde_json::{Value, json};

use crate::trained::{self, Which};
use crate::verb::{Context, Exit, Outcome, Verb, refuse_to_overwrite};

/// Texts that are scored together.
const GROUP: usize = 1024;

/// Measure how likely a trained model finds a text
///
/// Prints the log-likelihood of every token, in nats, given those before it. The first token of a
/// text has nothing before it: its place is null. With --context, the text is taken as what comes
/// after it, and only the text's tokens are listed; --context "" stands for the end of another
/// document. Texts longer than the model's positions are read in windows that overlap by half
/// (`cut` is then true); of a context that is too long, the end is read.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift score run --text \"Aspirin inhibits platelets.\"
  mediswift score run --context \"Aspirin inhibits\" --text \" platelets.\"
  mediswift score run --file abstracts.jsonl.gz --context \"\" --out scores.jsonl")]
pub struct Score {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    which: Which,

    /// The text to score
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,

    /// Score every document of a file: JSONL (`text`, or `title` and `abstract`), text or PubMed
    /// XML, plain, .gz or .zst
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// What comes before each text
    #[arg(long, value_name = "C", allow_hyphen_values = true)]
    context: Option<String>,

    /// Show context and text to the model as fine-tuning did: after an end of text, and with its soft
    /// prompt between them
    #[arg(long, requires = "context")]
    soft_prompt: bool,

    /// Write one JSON line per document to this file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    out: Option<PathBuf>,

    /// Replace --out if it exists
    #[arg(long, requires = "out")]
    force: bool,
}

impl Verb for Score {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        if let Some(out) = &self.out {
            refuse_to_overwrite(out, self.force)?;
        }
        let model = trained::load(&self.run, self.which)?;
        let Some(file) = &self.file else {
            let text = self.text.clone().unwrap_or_default();
            let text = Document { identity: None, text };
            let [line] = self.score(&model, &[text])?.try_into().expect("one line a text");
            let text = for_people(&line);
            return Ok(Outcome::new(line, text));
        };
        let (mut lines, mut count, mut nats) = (Vec::new(), 0, 0.0);
        let mut texts = texts(file.clone());
        let mut for_each_group = |take: &mut dyn FnMut(Vec<Value>) -> anyhow::Result<()>| {
            loop {
                let group: Vec<Document> = texts.by_ref().take(GROUP).collect::<Result<_, _>>()?;
                if group.is_empty() {
                    return anyhow::Ok(());
                }
                let group = self.score(&model, &group)?;
                count += group.len() as u64;
                nats += group.iter().filter_map(|line| line["loglikelihood"].as_f64()).sum::<f64>();
                take(group)?;
            }
        };
        let Some(out) = &self.out else {
            for_each_group(&mut |group| {
                lines.extend(group);
                Ok(())
            })?;
            let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            return Ok(Outcome::new(json!({ "scores": lines }), text));
        };
        files::write_with(out, |to| {
            for_each_group(&mut |group| {
                let lines = group.iter().try_for_each(|line| writeln!(to, "{line}"));
                lines.with_context(|| format!("cannot write {}", out.display()))
            })
        })?;
        let json =
            json!({ "documents": count, "loglikelihood": nats, "path": out.display().to_string() });
        let text = format!(
            "{}: {} documents, log-likelihood {nats:.4}\n",
            out.display(),
            HumanCount(count)
        );
        Ok(Outcome::new(json, text))
    }
}

impl Score {
    /// One JSON object per text.
    fn score(&self, model: &LoadedModel, texts: &[Document]) -> anyhow::Result<Vec<Value>> {
        let before = match &self.context {
            None => Before::Nothing,
            Some(source) if self.soft_prompt => Before::Steered(source),
            Some(context) => Before::Text(context),
        };
        let LoadedModel { gpt, tokenizer, .. } = model;
        let bare: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        let scored = score_texts(gpt, tokenizer, before, &bare).map_err(Exit::settings)?;
        texts.iter().zip(&scored).map(|(text, scored)| line(tokenizer, text, scored)).collect()
    }
}

/// The JSON object of a text.
fn line(tokenizer: &Tokenizer, text: &Document, scored: &ScoredText) -> anyhow::Result<Value> {
    let ScoredText { ids, score } = scored;
    let unknown = ids.len() - score.tokens.len();
    let logprobs = score.tokens.iter().map(|token| Some(token.logprob));
    let logprobs: Vec<Option<f64>> = vec![None; unknown].into_iter().chain(logprobs).collect();
    let mut json = json!({
        "ids": ids,
        "tokens": tokenizer.tokens(ids)?,
        "token_logprobs": logprobs,
        "loglikelihood": score.loglikelihood(),
        "is_greedy": score.is_greedy,
        "cut": score.cut,
    });
    if let Some(identity) = &text.identity {
        json["id"] = json!(identity);
    }
    Ok(json)
}

/// A line for every token, and the sum.
fn for_people(line: &Value) -> String {
    let list = |key: &str| line[key].as_array().cloned().unwrap_or_default();
    let tokens = list("tokens").into_iter().zip(list("token_logprobs"));
    let mut text: String = tokens
        .map(|(token, logprob)| {
            let value = logprob.as_f64().map_or("-".into(), |value| format!("{value:.4}"));
            format!("{value:>10}  {}\n", token.as_str().unwrap_or_default())
        })
        .collect();
    text += &format!("{:>10.4}  in all\n", line["loglikelihood"].as_f64().unwrap_or_default());
    text
}
