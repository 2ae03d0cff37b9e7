//! [`CrossEntropy`]: the output head, tied to the token table, and the loss, fused.
//!
//! With W the table `[V, d]`, x the hidden state of a token, y its target, w its weight:
//!
//! ```text
//! logits = W · x
//! lse    = ln Σ_v exp logits[v]
//! loss   = lse − logits[y]
//! c      = w · scale
//! g[v]   = c · (exp(logits[v] − lse) − [v = y])       gradient of scale · Σ w · loss
//! dx     = Wᵀ · g
//! dW    += g · xᵀ                                     (over tokens)
//! ```
//!
//! The logits of [`CHUNK_TILES`] tiles are computed, turned into g where they lie, used for dx and
//! dW, and overwritten by those of the next chunk: three products in all, nothing computed twice,
//! and never more than a chunk of logits in memory. Losses are summed in `f64`, in token order. Tiles
//! without a token of weight take no part: where the loss falls on a few tokens at the end of a long
//! text, the head costs next to nothing.
//!
//! FLOPs per token that takes part: forward 2 · V · d for the logits and 3 · V for the log-sum-exp; backward
//! 4 · V · d for the two products and 3 · V for g.

use super::LossCase;
use super::lines::{Line, lines, lines_mut, load, store};
use crate::gradcheck::numbers;
use crate::{Cost, Gradients, Loss, LossSum, ParamId, Parameters, Shape, Tiles, TokenLayout};
use mediswift_kernels::isa::{Isa, Kernel, dispatch, math};
use mediswift_kernels::ops::gemm::{Left, Out, gemm, transpose_tiles};
use mediswift_kernels::{AlignedBuffer, LANES, Scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles whose logits are in memory at once: 256 tokens.
pub const CHUNK_TILES: usize = 16;

/// Words per task of the softmax: 64 KB of logits.
const WORDS: usize = 1 << 10;

/// Σ weight · −ln p(target), with p = softmax(weight · x).
pub struct CrossEntropy<'a> {
    /// Token table `[vocabulary, features]`.
    pub weight: ParamId,
    /// Words.
    pub vocabulary: usize,
    /// Features of the hidden states.
    pub features: usize,
    /// Next token of every token, `[sequence][token]`; every one below the vocabulary.
    pub targets: &'a [u32],
    /// Weight of every token's loss, `[sequence][token]`; all 1 if absent. What has weight 0 may be left
    /// out: its loss is then 0, its prediction empty.
    pub weights: Option<&'a [f32]>,
    /// The gradient is that of `scale` · Σ weight · loss; the value does not contain it.
    pub scale: f32,
}

/// What a model thought of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// ln p(target), in nats.
    pub logprob: f64,
    /// The likeliest words with their ln p, likeliest first; of equal ones, the lower comes first.
    pub top: Vec<(u32, f64)>,
}

