//! Sampling: continues prompts token by token.
//!
//! Every continuation draws from a random stream of its own, given by seed and sample: it depends
//! neither on the prompts and samples made beside it nor on the number of threads.
//!
//! A model has learned as many positions as it has. A text that needs more ends there, or, where
//! [`GenerateOptions::past_context`] says so, goes on in a window that slides: whenever all positions are
//! used, the latest half of the tokens is read again from the first position on, and the rest is
//! forgotten. So every later token is predicted from at least half the positions.

use crate::decode::Decoder;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::watch::{Progress, Watch};
use mediswift_data::Tokenizer;
use mediswift_engine::ops::Prediction;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
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
    /// Whether to go on when all positions of the model are used, in a window that slides.
    pub past_context: bool,
    /// The token that ends a text, such as the tokenizer's end of text.
    pub end_token: Option<u32>,
    /// Texts before which to stop.
    pub stop: Vec<String>,
    /// Whether to keep the log-likelihood of every token taken, with this many of the likeliest.
    pub top_logprobs: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
            max_tokens: 100,
            past_context: false,
            end_token: None,
            stop: Vec::new(),
            top_logprobs: None,
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
    /// Whoever listened wanted no more.
    Cancelled,
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
    /// Log-likelihoods under the model itself, whatever the temperature, of every token taken: the
    /// end token too. Empty unless asked for.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
}

/// Is told a text piece by piece, and says whether it wants more.
pub type Listener<'a> = &'a mut dyn FnMut(&str) -> ControlFlow<()>;

/// Continues `prompt`.
///
/// ```
/// use mediswift_data::Tokenizer;
/// use mediswift_data::tokenizer::Kind;
/// use mediswift_model::generate::{GenerateOptions, generate};
/// use mediswift_model::{Config, Gpt};
///
/// let texts = ["Aspirin inhibits platelets.", "Platelets are inhibited by aspirin."];
/// let texts = texts.into_iter().map(|text| Ok(text.to_owned()));
/// let tokenizer = Tokenizer::train(Kind::ByteBpe, texts, 300, 2)?;
/// let mut config = Config::from_preset("micro")?;
/// config.model.vocabulary = tokenizer.vocab_size();
/// let options = GenerateOptions { max_tokens: 5, ..GenerateOptions::default() };
/// let generation = generate(&Gpt::new(&config)?, &tokenizer.encode("Aspirin"), &options, &tokenizer)?;
/// assert_eq!(generation.ids.len(), 5, "tokens of a model that has learned nothing");
/// # Ok::<(), mediswift_model::Error>(())
/// ```
/// # Errors
/// If the prompt is empty, longer than the model's positions or outside the vocabulary, an option is
/// out of range, or the model computes no finite numbers.
pub fn generate(
    gpt: &Gpt,
    prompt: &[u32],
    options: &GenerateOptions,
    tokenizer: &Tokenizer,
) -> Result<Generation, Error> {
    let sampler = Sampler::new(options, 0)?;
    proceed(gpt, prompt, sampler, tokenizer, Watched { listen: None, told: &mut |_| Ok(()) })
}

/// Continues each of `prompts` in several ways, `samples` of them, the first of which is that of
/// [`generate`]: `[prompt][sample]`. As many as there are threads are computed at the same time.
/// # Errors
/// As for [`generate`], or if `watch`, which is told of every token, asks to stop.
pub fn generate_many(
    gpt: &Gpt,
    prompts: &[Vec<u32>],
    samples: usize,
    options: &GenerateOptions,
    tokenizer: &Tokenizer,
    watch: &mut (dyn Watch + Send),
) -> Result<Vec<Generation>, Error> {
    let count = prompts.len() * samples;
    let mut made = Vec::with_capacity(count);
    let watch = Mutex::new(watch);
    let tell = |tokens| {
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch: &mut dyn Watch = &mut **watch;
        watch.tell(Progress::Generating { tokens })
    };
    // Not all at once: a decoder holds the keys and values of all positions.
    while made.len() < count {
        let jobs = made.len()..count.min(made.len() + rayon::current_num_threads());
        let job = |job: usize| {
            let sampler = Sampler::new(options, (job % samples) as u64)?;
            let watched = Watched { listen: None, told: &mut |tokens| tell(tokens) };
            proceed(gpt, &prompts[job / samples], sampler, tokenizer, watched)
        };
        made.extend(jobs.into_par_iter().map(job).collect::<Result<Vec<_>, Error>>()?);
    }
    Ok(made)
}

