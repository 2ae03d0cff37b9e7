//! Log-likelihoods of many texts of different lengths, in batches.
//!
//! Every text is cut into windows that fit the model's positions, so that each token is predicted
//! exactly once:
//!
//! * A text that fits is one window.
//! * The first window of a longer text is full. Each later one ends half the positions after the
//!   one before and begins as early as fits, so its tokens are predicted from at least half the
//!   positions of text before them.
//! * Where only the end of a text is wanted (a continuation after its context) and that end fits,
//!   the window is the last tokens that fit: context is cut off at its beginning, as evaluation
//!   harnesses do it.
//!
//! Windows of about the same length share forward passes; shorter ones are padded at the end, which
//! a causal model cannot see, so a text's values do not depend on its company.

use crate::error::Error;
use crate::finetune::encode::steered;
use crate::gpt::{Gpt, TokenBatch};
use crate::watch::{Progress, Watch};
use mediswift_data::Tokenizer;
use mediswift_engine::ops::Prediction;
use mediswift_engine::{Arena, TokenLayout};
use serde::Serialize;
use std::ops::Range;

/// Tokens of one forward pass, padding included; a longer sequence has one of its own.
const PASS: usize = 2048;

/// Window lengths are rounded up to this, so that passes of the same shape share their buffers.
const STEP: usize = 32;

/// Characters of documents that are tokenized and scored together.
const GROUP: usize = 1 << 20;

/// Tokens to score, and those before them.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// All tokens.
    pub ids: &'a [u32],
    /// The first to score, at least 1: the first token has nothing before it to be predicted from.
    pub from: usize,
    /// Whether to predict the token after the last as well.
    pub next: bool,
}

impl<'a> Query<'a> {
    /// All tokens but the first.
    pub fn all(ids: &'a [u32]) -> Self {
        Self { ids, from: 1, next: false }
    }
}

/// What the model thinks of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Of every token from the first that was to be scored.
    pub tokens: Vec<Prediction>,
    /// The likeliest tokens after the last, with their log-likelihoods, where asked for.
    pub next: Vec<(u32, f64)>,
    /// Whether every token scored is the one that greedy decoding takes.
    pub is_greedy: bool,
    /// Whether the text is longer than the model's positions, so that tokens were predicted
    /// without all that comes before them.
    pub cut: bool,
}

impl Score {
    /// Log-likelihood of all tokens scored, in nats.
    pub fn loglikelihood(&self) -> f64 {
        // A sum of nothing would be −0.
        self.tokens.iter().fold(0.0, |sum, token| sum + token.logprob)
    }
}

/// One stretch of a query that a forward pass reads.
struct Window {
    query: usize,
    /// Tokens read.
    inputs: Range<usize>,
    /// The first input whose successor is wanted.
    first: usize,
}

