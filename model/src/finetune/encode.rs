//! Examples as tokens: `[end of text; source; virtual tokens; target; end of text]`.
//!
//! A source that leaves no room for the longest target is cut at the beginning of its passage; what
//! comes before the passage (the question), the prompt and the target never are. Where not even
//! those fit, the example cannot be used: it is left out of training, and its answer has failed.

use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::tasks::{Example, Task};
use crate::watch::{Progress, Watch};
use mediswift_data::Tokenizer;
use mediswift_engine::TokenLayout;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How examples become tokens.
pub struct ExampleEncoder<'a> {
    task: &'a dyn Task,
    tokenizer: &'a Tokenizer,
    /// Ids of the virtual tokens.
    prompt: Range<u32>,
    positions: usize,
    /// Tokens of the longest target, its end included.
    longest_target: usize,
}

/// An example as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Everything before the target.
    pub prefix: Vec<u32>,
    /// The target with its end.
    pub target: Vec<u32>,
}

/// How many examples had to give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// Examples in all.
    pub examples: usize,
    /// Examples whose passage lost its beginning.
    pub cut: usize,
    /// Tokens lost by them.
    pub tokens_lost: usize,
    /// Examples that do not fit at all.
    pub unusable: usize,
    /// Positions of a model that holds every example whole; 0 in the files of older runs.
    #[serde(default)]
    pub needed: usize,
}

impl Fit {
    /// What the examples of that `part` lose in a model of so many positions, as one line; none if all fit.
    pub(super) fn note(&self, part: &str, positions: usize) -> Option<String> {
        let Fit { examples, cut, tokens_lost, unusable, needed } = self;
        let mut losses = Vec::new();
        if *cut > 0 {
            losses.push(format!(
                "{cut} of {examples} {part} examples lose the beginning of their passage \
                 ({tokens_lost} tokens in all)"
            ));
        }
        if *unusable > 0 {
            losses.push(format!("{unusable} of {examples} {part} examples do not fit at all"));
        }
        let losses = losses.join(", ");
        let room =
            format!("the model has {positions} positions, a context of {needed} would hold all");
        (!losses.is_empty()).then(|| format!("{losses}: {room}"))
    }
}

impl<'a> ExampleEncoder<'a> {
    /// An encoder for a model; `examples` are all whose targets may be needed.
    pub fn new<'e>(
        task: &'a dyn Task,
        tokenizer: &'a Tokenizer,
        gpt: &Gpt,
        examples: impl Iterator<Item = &'e Example>,
    ) -> Self {
        let mut encoder = Self {
            task,
            tokenizer,
            prompt: gpt.prompt_ids(),
            positions: gpt.size().context,
            longest_target: 0,
        };
        let one = (0..task.labels().len()).map(|label| vec![label]);
        let targets = one.chain(examples.map(|example| example.labels.clone()));
        let lengths = targets.map(|labels| encoder.target(&labels).len());
        encoder.longest_target = lengths.max().unwrap_or(0);
        encoder
    }

    /// Tokens of the longest target, its end included.
    pub fn longest_target(&self) -> usize {
        self.longest_target
    }

    /// The target of labels, with its end.
    pub fn target(&self, labels: &[usize]) -> Vec<u32> {
        self.with_end(&self.task.target(labels))
    }

    /// The tokens that every target begins with.
    pub fn template(&self) -> Vec<u32> {
        let mut ids = self.with_end(self.task.template());
        ids.pop();
        ids
    }

    fn with_end(&self, text: &str) -> Vec<u32> {
        // The blank belongs to the first word, as in running text.
        let mut ids = self.tokenizer.encode(&format!(" {text}"));
        ids.push(self.tokenizer.end_of_text());
        ids
    }

    /// How many positions an example takes when nothing is cut, and the tokens before the target, with how
    /// many of the passage are lost; without these if what may not be cut does not fit.
    fn prefix(&self, example: &Example) -> (usize, Option<(Vec<u32>, usize)>) {
        let head = self.tokenizer.encode(&example.head);
        let blank = if example.head.is_empty() { "" } else { " " };
        let passage = self.tokenizer.encode(&format!("{blank}{}", example.passage));
        let kept = head.len() + self.prompt.len() + self.longest_target;
        let needed = kept + passage.len();
        let Some(room) = self.positions.checked_sub(kept) else { return (needed, None) };
        let lost = passage.len().saturating_sub(room);
        let mut prefix = vec![self.tokenizer.end_of_text()];
        prefix.extend(head);
        prefix.extend(&passage[lost..]);
        prefix.extend(self.prompt.clone());
        (needed, Some((prefix, lost)))
    }

    /// All examples, those that do not fit as nothing.
    /// # Errors
    /// If `watch` asks to stop.
    pub fn encode(
        &self,
        examples: &[Example],
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Option<Encoded>>, Fit), Error> {
        let mut fit = Fit { examples: examples.len(), ..Fit::default() };
        let mut encoded = Vec::with_capacity(examples.len());
        for example in examples {
            watch.tell(Progress::Encoding { done: encoded.len(), all: examples.len() })?;
            let (needed, prefix) = self.prefix(example);
            fit.needed = fit.needed.max(needed);
            encoded.push(match prefix {
                None => {
                    fit.unusable += 1;
                    None
                }
                Some((prefix, lost)) => {
                    fit.cut += usize::from(lost > 0);
                    fit.tokens_lost += lost;
                    Some(Encoded { prefix, target: self.target(&example.labels) })
                }
            });
        }
        Ok((encoded, fit))
    }

    /// Examples to train on: those that fit.
    /// # Errors
    /// If none does, or `watch` asks to stop.
    pub fn encode_to_train(
        &self,
        examples: &[Example],
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Encoded>, Fit), Error> {
        let (encoded, fit) = self.encode(examples, watch)?;
        let encoded: Vec<Encoded> = encoded.into_iter().flatten().collect();
        if encoded.is_empty() {
            let problem = format!(
                "none of {} training examples fits the model's {} positions, of which prompt and \
                 target take {}: take a model with more, or a larger vocabulary",
                fit.examples,
                self.positions,
                self.prompt.len() + self.longest_target
            );
            return Err(Error::input("examples", problem));
        }
        Ok((encoded, fit))
    }
}

