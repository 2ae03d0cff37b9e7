//! The loss and its gradient.

use super::super::lines::lines_mut;
use super::head::{CHUNK_TILES, Chunk, CrossEntropy, TileTokens, WORDS, together, tokens_of};
use super::softmax::Softmax;
use crate::{Cost, Gradients, Loss, LossSum, Parameters, Pass, Profile, Tiles, TokenLayout};
use mediswift_kernels::isa::dispatch;
use mediswift_kernels::ops::Initial;
use mediswift_kernels::ops::gemm::{Left, Out, gemm, transpose_tiles};
use mediswift_kernels::{AlignedBuffer, InPrecision, LANES, Scratch};
use rayon::prelude::*;

impl CrossEntropy<'_> {
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
        profile: &mut Profile,
    ) -> LossSum {
        let (name, layout) = (self.name(), x.layout());
        profile.record(profile.clock(), name, Pass::Forward, || self.cost(layout).forward_flops);
        let clock = profile.clock();
        let (vocabulary, features, tile_len) = (self.vocabulary, self.features, x.tile_len());
        // Packed once for all chunks.
        let transposed = self.half.is_none().then(|| {
            Left::transposed(&parameters[self.weight], features, vocabulary).pack_scratch()
        });
        let gradient = &mut gradients[self.weight];
        // The product dW writes whole lines; rows that are not made of lines get padded ones.
        let columns = features.next_multiple_of(LANES);
        let mut padded = match columns == features || self.half.is_some() {
            true => AlignedBuffer::default(),
            false => AlignedBuffer::zeros(vocabulary * columns),
        };
        if self.weights.is_some() {
            // Tiles that take no part have no gradient.
            dx.data_mut().fill(0.0);
        }
        let mut scattered = Scratch::take(CHUNK_TILES * tile_len);
        profile.record(clock, name, Pass::Backward, || self.cost(layout).backward_flops);
        // From the end of one chunk's gradient to the next chunk's logits.
        let mut between = profile.clock();
        let losses = self.for_each_chunk(x, parameters, |Chunk { tiles, x, logits, tokens }| {
            profile.record(between, name, Pass::Forward, || 0);
            let clock = profile.clock();
            self.to_gradient(logits, tokens);
            // Of 16 bits, the gradient of the logits is rounded once for both products.
            let g = InPrecision::new(self.precision(), logits, vocabulary);
            let to_hidden = |dx: &mut [f32]| match (&transposed, self.half) {
                (Some(transposed), _) => transposed.multiply(logits, dx, Out::Tiles, false),
                (None, Some(layer)) => {
                    layer.input_gradient(&parameters[self.weight], g.lines(), dx, Initial::Zero);
                }
                (None, None) => unreachable!("a table of 32 bits is packed"),
            };
            match together(tiles, tile_len) {
                Some(place) => to_hidden(&mut dx.data_mut()[place]),
                None => {
                    let found = &mut scattered[..x.len()];
                    to_hidden(found);
                    for (found, &tile) in found.chunks_exact(tile_len).zip(tiles) {
                        dx.data_mut()[tile * tile_len..][..tile_len].copy_from_slice(found);
                    }
                }
            }
            if let Some(layer) = self.half {
                let x = InPrecision::new(self.precision(), x, features);
                layer.weight_gradient(g.lines(), x.lines(), gradient);
            } else {
                let xt = transpose_tiles(x, features);
                let dw = if padded.is_empty() { &mut *gradient } else { &mut *padded };
                gemm(Left::tiles(logits, vocabulary), &xt, dw, Out::Rows, true);
            }
            profile.record(clock, name, Pass::Backward, || 0);
            between = profile.clock();
        });
        for (to, row) in gradient.chunks_exact_mut(features).zip(padded.chunks_exact(columns)) {
            to.iter_mut().zip(row).for_each(|(to, dw)| *to += dw);
        }
        self.weighted_sum(&losses)
    }

    fn cost(&self, layout: TokenLayout) -> Cost {
        let of_tile = |tile| tokens_of(layout, tile).len() as u64;
        let tokens: u64 = match self.weights {
            None => layout.tokens() as u64,
            Some(_) => self.tiles(layout).into_iter().map(of_tile).sum(),
        };
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