/// Sample number `sample` of `prompt`, whose text is handed to `listen` piece by piece as soon as
/// no later token can change it.
/// # Errors
/// As for [`generate_many`].
pub fn generate_aloud(
    gpt: &Gpt,
    prompt: &[u32],
    sample: u64,
    options: &GenerateOptions,
    tokenizer: &Tokenizer,
    listen: Listener<'_>,
    watch: &mut dyn Watch,
) -> Result<Generation, Error> {
    let sampler = Sampler::new(options, sample)?;
    let told = &mut |tokens| watch.tell(Progress::Generating { tokens });
    proceed(gpt, prompt, sampler, tokenizer, Watched { listen: Some(listen), told })
}

/// Who follows a continuation.
struct Watched<'a> {
    listen: Option<Listener<'a>>,
    /// Is told how many tokens were taken before each.
    told: &'a mut dyn FnMut(usize) -> Result<(), Error>,
}

/// Takes tokens until there is a reason to stop.
fn proceed(
    gpt: &Gpt,
    prompt: &[u32],
    mut sampler: Sampler<'_>,
    tokenizer: &Tokenizer,
    Watched { mut listen, told: tell }: Watched<'_>,
) -> Result<Generation, Error> {
    if prompt.is_empty() {
        return Err(Error::input("prompt", "it has no token to continue"));
    }
    let mut decoder = Decoder::new(gpt);
    decoder.read(prompt)?;
    let options = sampler.options;
    let decode =
        |ids: &[u32]| tokenizer.decode(ids).expect("only the tokenizer's tokens are taken");
    let started = Instant::now();
    let (mut ids, mut predictions, mut told) = (Vec::new(), Vec::new(), 0);
    let (finish, end) = loop {
        if ids.len() == options.max_tokens {
            break (Finish::MaxTokens, None);
        }
        tell(ids.len())?;
        let logits = decoder.logits();
        if let Some(&value) = logits.iter().find(|logit| !logit.is_finite()) {
            return Err(Error::Overflow { value: f64::from(value) });
        }
        // A model may have room for more tokens than its tokenizer knows.
        let known = &logits[..logits.len().min(tokenizer.vocab_size())];
        let id = sampler.choose(known);
        if let Some(top) = options.top_logprobs {
            predictions.push(prediction(&logits, id, top, known.len()));
        }
        if Some(id) == options.end_token {
            break (Finish::EndToken, None);
        }
        ids.push(id);
        if !options.stop.is_empty() || listen.is_some() {
            let text = decode(&ids);
            if let Some(end) = options.stop.iter().filter_map(|stop| text.find(stop)).min() {
                break (Finish::StopString, Some(end));
            }
            if let Some(listen) = &mut listen {
                let settled = settled(&text, &options.stop);
                if let Some(news) = text.get(told..settled).filter(|news| !news.is_empty()) {
                    told = settled;
                    if listen(news).is_break() {
                        break (Finish::Cancelled, None);
                    }
                }
            }
        }
        if !decoder.is_full() {
            decoder.feed(id)?;
        } else if options.past_context {
            decoder = Decoder::new(gpt);
            decoder.read(&latest(prompt, &ids, (gpt.size().context / 2).max(1)))?;
        } else {
            break (Finish::ContextFull, None);
        }
    };
    let seconds = started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let tokens_per_second = ids.len() as f64 / seconds;
    let mut text = decode(&ids);
    text.truncate(end.unwrap_or(text.len()));
    let rest = text.get(told..).filter(|rest| !rest.is_empty() && finish != Finish::Cancelled);
    if let (Some(listen), Some(rest)) = (listen, rest) {
        // Nothing is left to be cancelled.
        let _ = listen(rest);
    }
    Ok(Generation { ids, text, finish, tokens_per_second, predictions })
}

