//! `POST /v1/completions`.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use mediswift_data::DataError;
use mediswift_engine::ops::Prediction;
use mediswift_model::finetune::encode::steered_ids;
use mediswift_model::generate::{
    Finish, GenerateOptions, Generation, generate_aloud, generate_many,
};
use mediswift_model::score::{Query, Score, score_watched};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::prompt::{MOST_TOKENS, Prompt};
use super::queue::Leash;
use super::request::{Body, Wanted};
use super::service::{Service, now};
use super::stream::Stream;

/// Most log-likelihoods in an answer, those of alternatives included.
const MOST_LISTED: usize = 1 << 18;

/// Prompts that are tokenized together.
const TEXTS_AT_ONCE: usize = 16;

/// Numbers the answers.
static ANSWERS: AtomicU64 = AtomicU64::new(1);

/// A request that the model can meet.
pub struct Completion {
    wanted: Wanted,
    /// Tokens of each prompt.
    prompts: Vec<Vec<u32>>,
    id: String,
}

/// Tokens, and what the model thought of each: nothing of a first token.
#[derive(Default)]
struct Listed {
    ids: Vec<u32>,
    predictions: Vec<Option<Prediction>>,
}

impl Completion {
    /// Tokenizes and checks a request.
    pub fn new(service: &Service, body: Body) -> Result<Self, Problem> {
        let mut wanted = body.check()?;
        wanted.options.end_token = Some(service.tokenizer.end_of_text());
        let empty = Prompt::Text(String::new());
        let mut prompts = match std::mem::replace(&mut wanted.prompt, empty) {
            Prompt::Text(text) => encode(service, &[text])?,
            Prompt::Texts(texts) => encode(service, &texts)?,
            Prompt::Ids(ids) => vec![ids],
            Prompt::ManyIds(lists) => lists,
        };
        let positions = service.gpt.size().context;
        for ids in &mut prompts {
            check_length(ids, positions)?;
            service.tokenizer.tokens(ids).map_err(wrong_ids)?;
            if service.soft_prompt {
                *ids = steered_ids(&service.gpt, &service.tokenizer, ids)?;
                check_length(ids, positions)?;
            }
        }
        if service.soft_prompt && wanted.echo {
            let message =
                "the server shows prompts with a soft prompt, which has no text to repeat";
            return Err(Problem::bad("echo", message));
        }
        check_cost(&wanted, &prompts, positions)?;
        let id = format!("cmpl-{:x}-{}", service.started, ANSWERS.fetch_add(1, Ordering::Relaxed));
        Ok(Self { wanted, prompts, id })
    }

    /// Whether the answer is to come piece by piece.
    pub fn is_streamed(&self) -> bool {
        self.wanted.stream
    }

    /// The whole answer. Its prompts are computed together.
    pub fn answer(self, service: &Service, leash: &mut Leash<'_>) -> Result<Value, Problem> {
        let Wanted { samples, options, echo, .. } = &self.wanted;
        let scores = if *echo && options.top_logprobs.is_some() {
            self.score(service, leash)?
        } else {
            vec![Score::default(); self.prompts.len()]
        };
        let known: Option<Vec<Generation>> =
            scores.iter().map(|score| next_alone(service, options, score)).collect();
        let made = match known {
            Some(next) => next.into_iter().flat_map(|next| vec![next; *samples]).collect(),
            None => {
                let begun: Vec<Vec<u32>> =
                    self.prompts.iter().map(|ids| begun(service, ids)).collect();
                let (gpt, tokenizer) = (&service.gpt, &service.tokenizer);
                generate_many(gpt, &begun, *samples, options, tokenizer, leash)
                    .map_err(|error| leash.explain(error))?
            }
        };
        let taken = made.iter().map(|generation| generation.ids.len()).sum();
        let choices = made.into_iter().enumerate().map(|(index, generation)| {
            let prompt = index / samples;
            let listed = Listed::prompt(&self.prompts[prompt], &scores[prompt]);
            self.choice(service, index, &self.prompts[prompt], listed, generation)
        });
        let choices = choices.collect::<Result<Vec<Value>, Problem>>()?;
        let mut answer = self.head(service, &choices);
        answer["usage"] = self.usage(taken);
        Ok(answer)
    }

    /// Log-likelihoods of all prompts, and of what may follow where one likeliest token is wanted.
    fn score(&self, service: &Service, leash: &mut Leash<'_>) -> Result<Vec<Score>, Problem> {
        let options = &self.wanted.options;
        let next = options.max_tokens == 1 && options.temperature == 0.0;
        let query = |ids| Query { ids, from: 1, next };
        let queries: Vec<Query<'_>> = self.prompts.iter().map(|ids| query(ids)).collect();
        let top = options.top_logprobs.unwrap_or(0);
        score_watched(&service.gpt, &queries, top, leash).map_err(|error| leash.explain(error))
    }