/// What the loss knows about one tile: a lane per token.
struct TileTokens {
    /// Row of the target in the logits; none in padding lanes.
    targets: [Option<usize>; LANES],
    /// weight · scale, 0 in padding lanes.
    coefficients: Line,
    /// Log-sum-exp of the logits.
    lse: [f64; LANES],
    /// Loss of every lane.
    losses: [f64; LANES],
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
        gemm(self.table(parameters), x.data(), logits.data_mut(), Out::Tiles, false);
        logits.to_rows()
    }

    #[track_caller]
    fn table<'p>(&self, parameters: &'p Parameters) -> Left<'p> {
        Left::row_major(&parameters[self.weight], self.vocabulary, self.features)
    }

    /// The tiles that take part.
    fn tiles(&self, layout: TokenLayout) -> Vec<usize> {
        let has_weight = |&tile: &usize| {
            let weighted = |weights: &[f32]| weights.iter().any(|&weight| weight != 0.0);
            self.weights.is_none_or(|weights| weighted(&weights[tokens_of(layout, tile)]))
        };
        (0..layout.tiles()).filter(has_weight).collect()
    }

    /// Computes the logits of one chunk after the other and hands each to `visit`. Returns the loss of
    /// every token.
    #[track_caller]
    fn for_each_chunk(
        &self,
        x: &Tiles,
        parameters: &Parameters,
        mut visit: impl FnMut(Chunk<'_>),
    ) -> Vec<f64> {
        let layout = x.layout();
        assert_eq!(x.features(), self.features, "hidden states of another size");
        assert_eq!(self.targets.len(), layout.tokens(), "one target per token is needed");
        if let Some(target) = self.targets.iter().find(|&&t| t as usize >= self.vocabulary) {
            panic!("target {target} is outside the vocabulary of {}", self.vocabulary);
        }
        if let Some(weights) = self.weights {
            assert_eq!(weights.len(), layout.tokens(), "one weight per token is needed");
        }
        let table = self.table(parameters);
        let all = self.tiles(layout);
        let chunk_tiles = CHUNK_TILES.min(all.len());
        let mut buffer = Scratch::take(chunk_tiles * self.vocabulary * LANES);
        let mut gathered = Scratch::take(chunk_tiles * x.tile_len());
        let mut losses = vec![0.0; layout.tokens()];
        for tiles in all.chunks(CHUNK_TILES) {
            let x = match together(tiles, x.tile_len()) {
                Some(place) => &x.data()[place],
                None => {
                    let places = gathered.chunks_exact_mut(x.tile_len()).zip(tiles);
                    places.for_each(|(place, &tile)| place.copy_from_slice(x.tile(tile)));
                    &gathered[..tiles.len() * x.tile_len()]
                }
            };
            let logits = &mut buffer[..tiles.len() * self.vocabulary * LANES];
            gemm(table, x, logits, Out::Tiles, false);
            let tokens = self.log_sum_exp(layout, tiles, logits);
            for (&tile, tokens) in tiles.iter().zip(&tokens) {
                let losses = &mut losses[tokens_of(layout, tile)];
                losses.copy_from_slice(&tokens.losses[..losses.len()]);
            }
            visit(Chunk { tiles, x, logits, tokens: &tokens });
        }
        losses
    }

    /// Log-sum-exp and loss of every token of `tiles`, whose logits these are.
    fn log_sum_exp(&self, layout: TokenLayout, tiles: &[usize], logits: &[f32]) -> Vec<TileTokens> {
        let blocks = self.vocabulary.div_ceil(WORDS);
        let tile_len = self.vocabulary * LANES;
        let parts: Vec<(Line, Line)> = (0..logits.len() / tile_len * blocks)
            .into_par_iter()
            .map(|task| {
                let tile = &lines(logits)[task / blocks * self.vocabulary..][..self.vocabulary];
                let words = task % blocks * WORDS..self.vocabulary.min((task % blocks + 1) * WORDS);
                dispatch(MaxAndSum { logits: &tile[words] })
            })
            .collect();
        let tile = |(at, parts): (usize, &[(Line, Line)])| {
            let logits = &lines(logits)[at * self.vocabulary..][..self.vocabulary];
            self.combine(layout, tiles[at], logits, parts)
        };
        parts.par_chunks(blocks).enumerate().map(tile).collect()
    }

    /// Combines the parts of a tile's log-sum-exp, in the order of the vocabulary.
    fn combine(
        &self,
        layout: TokenLayout,
        tile: usize,
        logits: &[Line],
        parts: &[(Line, Line)],
    ) -> TileTokens {
        let mut tokens = TileTokens {
            targets: [None; LANES],
            coefficients: [0.0; LANES],
            lse: [0.0; LANES],
            losses: [0.0; LANES],
        };
        for (lane, token) in tokens_of(layout, tile).enumerate() {
            let target = self.targets[token];
            let weight = self.weights.map_or(1.0, |weights| weights[token]);
            let part = |part: &(Line, Line)| (f64::from(part.0[lane]), f64::from(part.1[lane]));
            let max = parts.iter().map(part).fold(f64::NEG_INFINITY, |m, (max, _)| m.max(max));
            let sum: f64 = parts.iter().map(part).map(|(m, sum)| (m - max).exp() * sum).sum();
            tokens.targets[lane] = Some(target as usize);
            tokens.coefficients[lane] = weight * self.scale;
            tokens.lse[lane] = max + sum.ln();
            tokens.losses[lane] = tokens.lse[lane] - f64::from(logits[target as usize][lane]);
        }
        tokens
    }

    /// Overwrites the logits of a chunk by g.
    fn to_gradient(&self, logits: &mut [f32], tiles: &[TileTokens]) {
        let tile_len = self.vocabulary * LANES;
        logits.par_chunks_mut(tile_len).zip(tiles).for_each(|(logits, tokens)| {
            let blocks = logits.par_chunks_mut(WORDS * LANES).enumerate();
            blocks.for_each(|(block, logits)| {
                let logits = lines_mut(logits);
                let lse = tokens.lse.map(|lse| lse as f32);
                dispatch(Softmax { logits, lse: &lse, coefficients: &tokens.coefficients });
                for (lane, target) in tokens.targets.iter().enumerate() {
                    let row = target.and_then(|target| target.checked_sub(block * WORDS));
                    if let Some(line) = row.and_then(|row| logits.get_mut(row)) {
                        line[lane] -= tokens.coefficients[lane];
                    }
                }
            });
        });
    }

    /// Σ weight · loss, in token order; tokens of weight 0 do not count, whatever their loss.
    fn weighted_sum(&self, losses: &[f64]) -> LossSum {
        let weight = |token| self.weights.map_or(1.0, |w| f64::from(w[token]));
        let mut total = LossSum::default();
        for (token, loss) in losses.iter().enumerate().filter(|&(token, _)| weight(token) != 0.0) {
            total.sum += weight(token) * loss;
            total.weight += weight(token);
        }
        total
    }
}

