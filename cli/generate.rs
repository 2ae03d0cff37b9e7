//! `mediswift generate`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use mediswift_data::Tokenizer;
use mediswift_model::Error;
use mediswift_model::generate::{GenerateOptions, generate};
use mediswift_model::run::{self, Loaded};
use serde_json::json;

use crate::output;
use crate::verb::{Context, Exit, Outcome, Verb};

/// What every generated text comes with.
pub const DISCLAIMER: &str = "note: for research only, not for clinical use: the text may be \
                              wrong or harmful and must not inform the care of anyone";

/// Continue a text with a trained model
///
/// For research only, not for clinical use. The same seed gives the same text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift generate run --prompt \"Aspirin\"
  mediswift generate run --prompt \"We compared\" --greedy --stop . --max-tokens 60")]
pub struct Generate {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The text to continue; an empty one starts a new document
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    prompt: String,

    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_tokens: usize,

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

    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "seed"])]
    greedy: bool,
}

impl Verb for Generate {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let Loaded { gpt, skipped, .. } = run::load_model(&self.run)?;
        skipped.iter().for_each(|warning| output::warning(warning));
        let tokenizer = Tokenizer::load(&run::tokenizer_path(&self.run))?;
        let mut prompt = tokenizer.encode(&self.prompt);
        if prompt.is_empty() {
            // The end of one document is where the next begins.
            prompt.push(tokenizer.end_of_text());
        }
        let options = GenerateOptions {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            max_tokens: self.max_tokens,
            end_token: Some(tokenizer.end_of_text()),
            stop: self.stop,
        };
        let generation = generate(&gpt, &prompt, &options, &tokenizer).map_err(|error| {
            match error {
                // Options out of range.
                Error::Config { .. } => Exit::usage(error.to_string()).into(),
                other => anyhow::Error::from(other),
            }
        })?;
        output::note(DISCLAIMER);
        let text = format!("{}{}\n", self.prompt, generation.text);
        let mut json = json!(generation);
        json["prompt"] = json!(self.prompt);
        Ok(Outcome::new(json, text))
    }
}
