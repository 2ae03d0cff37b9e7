//! [`Memory`]: what a training step needs to hold, part by part, known before anything is allocated.
//!
//! With P stored parameters, of which N in sparse layers, T tokens per micro-batch (padded to whole
//! tiles of sixteen), L layers of width d and vocabulary V, in `f32` values unless bytes are said:
//!
//! | part | holds |
//! |---|---|
//! | weights | P |
//! | moments | 2 P |
//! | gradients | (⌊log₂ n⌋ + 1) P for n leaves of the gradient tree, at most 4 P |
//! | plans | the weights of dense linear layers once more, packed for their input gradients; 26 bytes per non-zero: its column (4); column, origin and packed value in both products (2 × 10), with zeros that pad panels |
//! | activations | T · (L · (18 d + heads + 4) + 2 d + 2) of the forward pass, and what travels back; counted operator by operator |
//! | head | the logits of one chunk, and the packed token table V · d |
//!
//! A block leaves 18 d values per token: two norms, 3 d of query, key and value, attention,
//! projection and sum, 4 d twice in the MLP, its projection and sum; norms save two values and
//! attention one per head. If blocks are recomputed in the backward pass, each keeps only its input
//! of d, and one at a time has everything else.
//!
//! Not counted: the program itself, the scratch memory of threads (a few megabytes each), pages of
//! the data, which the system may drop, and plans that hold dense copies of sparse weights (layers
//! under about 15 % sparsity).

use crate::architecture::slots;
use crate::config::{Config, ModelConfig};
use crate::gradient_tree::leaf;
use crate::presets::PAPER_VOCABULARY;
use crate::rehearsal::Rehearsal;
use mediswift_engine::TokenLayout;
use mediswift_engine::ops::CHUNK_TILES;
use mediswift_kernels::LANES;

/// Bytes of an `f32`.
const VALUE: u64 = 4;

/// Bytes that a non-zero takes in patterns and plans.
const PLANS: u64 = 26;

/// Bytes that a training step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters.
    pub weights: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// Sums of micro-batch gradients.
    pub gradients: u64,
    /// Packed values of linear layers; patterns and execution plans of sparse ones.
    pub plans: u64,
    /// Values on the tape, and the gradients that travel back.
    pub activations: u64,
    /// Logits of one chunk of tokens, and the token table packed for their gradient.
    pub head: u64,
}

impl Memory {
    /// Of a training step as `config` describes it. Without a vocabulary yet, the paper's is assumed.
    pub fn of_step(config: &Config) -> Self {
        let (model, train) = (&config.model, &config.train);
        let vocabulary = if model.vocabulary == 0 { PAPER_VOCABULARY } else { model.vocabulary };
        let (mut dense, mut sparse, mut packed) = (0, 0, 0);
        let size = ModelConfig { vocabulary, ..model.clone() };
        for slot in slots(&size, 0) {
            let Some(weight) = slot.linear_weight() else {
                dense += slot.len();
                continue;
            };
            match config.sparsity.of(&weight.name) {
                0.0 => {
                    dense += weight.len();
                    packed += weight.len();
                }
                sparsity => sparse += weight.kept(sparsity),
            }
        }
        let weights = VALUE * (dense + sparse) as u64;
        let micro_batches = config.micro_batches();
        let levels = u64::from(micro_batches.div_ceil(leaf(micro_batches)).ilog2()) + 1;

        let sequences = train.micro_batch.min(train.batch);
        let layout = TokenLayout { sequences, context: train.context };
        let chunk = (CHUNK_TILES.min(layout.tiles()) * LANES) as u64;
        let features = Rehearsal::new(&size, layout, 0).features(train.recompute);
        let table = (vocabulary * model.d_model) as u64;
        Self {
            weights,
            moments: 2 * weights,
            gradients: levels * weights,
            plans: PLANS * sparse as u64 + VALUE * packed as u64,
            activations: VALUE * (layout.tiles() * LANES * features) as u64,
            head: VALUE * (chunk * vocabulary as u64 + table),
        }
    }