impl Loss for CrossEntropy<'_> {
    fn name(&self) -> &'static str {
        "output head"
    }

    #[track_caller]
    fn evaluate(&self, x: &Tiles, parameters: &Parameters) -> LossSum {
        self.weighted_sum(&self.for_each_chunk(x, parameters, |_| {}))
    }

    #[track_caller]
    fn differentiate(
        &self,
        x: &Tiles,
        parameters: &Parameters,
        dx: &mut Tiles,
        gradients: &mut Gradients,
    ) -> LossSum {
        let (vocabulary, features, tile_len) = (self.vocabulary, self.features, x.tile_len());
        // Packed once for all chunks.
        let transposed =
            Left::transposed(&parameters[self.weight], features, vocabulary).pack_scratch();
        let gradient = &mut gradients[self.weight];
        // The product dW writes whole lines; rows that are not made of lines get padded ones.
        let columns = features.next_multiple_of(LANES);
        let mut padded = match columns == features {
            true => AlignedBuffer::default(),
            false => AlignedBuffer::zeros(vocabulary * columns),
        };
        if self.weights.is_some() {
            // Tiles that take no part have no gradient.
            dx.data_mut().fill(0.0);
        }
        let mut scattered = Scratch::take(CHUNK_TILES * tile_len);
        let losses = self.for_each_chunk(x, parameters, |Chunk { tiles, x, logits, tokens }| {
            self.to_gradient(logits, tokens);
            match together(tiles, tile_len) {
                Some(place) => {
                    let dx = &mut dx.data_mut()[place];
                    transposed.multiply(logits, dx, Out::Tiles, false);
                }
                None => {
                    let found = &mut scattered[..x.len()];
                    transposed.multiply(logits, found, Out::Tiles, false);
                    for (found, &tile) in found.chunks_exact(tile_len).zip(tiles) {
                        dx.data_mut()[tile * tile_len..][..tile_len].copy_from_slice(found);
                    }
                }
            }
            let xt = transpose_tiles(x, features);
            let dw = if padded.is_empty() { &mut *gradient } else { &mut *padded };
            gemm(Left::tiles(logits, vocabulary), &xt, dw, Out::Rows, true);
        });
        for (to, row) in gradient.chunks_exact_mut(features).zip(padded.chunks_exact(columns)) {
            to.iter_mut().zip(row).for_each(|(to, dw)| *to += dw);
        }
        self.weighted_sum(&losses)
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let of_tile = |tile| tokens_of(layout, tile).len() as u64;
        let tokens: u64 = self.tiles(layout).into_iter().map(of_tile).sum();
        let (vocabulary, features) = (self.vocabulary as u64, self.features as u64);
        Cost {
            forward_flops: tokens * (2 * vocabulary * features + 3 * vocabulary),
            backward_flops: tokens * (4 * vocabulary * features + 3 * vocabulary),
            // x and dx, the table in both products, its gradient read and written; logits and g
            // written and read twice each.
            bytes: 4 * (tokens * (2 * features + 6 * vocabulary) + 4 * vocabulary * features),
        }
    }
}

/// Some tiles with their hidden states and logits, side by side.
struct Chunk<'c> {
    tiles: &'c [usize],
    x: &'c [f32],
    logits: &'c mut [f32],
    tokens: &'c [TileTokens],
}

/// Numbers of the tokens of a tile, `[sequence][token]`.
fn tokens_of(layout: TokenLayout, tile: usize) -> Range<usize> {
    let sequence = tile / layout.tiles_per_sequence();
    let first = sequence * layout.context + tile % layout.tiles_per_sequence() * LANES;
    first..first + layout.tokens_in_tile(tile)
}

/// Where tiles lie that follow each other; none if they do not.
fn together(tiles: &[usize], tile_len: usize) -> Option<Range<usize>> {
    let (first, last) = (*tiles.first()?, *tiles.last()?);
    (last - first + 1 == tiles.len()).then_some(first * tile_len..(last + 1) * tile_len)
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

/// Largest logit and Σ exp(logit − largest) of some words, lane by lane.
struct MaxAndSum<'a> {
    logits: &'a [Line],
}