/// The last `count` tokens of a prompt and its continuation.
fn latest(prompt: &[u32], ids: &[u32], count: usize) -> Vec<u32> {
    let all = prompt.len() + ids.len();
    prompt.iter().chain(ids).copied().skip(all.saturating_sub(count)).collect()
}

/// How much of `text` no later token changes: not a cut character at its end, nor what may become
/// a stop string.
fn settled(text: &str, stop: &[String]) -> usize {
    let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let begins = |at: &usize| stop.iter().any(|stop| stop.starts_with(&whole[*at..]));
    let longest = stop.iter().map(String::len).max().unwrap_or(0);
    let from = whole.ceil_char_boundary(whole.len().saturating_sub(longest));
    let places = whole[from..].char_indices().map(|(at, _)| from + at);
    places.into_iter().find(begins).unwrap_or(whole.len())
}

/// What a model with these logits thinks of `id` and of the `top` likeliest tokens below `known`.
fn prediction(logits: &[f32], id: u32, top: usize, known: usize) -> Prediction {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    let logprob = |id: u32| f64::from(logits[id as usize]) - largest - total.ln();
    let ranked = rank(&logits[..known], top);
    Prediction { logprob: logprob(id), top: ranked.into_iter().map(|t| (t, logprob(t))).collect() }
}

/// The ids of the `most` largest logits, largest first; of equal ones, lower ids come first.
fn rank(logits: &[f32], most: usize) -> Vec<u32> {
    let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |id: u32| logits[id as usize];
    let order = |&a: &u32, &b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(&b));
    if most < ranked.len() {
        ranked.select_nth_unstable_by(most, order);
        ranked.truncate(most);
    }
    ranked.sort_unstable_by(order);
    ranked
}

/// Draws tokens from logits.
struct Sampler<'a> {
    options: &'a GenerateOptions,
    rng: ChaCha8Rng,
}

impl<'a> Sampler<'a> {
    fn new(options: &'a GenerateOptions, sample: u64) -> Result<Self, Error> {
        let GenerateOptions { temperature, top_k, top_p, .. } = options;
        if !temperature.is_finite() || *temperature < 0.0 {
            let range = "be a finite number of at least 0";
            return Err(Error::out_of_range("temperature", temperature, range));
        }
        if *top_k == Some(0) {
            return Err(Error::out_of_range("top_k", 0, "be at least 1"));
        }
        if !(*top_p > 0.0 && *top_p <= 1.0) {
            return Err(Error::out_of_range("top_p", top_p, "lie in (0, 1]"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(sample);
        Ok(Self { options, rng })
    }

    /// One token; of equally likely ones, lower ids come first.
    fn choose(&mut self, logits: &[f32]) -> u32 {
        let GenerateOptions { temperature, top_k, .. } = *self.options;
        let most = if temperature == 0.0 { 1 } else { top_k.unwrap_or(logits.len()) };
        let ranked = rank(logits, most);
        if temperature == 0.0 {
            return ranked[0];
        }
        let logit = |id: u32| logits[id as usize];
        let largest = f64::from(logit(ranked[0]));
        let weight = |&id: &u32| ((f64::from(logit(id)) - largest) / temperature).exp();
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
        let mut sampler = Sampler::new(options, 0).unwrap();
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
    fn text_is_settled_before_what_may_become_a_stop_string() {
        let stop = ["\n\n".to_string(), "end".to_string()];
        for (text, count) in [("", 0), ("a", 1), ("a\n", 1), ("a e", 2), ("a en", 2), ("a ex", 4)] {
            assert_eq!(settled(text, &stop), count, "{text:?}");
        }
        assert_eq!(settled("né\u{fffd}", &[]), "né".len());
    }

    #[test]
    fn samples_draw_from_streams_of_their_own() {
        let options = GenerateOptions::default();
        let logits = [0.0; 100];
        let draws = |sample| {
            let mut sampler = Sampler::new(&options, sample).unwrap();
            (0..20).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draws(0), draws(0));
        assert_ne!(draws(0), draws(1));
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
            assert!(Sampler::new(&options, 0).is_err(), "{options:?}");
        }
    }
}