    /// Names and bytes of the parts.
    pub fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("weights", self.weights),
            ("moments", self.moments),
            ("gradients", self.gradients),
            ("plans", self.plans),
            ("activations", self.activations),
            ("head", self.head),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::{Gpt, TokenBatch};
    use crate::sparsity::LayerSparsity;
    use mediswift_engine::{Arena, Gradients};

    fn config(sparsity: f64) -> Config {
        let mut config = Config::from_preset("micro").unwrap();
        (config.model.vocabulary, config.sparsity.sparsity) = (700, sparsity);
        config.train.context = 33;
        config
    }

    #[test]
    fn weights_are_those_of_a_model() {
        for groups in ["[]", "[{param_filter=['*.mlp.*'], sparsity=0}]"] {
            for sparsity in [0.0, 0.3, 0.75] {
                let mut config = config(sparsity);
                config.set(&format!("sparsity.groups={groups}")).unwrap();
                let memory = Memory::of_step(&config);
                let gpt = Gpt::new(&config).unwrap();
                assert_eq!(memory.weights, 4 * gpt.parameters().count() as u64);
                let layers = gpt.layer_sparsity(&config.sparsity);
                let bytes = |layer: &LayerSparsity| match layer.target {
                    0.0 => VALUE * layer.nnz as u64,
                    _ => PLANS * layer.nnz as u64,
                };
                assert_eq!(memory.plans, layers.iter().map(bytes).sum::<u64>());
                assert_eq!(memory.moments, 2 * memory.weights);
            }
        }
    }

    #[test]
    fn activations_are_those_that_a_step_keeps() {
        for (layers, sequences, micro_batch, recompute) in
            [(1, 1, 1, false), (2, 3, 3, false), (4, 4, 2, false), (4, 4, 2, true)]
        {
            let mut config = config(0.5);
            config.model.layers = layers;
            config.train.recompute = recompute;
            (config.train.batch, config.train.micro_batch) = (sequences, micro_batch);
            let layout = TokenLayout { sequences: micro_batch, context: 33 };
            let ids = vec![1; layout.tokens()];
            let batch = TokenBatch { layout, targets: ids.clone(), ids, weights: None };
            let gpt = Gpt::new(&config).unwrap();
            let mut gradients = Gradients::zeros(gpt.parameters().layout());
            let mut arena = Arena::default();
            for _ in 0..config.micro_batches() {
                gpt.loss_and_gradients(&batch, 1.0, &mut gradients, &mut arena).unwrap();
            }
            assert_eq!(arena.bytes() as u64, Memory::of_step(&config).activations, "{layers}");
        }
    }

    #[test]
    fn accumulation_costs_few_gradients_and_recomputation_saves() {
        let mut config = config(0.5);
        config.train.micro_batch = 1;
        for (batch, levels) in [(1, 1), (2, 2), (3, 2), (4, 3), (8, 4), (9, 3), (512, 4)] {
            config.train.batch = batch;
            let memory = Memory::of_step(&config);
            assert_eq!(memory.gradients, levels * memory.weights, "{batch}");
        }
        config.model.layers = 24;
        let [whole, again] = [false, true].map(|recompute| {
            config.train.recompute = recompute;
            Memory::of_step(&config)
        });
        assert!(5 * again.activations < whole.activations);
        assert_eq!(again.total() - again.activations, whole.total() - whole.activations);
        assert!(Memory { plans: 0, ..whole }.total() < whole.total());
    }

    #[test]
    fn the_largest_model_fits_20_gigabytes_sparse_alone() {
        let mut config = Config::from_preset("xl").unwrap();
        (config.train.batch, config.train.micro_batch) = (1, 1);
        let dense = Memory::of_step(&config).total();
        config.sparsity.sparsity = 0.75;
        assert!(Memory::of_step(&config).total() < 20_000_000_000 && dense > 20_000_000_000);
    }
}