impl Kernel for MaxAndSum<'_> {
    type Output = (Line, Line);

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> (Line, Line) {
        let mut max = [isa.splat(f32::MIN); 4];
        for logits in self.logits.chunks(4) {
            for (max, logit) in max.iter_mut().zip(logits) {
                *max = isa.max(*max, load(isa, logit));
            }
        }
        let max = isa.max(isa.max(max[0], max[1]), isa.max(max[2], max[3]));
        let mut sum = isa.splat(0.0);
        for logit in self.logits {
            sum = isa.add(sum, math::exp(isa, isa.sub(load(isa, logit), max)));
        }
        (isa.to_array(max), isa.to_array(sum))
    }
}

/// logits ← coefficient · exp(logit − lse).
struct Softmax<'a> {
    logits: &'a mut [Line],
    lse: &'a Line,
    coefficients: &'a Line,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (lse, coefficients) = (load(isa, self.lse), load(isa, self.coefficients));
        for logit in self.logits {
            let p = math::exp(isa, isa.sub(load(isa, logit), lse));
            store(isa, logit, isa.mul(coefficients, p));
        }
    }
}

/// More tiles than a chunk holds.
pub const CASE: LossCase =
    case::<23, 5, 171, 1>("cross-entropy", TokenLayout { sequences: 9, context: 19 });

/// Features that fill whole lines.
pub const WHOLE_LINES_CASE: LossCase = case::<23, 16, 19, 1>(
    "cross-entropy of whole lines",
    TokenLayout { sequences: 1, context: 19 },
);

/// A vocabulary of several blocks.
pub const BLOCKS_CASE: LossCase = case::<1030, 1, 6, 1>(
    "cross-entropy of several blocks of words",
    TokenLayout { sequences: 2, context: 3 },
);

/// A loss on some tokens far from each other.
pub const FEW_TOKENS_CASE: LossCase = case::<23, 5, 171, 50>(
    "cross-entropy of few tokens",
    TokenLayout { sequences: 9, context: 19 },
);

const CASE_SCALE: f32 = 0.25;

/// A test case with V words, D features and N tokens, of which a fifth of every EVERY has weight.
const fn case<const V: usize, const D: usize, const N: usize, const EVERY: usize>(
    name: &'static str,
    layout: TokenLayout,
) -> LossCase {
    LossCase {
        name,
        layout,
        features: D,
        scale: CASE_SCALE,
        parameters: || {
            Parameters::from_tensors([("tokens", Shape::Matrix(V, D), numbers(V * D, 1))])
        },
        with_loss: |parameters, check| {
            check(&CrossEntropy {
                weight: parameters.find("tokens").expect("a parameter of this case"),
                vocabulary: V,
                features: D,
                targets: &std::array::from_fn::<u32, N, _>(case_target::<V>),
                weights: Some(&std::array::from_fn::<f32, N, _>(case_weight::<EVERY>)),
                scale: CASE_SCALE,
            });
        },
        reference: |_, x, parameters| {
            let losses = x[0].chunks_exact(D).enumerate().map(|(token, x)| {
                let logit = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                let logits: Vec<f64> = parameters[0].chunks_exact(D).map(logit).collect();
                let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                f64::from(case_weight::<EVERY>(token))
                    * (lse - logits[case_target::<V>(token) as usize])
            });
            losses.sum()
        },
    }
}

/// Words all over the vocabulary.
fn case_target<const V: usize>(token: usize) -> u32 {
    (701 * token % V) as u32
}

