//! The body of a completion request, and the limits on it.

use mediswift_model::generate::GenerateOptions;
use mediswift_model::object::Object;
use serde::Deserialize;

use super::object::Entries;
use super::problem::Problem;
use super::prompt::{Logprobs, MOST_CHOICES, Prompt, Stop};

/// Most alternatives listed for each token.
const MOST_LOGPROBS: usize = 100;

/// What clients of the OpenAI completions API send. What is not supported is refused, not ignored:
/// an answer to another question than the one asked is worse than none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Ignored: there is one model.
    #[serde(rename = "model")]
    _model: Option<String>,
    prompt: Option<Prompt>,
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    n: Option<usize>,
    best_of: Option<usize>,
    stop: Option<Stop>,
    seed: Option<i64>,
    logprobs: Option<Logprobs>,
    echo: Option<bool>,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    suffix: Option<String>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<Entries>,
    /// Not of the protocol: see [`GenerateOptions::past_context`].
    past_context: Option<bool>,
    /// Ignored: who asks.
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A checked request.
pub struct Wanted {
    /// The prompts; none starts a new document.
    pub prompt: Prompt,
    /// Continuations of each prompt.
    pub samples: usize,
    /// How to continue; everything but the end token.
    pub options: GenerateOptions,
    /// Whether the answer repeats the prompt.
    pub echo: bool,
    /// Whether the answer comes piece by piece.
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub stream_usage: bool,
}

impl Body {
    /// Checks what can be checked without the model.
    pub fn check(self) -> Result<Wanted, Problem> {
        self.refuse_unsupported()?;
        let samples = self.n.unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&samples) {
            return Err(Problem::bad("n", format!("n is {samples}; choose 1 to {MOST_CHOICES}")));
        }
        let prompt = self.prompt.unwrap_or(Prompt::Text(String::new()));
        let prompts = prompt.count();
        if prompts == 0 {
            return Err(Problem::bad("prompt", "the list of prompts is empty"));
        }
        if prompts.saturating_mul(samples) > MOST_CHOICES {
            let message = format!("{prompts} prompts × n = {samples}: at most {MOST_CHOICES}");
            return Err(Problem::bad("prompt", message));
        }
        let (echo, stream) = (self.echo.unwrap_or(false), self.stream.unwrap_or(false));
        let max_tokens = self.max_tokens.unwrap_or(16);
        if max_tokens == 0 && !echo {
            let message = "max_tokens is 0: there is nothing to answer without echo";
            return Err(Problem::bad("max_tokens", message));
        }
        let logprobs = self.logprobs.and_then(|Logprobs(count)| count);
        if let Some(logprobs) = logprobs.filter(|&logprobs| logprobs > MOST_LOGPROBS) {
            let message = format!("logprobs is {logprobs}; choose 0 to {MOST_LOGPROBS}");
            return Err(Problem::bad("logprobs", message));
        }
        if stream && logprobs.is_some() {
            return Err(Problem::bad("logprobs", "logprobs cannot be streamed: leave out stream"));
        }
        if self.stream_options.is_some() && !stream {
            return Err(Problem::bad("stream_options", "stream_options needs stream"));
        }
        let Stop(stop) = self.stop.unwrap_or_default();
        if stop.iter().any(String::is_empty) {
            return Err(Problem::bad("stop", "stop takes strings that are not empty"));
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !temperature.is_finite() || temperature < 0.0 {
            let message = format!("temperature is {temperature}; choose a number from 0");
            return Err(Problem::bad("temperature", message));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Problem::bad("top_p", format!("top_p is {top_p}, outside (0, 1]")));
        }
        // 0 and −1 keep every token, as clients know it.
        let top_k = match self.top_k.unwrap_or(0) {
            -1 | 0 => None,
            top_k => Some(usize::try_from(top_k).map_err(|_| {
                Problem::bad("top_k", format!("top_k is {top_k}; choose 1 or more, or 0 for all"))
            })?),
        };
        let options = GenerateOptions {
            temperature,
            top_k,
            top_p,
            seed: self.seed.map_or_else(any_seed, i64::cast_unsigned),
            max_tokens,
            past_context: self.past_context.unwrap_or(false),
            end_token: None,
            stop,
            top_logprobs: logprobs,
        };
        let usage = self.stream_options.and_then(|Object(options)| options.include_usage);
        let stream_usage = usage.unwrap_or(false);
        Ok(Wanted { prompt, samples, options, echo, stream, stream_usage })
    }

    fn refuse_unsupported(&self) -> Result<(), Problem> {
        let penalty = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
        let refused = if penalty(self.presence_penalty) {
            "presence_penalty"
        } else if penalty(self.frequency_penalty) {
            "frequency_penalty"
        } else if self.logit_bias.as_ref().is_some_and(|Entries(count)| *count > 0) {
            "logit_bias"
        } else if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            "suffix"
        } else if self.best_of.is_some_and(|best_of| best_of != self.n.unwrap_or(1)) {
            "best_of"
        } else {
            return Ok(());
        };
        Err(Problem::bad(refused, format!("{refused} is not supported: leave it out")))
    }
}

/// A seed for a request that names none: another one every time.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
