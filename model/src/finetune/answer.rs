//! Answers of a model: by greedy generation, and by the likelihood of every possible target.
//!
//! **Generation** takes the likeliest token again and again until the end. Targets are few, so a
//! draft is guessed and checked whole: one forward pass over `[prefix; draft]` tells the likeliest
//! token at every place, and as many tokens are certain as the draft guessed right, plus one. The
//! result is that of one pass per token, in as a rule one or two passes (speculative decoding). An
//! answer that leaves the template's tokens cannot be read any more and is not continued.

use super::encode::{Encoded, ExampleEncoder, batch};
use crate::error::Error;
use crate::gpt::Gpt;
use crate::tasks::{FAILED, Task};
use crate::watch::{Progress, Watch};
use mediswift_data::Tokenizer;
use mediswift_engine::Arena;
use std::collections::HashMap;

/// A model that answers.
pub struct Answerer<'a> {
    gpt: &'a Gpt,
    tokenizer: &'a Tokenizer,
    task: &'a dyn Task,
    /// Sequences per forward pass.
    micro_batch: usize,
    /// Tokens that an answer may have, its end included.
    limit: usize,
    template: Vec<u32>,
    /// Targets that answers may turn out to be, likeliest first.
    drafts: Vec<Vec<u32>>,
    arena: Arena,
}

impl<'a> Answerer<'a> {
    /// `known` are examples whose targets serve as drafts.
    pub fn new(
        gpt: &'a Gpt,
        encoder: &ExampleEncoder<'a>,
        task: &'a dyn Task,
        tokenizer: &'a Tokenizer,
        known: &[Encoded],
        micro_batch: usize,
    ) -> Self {
        let mut counts: HashMap<&[u32], usize> = HashMap::new();
        known.iter().for_each(|example| *counts.entry(&example.target).or_default() += 1);
        let mut drafts: Vec<(&[u32], usize)> = counts.into_iter().collect();
        drafts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut drafts: Vec<Vec<u32>> = drafts.iter().map(|(target, _)| target.to_vec()).collect();
        for label in 0..task.labels().len() {
            let target = encoder.target(&[label]);
            if !drafts.contains(&target) {
                drafts.push(target);
            }
        }
        let template = encoder.template();
        // A tokenizer may join the template's last word to what follows.
        let shared = drafts.iter().map(|draft| common(draft, &template)).min().unwrap_or(0);
        let (template, limit) = (template[..shared].to_vec(), encoder.longest_target());
        Self { gpt, tokenizer, task, micro_batch, limit, template, drafts, arena: Arena::default() }
    }

    /// What the model generates after each prefix, as the task reads it.
    /// # Errors
    /// If a prefix does not fit the model, its answer is not finite, or `watch` asks to stop.
    pub fn generate(
        &mut self,
        examples: &[Option<Encoded>],
        watch: &mut dyn Watch,
    ) -> Result<Vec<Vec<String>>, Error> {
        let outputs = self.greedy(examples, watch)?;
        let answer = |output: Option<Vec<u32>>| -> Result<Vec<String>, Error> {
            let Some(mut ids) = output else { return Ok(vec![FAILED.into()]) };
            if ids.last() == Some(&self.tokenizer.end_of_text()) {
                ids.pop();
            }
            Ok(self.task.parse(&self.tokenizer.decode(&ids)?))
        };
        outputs.into_iter().map(answer).collect()
    }