    /// The answer piece by piece, one choice after the other.
    pub fn stream(
        self,
        service: &Service,
        stream: &mut Stream,
        leash: &mut Leash<'_>,
    ) -> Result<(), Problem> {
        let Wanted { samples, options, echo, stream_usage, .. } = &self.wanted;
        let (mut index, mut taken) = (0, 0);
        for prompt in &self.prompts {
            for sample in 0..*samples as u64 {
                let mut gone = false;
                let mut tell = |text: &str, finish: Option<&str>| {
                    let choice = json!({
                        "index": index, "text": text, "logprobs": null, "finish_reason": finish,
                    });
                    gone |= !stream.send(&self.head(service, &[choice]).to_string());
                    if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                if *echo {
                    let _ = tell(&decode(service, prompt)?, None);
                }
                let (begun, tokenizer) = (begun(service, prompt), &service.tokenizer);
                let mut listen = |text: &str| tell(text, None);
                let (gpt, listen) = (&service.gpt, &mut listen);
                let generation =
                    generate_aloud(gpt, &begun, sample, options, tokenizer, listen, leash)
                        .map_err(|error| leash.explain(error))?;
                let _ = tell("", Some(reason(generation.finish)));
                if gone {
                    return Ok(());
                }
                taken += generation.ids.len();
                index += 1;
            }
        }
        if *stream_usage {
            let mut last = self.head(service, &[]);
            last["usage"] = self.usage(taken);
            stream.send(&last.to_string());
        }
        Ok(())
    }

    fn head(&self, service: &Service, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": now(),
            "model": service.name,
            "choices": choices,
        })
    }

    fn usage(&self, taken: usize) -> Value {
        let prompts: usize = self.prompts.iter().map(Vec::len).sum();
        json!({
            "prompt_tokens": prompts,
            "completion_tokens": taken,
            "total_tokens": prompts + taken,
        })
    }

    fn choice(
        &self,
        service: &Service,
        index: usize,
        prompt: &[u32],
        mut listed: Listed,
        generation: Generation,
    ) -> Result<Value, Problem> {
        let echoed = if self.wanted.echo { decode(service, prompt)? } else { String::new() };
        let logprobs = match self.wanted.options.top_logprobs {
            Some(top) => {
                if !self.wanted.echo {
                    listed = Listed::default();
                }
                listed.extend(service, &self.wanted.options, &generation);
                listed.json(service, top)?
            }
            None => Value::Null,
        };
        Ok(json!({
            "index": index,
            "text": echoed + &generation.text,
            "logprobs": logprobs,
            "finish_reason": reason(generation.finish),
        }))
    }
}

/// The tokens of texts. Texts are looked at in parts, so that what cannot be answered takes no memory: a
/// tokenizer may make many tokens of few bytes.
fn encode(service: &Service, texts: &[String]) -> Result<Vec<Vec<u32>>, Problem> {
    let positions = service.gpt.size().context;
    let most = service.longest_token.saturating_mul(positions);
    if let Some(text) = texts.iter().find(|text| text.len() > most) {
        let message = format!(
            "a prompt of {} bytes; the model has {positions} positions, which hold {most} bytes at most",
            text.len()
        );
        return Err(Problem::bad("prompt", message));
    }
    let mut prompts: Vec<Vec<u32>> = Vec::with_capacity(texts.len());
    let mut tokens = 0;
    for part in texts.chunks(TEXTS_AT_ONCE) {
        for ids in service.tokenizer.encode_batch(part) {
            check_length(&ids, positions)?;
            tokens += ids.len();
            prompts.push(ids);
        }
        if tokens > MOST_TOKENS {
            let message = format!("the prompts have more than {MOST_TOKENS} tokens: send fewer");
            return Err(Problem::bad("prompt", message));
        }
    }
    Ok(prompts)
}

fn check_length(ids: &[u32], positions: usize) -> Result<(), Problem> {
    if ids.len() > positions {
        let found = ids.len();
        let message = format!("a prompt of {found} tokens; the model has {positions} positions");
        return Err(Problem::bad("prompt", message));
    }
    Ok(())
}

/// Refuses what would take the model, or memory, for too long.
fn check_cost(wanted: &Wanted, prompts: &[Vec<u32>], positions: usize) -> Result<(), Problem> {
    let Wanted { samples, options, echo, .. } = wanted;
    let new = |ids: &Vec<u32>| match options.past_context {
        true => options.max_tokens,
        false => options.max_tokens.min(positions + 1 - ids.len()),
    };
    let sum = |tokens: &dyn Fn(&Vec<u32>) -> usize| {
        prompts.iter().map(tokens).fold(0, usize::saturating_add).saturating_mul(*samples)
    };
    let tokens = sum(&|ids| ids.len().saturating_add(new(ids)));
    if tokens > MOST_TOKENS {
        let message = format!(
            "prompts, max_tokens and n come to {tokens} tokens, but {MOST_TOKENS} is the most at once: \
             send fewer prompts"
        );
        return Err(Problem::bad("prompt", message));
    }
    let Some(top) = options.top_logprobs else { return Ok(()) };
    let listed = sum(&|ids| if *echo { ids.len() + new(ids) } else { new(ids) });
    let listed = listed.saturating_mul(1 + top);
    if listed > MOST_LISTED {
        let message = format!(
            "{listed} log-likelihoods are wanted, but {MOST_LISTED} is the most at once: send fewer \
             prompts, or a smaller logprobs"
        );
        return Err(Problem::bad("logprobs", message));
    }
    Ok(())
}

