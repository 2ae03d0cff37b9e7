//! Sampling: continues a prompt token by token.

use crate::decode::Decoder;
use crate::error::Error;
use crate::gpt::Gpt;
use mediswift_data::Tokenizer;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// How the next token is chosen and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Logits are divided by it; 0 always takes the likeliest token (greedy).
    pub temperature: f64,
    /// Only the `top_k` likeliest tokens stay.
    pub top_k: Option<usize>,
    /// Only the fewest likeliest tokens whose probabilities reach `top_p` stay; 1 keeps all.
    pub top_p: f64,
    /// Seed of the random choices.
    pub seed: u64,
    /// Most tokens to add.
    pub max_tokens: usize,
    /// The token that ends a text, such as the tokenizer's end of text.
    pub end_token: Option<u32>,
    /// Texts before which to stop.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
            max_tokens: 100,
            end_token: None,
            stop: Vec::new(),
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// `max_tokens` were added.
    MaxTokens,
    /// The end token was chosen.
    EndToken,
    /// The text reached a stop string.
    StopString,
    /// The model has no positions left.
    ContextFull,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    /// The tokens added, without the end token.
    pub ids: Vec<u32>,
    /// Their text, up to the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens added per second; reading the prompt is not counted.
    pub tokens_per_second: f64,
}

/// Continues `prompt`.
/// # Errors
/// If the prompt is empty, longer than the model's positions or outside the vocabulary, or an
/// option is out of range.
pub fn generate(
    gpt: &Gpt,
    prompt: &[u32],
    options: &GenerateOptions,
    tokenizer: &Tokenizer,
) -> Result<Generation, Error> {
    let mut sampler = Sampler::new(options)?;
    let mut decoder = Decoder::new(gpt);
    if prompt.is_empty() {
        return Err(Error::config("prompt", "it has no token to continue"));
    }
    if prompt.len() > gpt.size().context {
        let (tokens, positions) = (prompt.len(), gpt.size().context);
        return Err(Error::SequenceTooLong { tokens, positions });
    }
    gpt.check_tokens(prompt)?;
    for &id in prompt {
        decoder.feed(id)?;
    }

    let started = Instant::now();
    let mut ids = Vec::new();
    let (finish, end) = loop {
        if ids.len() == options.max_tokens {
            break (Finish::MaxTokens, None);
        }
        let mut logits = decoder.logits();
        // A model may have room for more tokens than its tokenizer knows.
        logits.truncate(tokenizer.vocab_size());
        let id = sampler.choose(&logits);
        if Some(id) == options.end_token {
            break (Finish::EndToken, None);
        }
        ids.push(id);
        if !options.stop.is_empty() {
            let text = tokenizer.decode(&ids)?;
            if let Some(end) = options.stop.iter().filter_map(|stop| text.find(stop)).min() {
                break (Finish::StopString, Some(end));
            }
        }
        if decoder.is_full() {
            break (Finish::ContextFull, None);
        }
        decoder.feed(id)?;
    };
    let seconds = started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let tokens_per_second = ids.len() as f64 / seconds;
    let mut text = tokenizer.decode(&ids)?;
    text.truncate(end.unwrap_or(text.len()));
    Ok(Generation { ids, text, finish, tokens_per_second })
}

/// The log-likelihood in nats of every token of `ids` but the first, given those before it.
/// # Errors
/// If there are more tokens than the model has positions, or one is outside the vocabulary.
pub fn token_logprobs(gpt: &Gpt, ids: &[u32]) -> Result<Vec<f64>, Error> {
    gpt.check_tokens(ids)?;
    let mut decoder = Decoder::new(gpt);
    ids.windows(2)
        .map(|pair| {
            decoder.feed(pair[0])?;
            let logits = decoder.logits();
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
            Ok(f64::from(logits[pair[1] as usize] - largest) - total.ln())
        })
        .collect()
}

