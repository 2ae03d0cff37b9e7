//! The logits of one chunk of tiles after the other, with their log-sum-exp.

use super::super::lines::{Line, lines};
use super::softmax::MaxAndSum;
use crate::{ParamId, Parameters, Tiles, TokenLayout};
use mediswift_kernels::isa::dispatch;
use mediswift_kernels::ops::Initial;
use mediswift_kernels::ops::gemm::{Left, Out, gemm};
use mediswift_kernels::{InPrecision, LANES, LinearLayer, Precision, Scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles whose logits are in memory at once: 256 tokens.
pub const CHUNK_TILES: usize = 16;

/// Words per task of the softmax: 64 KB of logits.
pub(super) const WORDS: usize = 1 << 10;

/// Σ weight · −ln p(target), with p = softmax(weight · x).
pub struct CrossEntropy<'a> {
    /// Token table `[vocabulary, features]`.
    pub weight: ParamId,
    /// The table planned as a layer of 16 bits; without it, `f32` is multiplied as it lies.
    pub half: Option<&'a LinearLayer>,
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

/// What the loss knows about one tile: a lane per token.
pub(super) struct TileTokens {
    /// Row of the target in the logits; none in padding lanes.
    pub(super) targets: [Option<usize>; LANES],
    /// weight · scale, 0 in padding lanes.
    pub(super) coefficients: Line,
    /// Log-sum-exp of the logits.
    pub(super) lse: [f64; LANES],
    /// Loss of every lane.
    pub(super) losses: [f64; LANES],
}

/// Some tiles with their hidden states and logits, side by side.
pub(super) struct Chunk<'c> {
    pub(super) tiles: &'c [usize],
    pub(super) x: &'c [f32],
    pub(super) logits: &'c mut [f32],
    pub(super) tokens: &'c [TileTokens],
}

/// Numbers of the tokens of a tile, `[sequence][token]`.
pub(super) fn tokens_of(layout: TokenLayout, tile: usize) -> Range<usize> {
    let sequence = tile / layout.tiles_per_sequence();
    let first = sequence * layout.context + tile % layout.tiles_per_sequence() * LANES;
    first..first + layout.tokens_in_tile(tile)
}

impl CrossEntropy<'_> {
    /// What hidden states and gradients of logits are rounded to.
    pub(super) fn precision(&self) -> Precision {
        self.half.map_or(Precision::F32, |layer| layer.plan().precision())
    }

    /// The logits of tiles of hidden states.
    #[track_caller]
    pub(super) fn multiply(&self, x: &[f32], parameters: &Parameters, logits: &mut [f32]) {
        match self.half {
            None => gemm(self.table(parameters), x, logits, Out::Tiles, false),
            Some(layer) => {
                let x = InPrecision::new(self.precision(), x, self.features);
                layer.forward(&parameters[self.weight], x.lines(), logits, Initial::Zero);
            }
        }
    }

    #[track_caller]
    pub(super) fn table<'p>(&self, parameters: &'p Parameters) -> Left<'p> {
        Left::row_major(&parameters[self.weight], self.vocabulary, self.features)
    }

    /// The tiles that take part.
    pub(super) fn tiles(&self, layout: TokenLayout) -> Vec<usize> {
        let has_weight = |&tile: &usize| {
            let weighted = |weights: &[f32]| weights.iter().any(|&weight| weight != 0.0);
            self.weights.is_none_or(|weights| weighted(&weights[tokens_of(layout, tile)]))
        };
        (0..layout.tiles()).filter(has_weight).collect()
    }

    /// Computes the logits of one chunk after the other and hands each to `visit`. Returns the loss of
    /// every token.
    #[track_caller]
    pub(super) fn for_each_chunk(
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
            self.multiply(x, parameters, logits);
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
}

/// Where tiles lie that follow each other; none if they do not.
pub(super) fn together(tiles: &[usize], tile_len: usize) -> Option<Range<usize>> {
    let (first, last) = (*tiles.first()?, *tiles.last()?);
    (last - first + 1 == tiles.len()).then_some(first * tile_len..(last + 1) * tile_len)
}