/// What the decoder reads for a prompt: an empty one begins after the end of another document.
fn begun(service: &Service, prompt: &[u32]) -> Vec<u32> {
    if prompt.is_empty() { vec![service.tokenizer.end_of_text()] } else { prompt.to_vec() }
}

/// The continuation by the one likeliest token, where scoring the prompt has found it already.
fn next_alone(service: &Service, options: &GenerateOptions, score: &Score) -> Option<Generation> {
    let known = |&(id, _): &(u32, f64)| (id as usize) < service.tokenizer.vocab_size();
    let &(id, logprob) = score.next.first().filter(|top| known(top))?;
    let top = score.next.iter().copied().filter(known).collect();
    let mut generation = Generation {
        ids: vec![id],
        text: service.tokenizer.decode(&[id]).ok()?,
        finish: Finish::MaxTokens,
        tokens_per_second: 0.0,
        predictions: vec![Prediction { logprob, top }],
    };
    if Some(id) == options.end_token {
        generation.ids.clear();
        generation.text.clear();
        generation.finish = Finish::EndToken;
    } else if let Some(end) = options.stop.iter().filter_map(|s| generation.text.find(s)).min() {
        generation.text.truncate(end);
        generation.finish = Finish::StopString;
    }
    Some(generation)
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::EndToken | Finish::StopString | Finish::Cancelled => "stop",
        Finish::MaxTokens | Finish::ContextFull => "length",
    }
}

fn decode(service: &Service, ids: &[u32]) -> Result<String, Problem> {
    service.tokenizer.decode(ids).map_err(wrong_ids)
}

fn wrong_ids(error: DataError) -> Problem {
    Problem::bad("prompt", error.to_string())
}

impl Listed {
    fn prompt(ids: &[u32], score: &Score) -> Self {
        // The first token has nothing before it.
        let first = (!ids.is_empty()).then_some(None);
        let predictions = first.into_iter().chain(score.tokens.iter().cloned().map(Some)).collect();
        Self { ids: ids.to_vec(), predictions }
    }

    /// Adds the tokens taken: not those behind a stop string, but the end token, for clients leave
    /// out the last of `max_tokens` tokens by its place.
    fn extend(&mut self, service: &Service, options: &GenerateOptions, generation: &Generation) {
        let mut taken = generation.ids.clone();
        match generation.finish {
            Finish::EndToken => taken.extend(options.end_token),
            Finish::StopString => {
                // A token belongs to the text if the text before it is a part of the text.
                let before = |count: &usize| {
                    let text = service.tokenizer.decode(&taken[..*count]);
                    text.is_ok_and(|text| text.len() >= generation.text.len())
                };
                let kept = (0..taken.len()).find(before).unwrap_or(taken.len());
                taken.truncate(kept);
            }
            _ => {}
        }
        self.predictions.extend(generation.predictions.iter().take(taken.len()).cloned().map(Some));
        self.ids.extend(taken);
    }

    /// The `logprobs` object. Offsets count characters.
    fn json(&self, service: &Service, most: usize) -> Result<Value, Problem> {
        let pieces = service.tokenizer.pieces(&self.ids).map_err(wrong_ids)?;
        let names: Vec<String> = pieces.iter().map(|piece| name(piece)).collect();
        let mut offset = 0;
        let offsets: Vec<usize> = pieces
            .iter()
            .map(|piece| {
                let begins = offset;
                // Bytes that begin a character.
                offset += piece.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
                begins
            })
            .collect();
        let tokens = self.predictions.iter().zip(&names);
        let top: Vec<Value> = tokens
            .map(|(prediction, own)| match prediction {
                Some(prediction) => alternatives(service, prediction, own, most),
                None => Value::Null,
            })
            .collect();
        let logprobs: Vec<Option<f64>> =
            self.predictions.iter().map(|p| p.as_ref().map(|p| p.logprob)).collect();
        Ok(json!({
            "tokens": names,
            "token_logprobs": logprobs,
            "top_logprobs": top,
            "text_offset": offsets,
        }))
    }
}

/// The likeliest tokens with their log-likelihoods, and the token itself.
fn alternatives(service: &Service, prediction: &Prediction, own: &str, most: usize) -> Value {
    let mut map = Map::new();
    for &(id, logprob) in prediction.top.iter().take(most) {
        // The model may have room for more tokens than the tokenizer knows.
        if let Ok(pieces) = service.tokenizer.pieces(&[id]) {
            map.entry(name(&pieces.concat())).or_insert_with(|| json!(logprob));
        }
    }
    map.entry(own).or_insert_with(|| json!(prediction.logprob));
    Value::Object(map)
}

/// A token in JSON: its text, or its bytes where it is a part of a character.
fn name(piece: &[u8]) -> String {
    match std::str::from_utf8(piece) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes = piece.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
}