/// Scores every query, with the `top` likeliest tokens (at least one) in the place of each token.
///
/// ```
/// use mediswift_model::score::{Query, score};
/// use mediswift_model::{Config, Gpt};
///
/// let mut config = Config::from_preset("micro")?;
/// config.model.vocabulary = 100;
/// let gpt = Gpt::new(&config)?;
/// let scores = score(&gpt, &[Query::all(&[5, 6, 7]), Query::all(&[8, 9])], 3)?;
/// assert_eq!((scores[0].tokens.len(), scores[1].tokens.len()), (2, 1));
/// assert_eq!(scores[1].tokens[0].top.len(), 3);
/// assert!(scores[0].loglikelihood() < 0.0);
/// # Ok::<(), mediswift_model::Error>(())
/// ```
/// # Errors
/// If a token is not in the vocabulary, or of those that are not scored, not virtual either; if the
/// model computes no finite numbers.
/// # Panics
/// If a query scores its first token.
#[track_caller]
pub fn score(gpt: &Gpt, queries: &[Query<'_>], top: usize) -> Result<Vec<Score>, Error> {
    score_watched(gpt, queries, top, &mut ())
}

/// [`score`], which tells `watch` of every pass.
/// # Errors
/// As for [`score`], or if `watch` asks to stop.
/// # Panics
/// If a query scores its first token.
#[track_caller]
pub fn score_watched(
    gpt: &Gpt,
    queries: &[Query<'_>],
    top: usize,
    watch: &mut dyn Watch,
) -> Result<Vec<Score>, Error> {
    let positions = gpt.size().context;
    let mut windows = Vec::new();
    let mut scores = vec![Score { is_greedy: true, ..Score::default() }; queries.len()];
    for (query, (Query { ids, from, next }, score)) in queries.iter().zip(&mut scores).enumerate() {
        assert!(*from > 0, "the first token cannot be scored");
        gpt.check_inputs(ids)?;
        gpt.check_tokens(&ids[ids.len().min(*from)..])?;
        let inputs = (ids.len() + usize::from(*next)).saturating_sub(1);
        for (inputs, first) in cut(from - 1, inputs, positions) {
            score.cut |= inputs.start > 0;
            windows.push(Window { query, inputs, first });
        }
    }
    // The longest come first: windows of one length stay in the order of the text.
    let padded = |window: &Window| window.inputs.len().next_multiple_of(STEP).min(positions);
    windows.sort_by_key(|window| std::cmp::Reverse(padded(window)));

    let mut arena = Arena::default();
    let mut layout = None;
    let mut rest = &windows[..];
    while let Some(longest) = rest.first() {
        watch.tell(Progress::Judging { done: windows.len() - rest.len(), all: windows.len() })?;
        let context = padded(longest);
        let equal = rest.partition_point(|window| padded(window) == context);
        let (pass, after) = rest.split_at(equal.min((PASS / context).max(1)));
        rest = after;
        let batch = batch(queries, pass, context);
        if layout.replace(batch.layout) != Some(batch.layout) {
            // Buffers of another shape are of no use any more.
            arena = Arena::default();
        }
        let mut predictions = gpt.predict(&batch, top.max(1), &mut arena)?;
        for (window, found) in pass.iter().zip(predictions.chunks_exact_mut(context)) {
            let Query { ids, .. } = queries[window.query];
            let score = &mut scores[window.query];
            for input in window.first..window.inputs.end {
                let prediction = std::mem::take(&mut found[input - window.inputs.start]);
                if !prediction.logprob.is_finite() {
                    return Err(Error::Overflow { value: prediction.logprob });
                }
                match ids.get(input + 1) {
                    Some(&id) => {
                        score.is_greedy &= prediction.top.first().is_some_and(|t| t.0 == id);
                        score.tokens.push(prediction);
                    }
                    None => score.next = prediction.top,
                }
            }
        }
    }
    Ok(scores)
}

/// The windows that predict what follows the inputs `first..end`, each with its first wanted input.
fn cut(first: usize, end: usize, positions: usize) -> Vec<(Range<usize>, usize)> {
    let mut windows = Vec::new();
    let mut wanted = first;
    while wanted < end {
        let fits = wanted == 0 || (wanted == first && end - wanted <= positions);
        let step = if fits { positions } else { (positions / 2).max(1) };
        let stop = end.min(wanted + step);
        windows.push((stop.saturating_sub(positions)..stop, wanted));
        wanted = stop;
    }
    windows
}

/// The windows of one pass, padded at their ends.
fn batch(queries: &[Query<'_>], windows: &[Window], context: usize) -> TokenBatch {
    let layout = TokenLayout { sequences: windows.len(), context };
    let (mut ids, mut targets) = (vec![0; layout.tokens()], vec![0; layout.tokens()]);
    let mut weights = vec![0.0; layout.tokens()];
    let rows = ids.chunks_exact_mut(context).zip(targets.chunks_exact_mut(context));
    let rows = rows.zip(weights.chunks_exact_mut(context));
    for (Window { query, inputs, first }, ((ids, targets), weights)) in windows.iter().zip(rows) {
        let all = queries[*query].ids;
        ids[..inputs.len()].copy_from_slice(&all[inputs.clone()]);
        // Those before may be virtual tokens, which have no likelihood.
        let wanted = &all[first + 1..all.len().min(inputs.end + 1)];
        targets[first - inputs.start..][..wanted.len()].copy_from_slice(wanted);
        weights[first - inputs.start..inputs.len()].fill(1.0);
    }
    TokenBatch { layout, ids, targets, weights: Some(weights) }
}

/// The tokens of a continuation and of the context before it: `(all, first of the continuation)`.
///
/// Both are tokenized as one text; white space at the end of the context counts as the
/// continuation's, since tokens begin with it. An empty context is the end of another document.
pub fn encode_pair(tokenizer: &Tokenizer, context: &str, continuation: &str) -> (Vec<u32>, usize) {
    let mut ids = tokenizer.encode(context.trim_end());
    let from = ids.len();
    if from == 0 {
        // The end of one document is where the next begins.
        ids.push(tokenizer.end_of_text());
        ids.extend(tokenizer.encode(&format!("{context}{continuation}")));
        return (ids, 1);
    }
    let ids = tokenizer.encode(&format!("{context}{continuation}"));
    let from = from.min(ids.len());
    (ids, from)
}

/// What stands before texts that are scored.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// Nothing: the first token of a text has no score.
    Nothing,
    /// A text, see [`encode_pair`].
    Text(&'a str),
    /// A source and the model's soft prompt, see [`steered`].
    Steered(&'a str),
}

/// A text with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredText {
    /// Tokens of the text alone.
    pub ids: Vec<u32>,
    /// Their score; the first has none if nothing stands before it.
    pub score: Score,
}

/// Scores texts, each after the same beginning.
/// # Errors
/// If the model has no soft prompt and one is wanted, or its vocabulary is not the tokenizer's.
pub fn score_texts(
    gpt: &Gpt,
    tokenizer: &Tokenizer,
    before: Before<'_>,
    texts: &[&str],
) -> Result<Vec<ScoredText>, Error> {
    let encoded: Vec<(Vec<u32>, usize)> = match before {
        Before::Nothing => tokenizer.encode_batch(texts).into_iter().map(|ids| (ids, 0)).collect(),
        Before::Text(context) => {
            texts.iter().map(|text| encode_pair(tokenizer, context, text)).collect()
        }
        Before::Steered(source) => {
            let source = steered(gpt, tokenizer, source)?;
            let texts = tokenizer.encode_batch(texts).into_iter();
            texts.map(|text| ([&source[..], &text].concat(), source.len())).collect()
        }
    };
    // The first token of all has nothing before it.
    let queries: Vec<Query<'_>> = encoded
        .iter()
        .map(|(ids, from)| Query { ids, from: (*from).max(1), next: false })
        .collect();
    let scores = score(gpt, &queries, 1)?;
    let texts = encoded.into_iter().zip(scores);
    Ok(texts
        .map(|((mut ids, from), score)| ScoredText { ids: ids.split_off(from), score })
        .collect())
}

/// The loss of documents: the tokens of each, the first of them predicted after the end of another
/// document. The end of the document itself is not predicted, so that bits per byte are those of
/// the text.
/// # Errors
/// The first error of `texts`.
pub fn evaluate_texts<E: From<Error>>(
    gpt: &Gpt,
    tokenizer: &Tokenizer,
    mut texts: impl Iterator<Item = Result<String, E>>,
) -> Result<TextEvaluation, E> {
    let mut sum = TextEvaluation::default();
    let mut losses = (0.0, 0.0);
    loop {
        let (mut group, mut characters) = (Vec::new(), 0);
        while characters < GROUP {
            let Some(text) = texts.next().transpose()? else { break };
            characters += text.len();
            group.push(text);
        }
        if group.is_empty() {
            break;
        }
        let mut documents = tokenizer.encode_batch(&group);
        documents.iter_mut().for_each(|ids| ids.insert(0, tokenizer.end_of_text()));
        let queries: Vec<Query<'_>> = documents.iter().map(|ids| Query::all(ids)).collect();
        for (score, text) in score(gpt, &queries, 1)?.iter().zip(&group) {
            if score.tokens.is_empty() {
                sum.empty += 1;
                continue;
            }
            let loss = -score.loglikelihood();
            losses.0 += loss;
            losses.1 += loss / score.tokens.len() as f64;
            sum.tokens += score.tokens.len() as u64;
            sum.bytes += text.len() as u64;
            sum.documents += 1;
            sum.cut += u64::from(score.cut);
        }
    }
    sum.val_loss = losses.0 / sum.tokens as f64;
    sum.perplexity = sum.val_loss.exp();
    sum.bits_per_byte = losses.0 / std::f64::consts::LN_2 / sum.bytes as f64;
    sum.document_loss = losses.1 / sum.documents as f64;
    Ok(sum)
}

/// Result of an evaluation on whole texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TextEvaluation {
    /// Mean loss, in nats per token.
    pub val_loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Loss in bits per byte of text: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Bytes of text.
    pub bytes: u64,
    /// Documents scored.
    pub documents: u64,
    /// Mean over documents of their loss in nats per token.
    pub document_loss: f64,
    /// Documents longer than the model's positions, read in windows.
    pub cut: u64,
    /// Documents without any text, not scored.
    pub empty: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_predict_every_token_once_with_enough_before_it() {
        for positions in [1, 2, 7, 16] {
            for end in 0..70 {
                for first in 0..end {
                    let windows = cut(first, end, positions);
                    let mut wanted = first;
                    for (at, (inputs, first_wanted)) in windows.iter().enumerate() {
                        assert_eq!(*first_wanted, wanted);
                        assert!(inputs.len() <= positions && inputs.end > wanted);
                        assert!(inputs.contains(first_wanted));
                        let before = wanted - inputs.start;
                        let whole = first + positions >= end && at == 0;
                        assert!(inputs.start == 0 || whole || before >= positions / 2);
                        wanted = inputs.end;
                    }
                    assert_eq!(wanted, end);
                    assert!(windows.len() == 1 || end - first > positions || first > 0);
                }
            }
        }
        assert_eq!(cut(0, 10, 4), [(0..4, 0), (2..6, 4), (4..8, 6), (6..10, 8)]);
        assert_eq!(cut(7, 10, 4), [(6..10, 7)], "a continuation keeps its nearest context");
    }
}
