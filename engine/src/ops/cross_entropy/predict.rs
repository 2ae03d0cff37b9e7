//! What the output head says of tokens, without a gradient.

use super::super::lines::{Line, lines};
use super::head::{Chunk, CrossEntropy, TileTokens, tokens_of};
use crate::{Parameters, Tiles};
use mediswift_kernels::LANES;
use mediswift_kernels::ops::gemv;
use rayon::prelude::*;

/// What a model thought of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// ln p(target), in nats.
    pub logprob: f64,
    /// The likeliest words with their ln p, likeliest first; of equal ones, the lower comes first.
    pub top: Vec<(u32, f64)>,
}

impl CrossEntropy<'_> {
    /// −ln p(target) of every token, `[sequence][token]`, unweighted.
    #[track_caller]
    pub fn token_losses(&self, x: &Tiles, parameters: &Parameters) -> Vec<f32> {
        let losses = self.for_each_chunk(x, parameters, |_| {});
        losses.into_iter().map(|loss| loss as f32).collect()
    }

    /// ln p(target) of every token, `[sequence][token]`, with the `top` likeliest words in its
    /// place. The likeliest are found chunk by chunk too.
    #[track_caller]
    pub fn predictions(&self, x: &Tiles, parameters: &Parameters, top: usize) -> Vec<Prediction> {
        let mut predictions = vec![Prediction::default(); x.layout().tokens()];
        let losses =
            self.for_each_chunk(x, parameters, |Chunk { tiles, logits, tokens, .. }| {
                let tile = |(logits, tokens): (&mut [f32], &TileTokens)| {
                    let mut best = likeliest(lines(logits), top);
                    for (best, lse) in best.iter_mut().zip(tokens.lse) {
                        best.iter_mut().for_each(|(_, value)| *value -= lse);
                    }
                    best
                };
                let best = logits.par_chunks_mut(self.vocabulary * LANES).zip(tokens).map(tile);
                for (&tile, best) in tiles.iter().zip(best.collect::<Vec<_>>()) {
                    let tokens = &mut predictions[tokens_of(x.layout(), tile)];
                    tokens.iter_mut().zip(best).for_each(|(token, best)| token.top = best);
                }
            });
        predictions.iter_mut().zip(losses).for_each(|(token, loss)| token.logprob = -loss);
        predictions
    }

    /// The logits as rows `[sequence][token][vocabulary]`. Holds all of them: for tests and small
    /// inputs.
    #[track_caller]
    pub fn logits(&self, x: &Tiles, parameters: &Parameters) -> Vec<f32> {
        let mut logits = Tiles::zeros(x.layout(), self.vocabulary);
        self.multiply(x.data(), parameters, logits.data_mut());
        logits.to_rows()
    }

    /// The logits `[vocabulary]` of one token with the hidden state `x` `[features]`.
    #[track_caller]
    pub fn one_token_logits(&self, x: &[f32], parameters: &Parameters) -> Vec<f32> {
        let mut logits = vec![0.0; self.vocabulary];
        gemv(&parameters[self.weight], x, &mut logits);
        logits
    }
}

/// The `top` largest logits of every lane of a tile, with their words, largest first.
fn likeliest(logits: &[Line], top: usize) -> Vec<Vec<(u32, f64)>> {
    let top = top.min(logits.len());
    let mut best: Vec<Vec<(u32, f64)>> = vec![Vec::new(); LANES];
    if top == 0 {
        return best;
    }
    // A logit enters where it is larger than the smallest of a full list.
    let mut bar = [f32::NEG_INFINITY; LANES];
    for (word, line) in (0u32..).zip(logits) {
        if !line.iter().zip(&bar).any(|(logit, bar)| logit > bar) {
            continue;
        }
        for ((best, bar), &logit) in best.iter_mut().zip(&mut bar).zip(line) {
            if logit > *bar {
                let value = f64::from(logit);
                let place = best.partition_point(|&(_, other)| other >= value);
                best.insert(place, (word, value));
                best.truncate(top);
                if best.len() == top {
                    *bar = best[top - 1].1 as f32;
                }
            }
        }
    }
    best
}