/// A source as a fine-tuned model reads it: `[end of text; source; virtual tokens]`.
/// # Errors
/// If the model has no soft prompt.
pub fn steered(gpt: &Gpt, tokenizer: &Tokenizer, source: &str) -> Result<Vec<u32>, Error> {
    steered_ids(gpt, tokenizer, &tokenizer.encode(source))
}

/// [`steered`], of the tokens of a source.
/// # Errors
/// If the model has no soft prompt.
pub fn steered_ids(gpt: &Gpt, tokenizer: &Tokenizer, source: &[u32]) -> Result<Vec<u32>, Error> {
    let prompt = gpt.prompt_ids();
    if prompt.is_empty() {
        return Err(Error::setting("the model", "has no soft prompt: leave --soft-prompt out"));
    }
    let end = [tokenizer.end_of_text()];
    Ok(end.iter().chain(source).copied().chain(prompt).collect())
}

/// Sequences of any length as one batch, padded to the longest; only targets have weight.
/// # Panics
/// If there is no sequence, or one has no prefix or no target.
#[track_caller]
pub fn batch<'s>(sequences: impl Iterator<Item = (&'s [u32], &'s [u32])> + Clone) -> TokenBatch {
    let length = |(prefix, target): (&[u32], &[u32])| prefix.len() + target.len() - 1;
    let context = sequences.clone().map(length).max().expect("a batch has a sequence");
    let layout = TokenLayout { sequences: sequences.clone().count(), context };
    let tokens = layout.tokens();
    let (mut ids, mut targets) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
    let mut weights = Vec::with_capacity(tokens);
    for (row, (prefix, target)) in (1..).zip(sequences) {
        ids.extend(prefix.iter().chain(&target[..target.len() - 1]));
        targets.extend(std::iter::repeat_n(0, prefix.len() - 1).chain(target.iter().copied()));
        weights.extend(std::iter::repeat_n(0.0, prefix.len() - 1));
        weights.extend(std::iter::repeat_n(1.0, target.len()));
        ids.resize(row * context, 0);
        targets.resize(row * context, 0);
        weights.resize(row * context, 0.0);
    }
    TokenBatch { layout, ids, targets, weights: Some(weights) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_have_weight() {
        let sequences: [(&[u32], &[u32]); 2] = [(&[9, 1, 2], &[3, 9]), (&[9, 4], &[5, 6, 9])];
        let batch = batch(sequences.into_iter());
        assert_eq!(batch.layout, TokenLayout { sequences: 2, context: 4 });
        assert_eq!(batch.ids, [9, 1, 2, 3, 9, 4, 5, 6]);
        assert_eq!(batch.targets, [0, 0, 3, 9, 0, 5, 6, 9]);
        assert_eq!(batch.weights.unwrap(), [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
        let sequences: [(&[u32], &[u32]); 2] = [(&[7], &[8]), (&[9, 4], &[5, 6, 9])];
        let batch = super::batch(sequences.into_iter());
        assert_eq!(batch.ids, [7, 0, 0, 0, 9, 4, 5, 6]);
        assert_eq!(batch.weights.unwrap(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
}