/// 0, ½, 1, 1½, 0, …, and 0 for the first four fifths of every EVERY tokens.
fn case_weight<const EVERY: usize>(token: usize) -> f32 {
    if token % EVERY < EVERY * 4 / 5 { 0.0 } else { (token % 4) as f32 / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: TokenLayout = TokenLayout { sequences: 2, context: 17 };

    fn hidden_states_and_parameters() -> (Tiles, Parameters) {
        let x = Tiles::from_rows(LAYOUT, 3, &numbers(LAYOUT.tokens() * 3, 2));
        (x, Parameters::from_tensors([("tokens", Shape::Matrix(7, 3), numbers(7 * 3, 1))]))
    }

    fn loss<'a>(parameters: &Parameters, targets: &'a [u32]) -> CrossEntropy<'a> {
        let weight = parameters.find("tokens").unwrap();
        CrossEntropy { weight, vocabulary: 7, features: 3, targets, weights: None, scale: 1.0 }
    }

    #[test]
    fn token_losses_are_those_of_the_logits_and_add_up_to_the_loss() {
        let (x, parameters) = hidden_states_and_parameters();
        let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
        let loss = loss(&parameters, &targets);
        let losses = loss.token_losses(&x, &parameters);
        let logits = loss.logits(&x, &parameters);
        assert_eq!(losses.len(), LAYOUT.tokens());
        for ((row, &target), loss) in logits.chunks_exact(7).zip(&targets).zip(&losses) {
            let lse = row.iter().map(|l| l.exp()).sum::<f32>().ln();
            assert!((lse - row[target as usize] - loss).abs() < 1e-5);
        }
        let LossSum { sum, weight } = loss.evaluate(&x, &parameters);
        assert_eq!(weight, LAYOUT.tokens() as f64);
        assert!((sum - losses.iter().map(|&l| f64::from(l)).sum::<f64>()).abs() < 1e-5);
    }

    #[test]
    fn predictions_rank_the_words_of_every_token() {
        let (x, parameters) = hidden_states_and_parameters();
        let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
        let loss = loss(&parameters, &targets);
        let losses = loss.token_losses(&x, &parameters);
        let logits = loss.logits(&x, &parameters);
        for top in [0, 1, 3, 100] {
            let predictions = loss.predictions(&x, &parameters, top);
            assert_eq!(predictions.len(), LAYOUT.tokens());
            let rows = logits.chunks_exact(7).zip(&losses).zip(&targets);
            for (((row, &loss), &target), found) in rows.zip(predictions) {
                assert_eq!(found.logprob as f32, -loss);
                let mut ranked: Vec<u32> = (0..7).collect();
                ranked
                    .sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
                ranked.truncate(top);
                assert_eq!(found.top.iter().map(|&(word, _)| word).collect::<Vec<_>>(), ranked);
                for &(word, logprob) in &found.top {
                    // The target's own value, to the last bit.
                    assert!(word != target || logprob == found.logprob);
                    let difference = f64::from(row[word as usize] - row[target as usize]);
                    assert!((logprob - found.logprob - difference).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn tokens_without_weight_change_nothing() {
        let (x, parameters) = hidden_states_and_parameters();
        let targets: Vec<u32> = (0..LAYOUT.tokens()).map(case_target::<7>).collect();
        let whole = loss(&parameters, &targets);
        let all = whole.predictions(&x, &parameters, 3);
        // The last token of the first sequence has a tile of its own; so has that of the second.
        for token in [3, 16, 33] {
            let mut weights = vec![0.0; LAYOUT.tokens()];
            weights[token] = 2.0;
            let few = CrossEntropy { weights: Some(&weights), ..loss(&parameters, &targets) };
            assert_eq!(few.predictions(&x, &parameters, 3)[token], all[token]);
            let found = few.evaluate(&x, &parameters);
            assert_eq!(found, LossSum { sum: -2.0 * all[token].logprob, weight: 2.0 });
            let tokens = if token == 3 { 16 } else { 1 };
            let flops = |loss: &CrossEntropy<'_>| loss.cost(LAYOUT).forward_flops;
            assert_eq!(flops(&few) * LAYOUT.tokens() as u64, flops(&whole) * tokens);
        }
        let none = vec![0.0; LAYOUT.tokens()];
        let few = CrossEntropy { weights: Some(&none), ..loss(&parameters, &targets) };
        let mut dx = Tiles::from_rows(LAYOUT, 3, &[1.0; 34 * 3]);
        let mut gradients = Gradients::zeros(parameters.layout());
        let found = few.differentiate(&x, &parameters, &mut dx, &mut gradients);
        assert_eq!((found, dx.data().iter().all(|&dx| dx == 0.0)), (LossSum::default(), true));
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let (mut x, parameters) = hidden_states_and_parameters();
        x.data_mut().iter_mut().for_each(|x| *x *= 1e4);
        let targets = vec![0; LAYOUT.tokens()];
        let loss = loss(&parameters, &targets);
        let logits = loss.logits(&x, &parameters);
        for (row, loss) in logits.chunks_exact(7).zip(loss.token_losses(&x, &parameters)) {
            let max = row.iter().fold(f32::MIN, |max, &l| max.max(l));
            assert!((max - row[0] - loss).abs() <= 2.0 + 1e-6 * max.abs(), "{loss}");
        }
    }

    #[test]
    #[should_panic(expected = "target 7 is outside the vocabulary of 7")]
    fn targets_outside_the_vocabulary_are_refused() {
        let (x, parameters) = hidden_states_and_parameters();
        let mut targets = vec![0; LAYOUT.tokens()];
        targets[5] = 7;
        loss(&parameters, &targets).evaluate(&x, &parameters);
    }
}
