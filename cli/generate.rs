//! `mediswift generate`.

use std::path::PathBuf;

use std::time::Instant;

use clap::builder::NonEmptyStringValueParser;
use mediswift_model::finetune::encode::steered;
use mediswift_model::generate::{Finish, GenerateOptions, Generation, generate_many};
use mediswift_model::run::LoadedModel;
use serde_json::{Value, json};

use crate::output;
use crate::trained::{self, DISCLAIMER, Which};
use crate::verb::{Context, Exit, Outcome, Verb};

/// Continue a text with a trained model
///
/// For research only, not for clinical use. The same seed gives the same text, whatever else is
/// generated beside it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift generate run --prompt \"Aspirin\"
  mediswift generate run --prompt \"We compared\" --greedy --stop . --max-tokens 60
  mediswift generate tuned --prompt \"question: ...\" --soft-prompt --greedy
  mediswift generate run --prompt \"Aspirin\" --prompt \"Insulin\" --samples 4 --json")]
pub struct Generate {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    which: Which,

    /// The text to continue; an empty one starts a new document; may be repeated
    #[arg(long, value_name = "T", required = true, allow_hyphen_values = true)]
    prompt: Vec<String>,

    /// Continue each prompt in this many ways
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = samples)]
    samples: usize,

    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_tokens: usize,

    /// Go on when the model has no position left: the latest half of the tokens is read again as the
    /// beginning of a text, and the rest forgotten
    #[arg(long, conflicts_with = "soft_prompt")]
    past_context: bool,

    /// Below 1 prefers likely tokens, above 1 evens them out; 0 is greedy
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,

    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Choose among the fewest likeliest tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,

    /// Seed of the random choices
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Stop before this text; may be repeated
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    stop: Vec<String>,

    /// Show each prompt to the model as fine-tuning did: after an end of text, and followed by its
    /// soft prompt
    #[arg(long)]
    soft_prompt: bool,

    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "seed"])]
    greedy: bool,
}

/// The value of `--samples`.
fn samples(text: &str) -> Result<usize, String> {
    const MOST: usize = 10_000;
    match text.parse() {
        Ok(samples) if (1..=MOST).contains(&samples) => Ok(samples),
        _ => Err(format!("choose a number of samples from 1 to {MOST}")),
    }
}

impl Verb for Generate {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let model = trained::load(&self.run, self.which)?;
        let mut prompts = if self.soft_prompt {
            let steered = |prompt: &String| steered(&model.gpt, &model.tokenizer, prompt);
            let prompts = self.prompt.iter().map(steered).collect::<Result<_, _>>();
            prompts.map_err(Exit::settings)?
        } else {
            if model.gpt.prompt_tokens() > 0 {
                output::note(trained::HAS_SOFT_PROMPT);
            }
            model.tokenizer.encode_batch(&self.prompt)
        };
        let LoadedModel { gpt, tokenizer, .. } = model;
        let options = GenerateOptions {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            max_tokens: self.max_tokens,
            past_context: self.past_context,
            end_token: Some(tokenizer.end_of_text()),
            stop: self.stop,
            top_logprobs: None,
        };
        let started = Instant::now();
        for ids in prompts.iter_mut().filter(|ids| ids.is_empty()) {
            // The end of one document is where the next begins.
            ids.push(tokenizer.end_of_text());
        }
        let made = generate_many(&gpt, &prompts, self.samples, &options, &tokenizer, &mut ())
            .map_err(Exit::settings)?;
        if let Some(cut) = made.iter().find(|made| made.finish == Finish::ContextFull) {
            let (positions, tokens) = (gpt.size().context, cut.ids.len());
            output::note(&format!(
                "note: the model has {positions} positions: a text ends after {tokens} of {} tokens; \
                 --past-context goes on",
                self.max_tokens
            ));
        }
        let prompts = self.prompt.iter().flat_map(|prompt| vec![prompt.as_str(); self.samples]);
        let made: Vec<(&str, Generation)> = prompts.zip(made).collect();
        output::note(DISCLAIMER);
        Ok(describe(&made, started.elapsed().as_secs_f64()))
    }
}

/// One generation alone; of several the first, the speed of all together, and the list.
fn describe(made: &[(&str, Generation)], seconds: f64) -> Outcome {
    let object = |(prompt, generation): &(&str, Generation)| {
        let mut object = json!(generation);
        object["prompt"] = json!(prompt);
        object
    };
    let text = |(prompt, generation): &(&str, Generation)| format!("{prompt}{}\n", generation.text);
    let texts: Vec<String> = made.iter().map(text).collect();
    let objects: Vec<Value> = made.iter().map(object).collect();
    let mut json = objects[0].clone();
    if made.len() > 1 {
        let tokens: usize = made.iter().map(|(_, generation)| generation.ids.len()).sum();
        json["tokens_per_second"] = json!(tokens as f64 / seconds.max(f64::MIN_POSITIVE));
        json["generations"] = json!(objects);
    }
    Outcome::new(json, texts.join("\n"))
}