/// Draws tokens from logits.
struct Sampler<'a> {
    options: &'a GenerateOptions,
    rng: ChaCha8Rng,
}

impl<'a> Sampler<'a> {
    fn new(options: &'a GenerateOptions) -> Result<Self, Error> {
        let GenerateOptions { temperature, top_k, top_p, .. } = options;
        if !temperature.is_finite() || *temperature < 0.0 {
            let problem = format!("{temperature} is not a finite number from 0");
            return Err(Error::config("temperature", problem));
        }
        if *top_k == Some(0) {
            return Err(Error::config("top_k", "0 leaves no token: give at least 1"));
        }
        if !(*top_p > 0.0 && *top_p <= 1.0) {
            return Err(Error::config("top_p", format!("{top_p} lies outside (0, 1]")));
        }
        Ok(Self { options, rng: ChaCha8Rng::seed_from_u64(options.seed) })
    }

    /// One token; of equally likely ones, lower ids come first.
    fn choose(&mut self, logits: &[f32]) -> u32 {
        let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| logits[id as usize];
        ranked.sort_unstable_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
        if self.options.temperature == 0.0 {
            return ranked[0];
        }
        ranked.truncate(self.options.top_k.unwrap_or(usize::MAX));
        let largest = f64::from(logit(ranked[0]));
        let weight =
            |&id: &u32| ((f64::from(logit(id)) - largest) / self.options.temperature).exp();
        let mut cumulative: Vec<f64> = ranked
            .iter()
            .map(weight)
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = cumulative[cumulative.len() - 1];
        let enough = cumulative.partition_point(|&sum| sum < self.options.top_p * total);
        cumulative.truncate(enough + 1);
        // 53 random bits: uniform in [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let draw = uniform * cumulative[cumulative.len() - 1];
        let place = cumulative.partition_point(|&sum| sum <= draw);
        ranked[place.min(cumulative.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of N tokens is drawn.
    fn counts<const N: usize>(options: &GenerateOptions, logits: &[f32; N]) -> [u32; N] {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = [0; N];
        (0..4000).for_each(|_| counts[sampler.choose(logits) as usize] += 1);
        counts
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let counts = counts(&GenerateOptions::default(), &logits);
        for (count, p) in counts.into_iter().zip([1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0]) {
            assert!((f64::from(count) / 4000.0 - p).abs() < 0.03, "{count} for {p}");
        }
    }

    #[test]
    fn cuts_keep_the_likeliest() {
        let logits = [0.0, 2f32.ln(), 5f32.ln(), 1f32.ln()];
        let greedy = GenerateOptions { temperature: 0.0, ..Default::default() };
        assert_eq!(counts(&greedy, &logits), [0, 0, 4000, 0]);
        assert_eq!(counts(&greedy, &[1.0, 1.0]), [4000, 0], "ties go to the lower id");
        let two = GenerateOptions { top_k: Some(2), ..Default::default() };
        assert_eq!(counts(&two, &logits).map(|n| n > 0), [false, true, true, false]);
        // Probabilities are 1/9, 2/9, 5/9, 1/9: 5/9 is enough for 0.5, 7/9 for 0.6.
        let half = GenerateOptions { top_p: 0.5, ..Default::default() };
        assert_eq!(counts(&half, &logits), [0, 0, 4000, 0]);
        let more = GenerateOptions { top_p: 0.6, ..Default::default() };
        assert_eq!(counts(&more, &logits).map(|n| n > 0), [false, true, true, false]);
    }

    #[test]
    fn impossible_options_are_refused() {
        for options in [
            GenerateOptions { temperature: -1.0, ..Default::default() },
            GenerateOptions { temperature: f64::NAN, ..Default::default() },
            GenerateOptions { top_k: Some(0), ..Default::default() },
            GenerateOptions { top_p: 0.0, ..Default::default() },
            GenerateOptions { top_p: f64::NAN, ..Default::default() },
        ] {
            assert!(Sampler::new(&options).is_err(), "{options:?}");
        }
    }
}