    fn greedy(
        &mut self,
        examples: &[Option<Encoded>],
        watch: &mut dyn Watch,
    ) -> Result<Vec<Option<Vec<u32>>>, Error> {
        let end = self.tokenizer.end_of_text();
        let mut outputs: Vec<Vec<u32>> = vec![Vec::new(); examples.len()];
        let mut open: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].is_some()).collect();
        let prefix = |at: usize| examples[at].as_ref().map_or(&[][..], |e| &e.prefix);
        // Neighbours of like length leave little padding.
        open.sort_by_key(|&at| prefix(at).len());
        while !open.is_empty() {
            let drafts: Vec<Vec<u32>> =
                open.iter().map(|&at| self.draft(&outputs[at], end)).collect();
            let sequences: Vec<(&[u32], &[u32])> =
                open.iter().zip(&drafts).map(|(&at, draft)| (prefix(at), &**draft)).collect();
            let guesses = self.predictions(&sequences, watch)?;
            for ((&at, draft), guesses) in open.iter().zip(&drafts).zip(guesses) {
                let output = &mut outputs[at];
                for (place, (likeliest, _)) in guesses.into_iter().enumerate().skip(output.len()) {
                    output.push(likeliest);
                    if likeliest != draft[place] || output.len() == self.limit {
                        break;
                    }
                }
            }
            open.retain(|&at| {
                let output = &outputs[at];
                let readable = common(output, &self.template);
                output.last() != Some(&end)
                    && output.len() < self.limit
                    && (readable == output.len() || readable == self.template.len())
            });
        }
        Ok(outputs.into_iter().zip(examples).map(|(o, e)| e.as_ref().map(|_| o)).collect())
    }

    /// A guess at the whole answer that begins with `output`.
    fn draft(&self, output: &[u32], end: u32) -> Vec<u32> {
        let fits = |draft: &&Vec<u32>| draft.len() > output.len() && draft.starts_with(output);
        self.drafts.iter().find(fits).cloned().unwrap_or_else(|| [output, &[end]].concat())
    }

    /// The likeliest token at every place of every second part, and ln p of the token there.
    /// # Errors
    /// If these are not finite, as those of a model that diverged.
    fn predictions(
        &mut self,
        sequences: &[(&[u32], &[u32])],
        watch: &mut dyn Watch,
    ) -> Result<Vec<Vec<(u32, f64)>>, Error> {
        let all = sequences.len();
        let mut predictions = Vec::with_capacity(all);
        for part in sequences.chunks(self.micro_batch) {
            watch.tell(Progress::Judging { done: predictions.len(), all })?;
            let batch = batch(part.iter().copied());
            let found = self.gpt.predict(&batch, 1, &mut self.arena)?;
            for (row, (prefix, target)) in found.chunks(batch.layout.context).zip(part) {
                let places = row[prefix.len() - 1..][..target.len()].iter().enumerate();
                let likeliest = places.map(|(position, place)| match place.top[..] {
                    [(likeliest, _), ..] if place.logprob.is_finite() => {
                        Ok((likeliest, place.logprob))
                    }
                    _ => {
                        let (what, name) = ("log-likelihood", "answer".to_string());
                        let value = place.logprob as f32;
                        Err(Error::NonFinite { what, name, position, value })
                    }
                });
                predictions.push(likeliest.collect::<Result<_, _>>()?);
            }
        }
        Ok(predictions)
    }

    /// ln p of every target after every prefix: `[example][target]`, nothing for those that do not
    /// fit.
    /// # Errors
    /// If a prefix or a target does not fit the model, its likelihood is not finite, or `watch` asks to stop.
    pub fn likelihoods(
        &mut self,
        examples: &[Option<Encoded>],
        targets: &[Vec<u32>],
        watch: &mut dyn Watch,
    ) -> Result<Vec<Option<Vec<f64>>>, Error> {
        let prefixes: Vec<&[u32]> = examples.iter().flatten().map(|e| &*e.prefix).collect();
        let mut order: Vec<usize> = (0..prefixes.len()).collect();
        order.sort_by_key(|&at| prefixes[at].len());
        let pairs = order.iter().flat_map(|&at| targets.iter().map(move |t| (at, t)));
        let sequences: Vec<(&[u32], &[u32])> = pairs.map(|(at, t)| (prefixes[at], &**t)).collect();
        let sums = self.predictions(&sequences, watch)?.into_iter();
        let sums: Vec<f64> = sums.map(|places| places.iter().map(|(_, lp)| lp).sum()).collect();
        let mut by_prefix = vec![Vec::new(); prefixes.len()];
        for (&at, sums) in order.iter().zip(sums.chunks(targets.len())) {
            by_prefix[at] = sums.to_vec();
        }
        let mut found = by_prefix.into_iter();
        Ok(examples.iter().map(|e| e.as_ref().and_then(|_| found.next())).collect())
    }
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The targets whose likelihoods answer: one per label and, where an example may have none, that of
/// no label.
pub fn candidates(task: &dyn Task, encoder: &ExampleEncoder<'_>) -> Vec<Vec<u32>> {
    let mut labels: Vec<Vec<usize>> = (0..task.labels().len()).map(|label| vec![label]).collect();
    if !task.one_label() {
        labels.push(vec![]);
    }
    labels.iter().map(|labels| encoder.target(labels)).collect()
}

/// The answers that likelihoods give: with one label per example, the likeliest; otherwise every
/// label whose likelihood exceeds that of no label by more than `threshold` nats.
pub(crate) fn by_likelihood(
    task: &dyn Task,
    likelihoods: &[Option<Vec<f64>>],
    threshold: f64,
) -> Vec<Vec<String>> {
    let answer = |likelihoods: &Option<Vec<f64>>| {
        let Some(likelihoods) = likelihoods else { return vec![FAILED.to_string()] };
        let count = task.labels().len();
        let labels: Vec<usize> = if task.one_label() {
            let better = |best: usize, next: usize| {
                if likelihoods[next] > likelihoods[best] { next } else { best }
            };
            (0..count).reduce(better).into_iter().collect()
        } else {
            (0..count).filter(|&l| likelihoods[l] - likelihoods[count] > threshold).collect()
        };
        task.parse(&task.target(&labels))
    };
    likelihoods.iter().map(answer).collect()
}
