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
//! | plans | the weights of dense linear layers once more, packed for their input gradients; 22 bytes per non-zero: its column (4); column (2), origin (2) and packed value (4) in both products, with zeros that pad panels |
//! | activations | T · (L · (16 d + heads + 4) + 2 d + 2) of the forward pass, and what travels back; counted operator by operator |
//! | head | the logits of one chunk, and the packed token table V · d |
//! | rounded | in 16 bits, the operands of one linear layer, 5 d values of 2 bytes per token, in buffers up to twice as large |
//! | tokens | 12 bytes per token of a step: inputs, targets, weights; 256 bytes per sequence |
//! | masks | where they move by gradients, a byte per non-zero, and 4 for each that an update exchanges |
//! | evaluation | the activations of one block, for T tokens |
//!
//! A block leaves 16 d values per token: two norms, 3 d of query, key and value, attention and sum, 4 d twice in
//! the MLP, and the second sum; norms save two values and attention one per head. Norms and the second 4 d are kept
//! in 16 bits where linear layers round them: 13 d values of 4 bytes. If blocks are recomputed in the backward
//! pass, each keeps only its input of d, and one at a time has everything else. Of several ranks each holds its share of moments, tokens and the
//! gradient tree, and everything else whole ([`Memory::of_rank`]). With [`Reduce::Fast`] there is no tree, only one sum.
//!
//! In bf16, packed values take 2 bytes, but those of dense layers are packed for both products, and weight gradients
//! have a plan of their own (23 bytes per non-zero in all). That is meant of CPUs that multiply pairs: others have the plans of
//! `f32` and a rounded copy of dense layers and of the head's table, which is less where most weights are sparse ones,
//! and more, uncounted, where the table is most of the model. In f16, dense layers and the head's table keep a rounded copy of
//! 4 bytes more, for their products are those of `f32`.
//!
//! Where masks shrink during a run, a step is meant at which most is held: before the first update, or after it.
//! An update itself takes less: it frees gradients before it copies a store to its new layout, and stores one by one.
//!
//! Not counted: the program itself, the scratch memory of threads (a few megabytes each), the copy of the gradient of
//! one layer's output that weight gradients make (4 d values per token, in a buffer up to twice as large), what a
//! weight gradient's own plan takes on AVX2 and on Intel's CPUs where more than 35 % of a layer is left (4 bytes a
//! non-zero), pages of the data, which the system may drop, and plans that hold dense copies of sparse weights (layers
//! under about 15 % sparsity). Sums that exceed 64 bits stay at the largest number.

use crate::architecture::slots;
use crate::config::{Config, ModelConfig};
use crate::error::Error;
use crate::finetune::settings::{Settings, Weights};
use crate::gradient_tree::leaf;
use crate::presets::PAPER_VOCABULARY;
use crate::reduction::Reduce;
use crate::rehearsal::{Features, Rehearsal};
use crate::sparsity::{Growth, Targets, Trajectory};
use mediswift_engine::TokenLayout;
use mediswift_engine::ops::CHUNK_TILES;
use mediswift_kernels::{LANES, Precision};
use mediswift_ranks::collectives::LARGEST_PART;
use std::iter::Sum;

/// Bytes of an `f32`.
const VALUE: u64 = 4;

/// Bytes that a non-zero takes in patterns and plans.
const fn of_plans(precision: Precision) -> u64 {
    match precision {
        Precision::F32 | Precision::F16 => 22,
        Precision::Bf16 => 23,
    }
}

/// Values of `f32` that copies of a dense weight take as much memory as.
const fn copies(precision: Precision) -> usize {
    match precision {
        Precision::F32 | Precision::Bf16 => 1,
        Precision::F16 => 2,
    }
}

/// Bytes of a token, and of what is kept of a sequence besides its tokens.
const TOKEN: u64 = 12;
const SEQUENCE: u64 = 256;

/// Models that fine-tuning holds besides the one under training: the pre-trained one, the same with
/// a prompt, and the best so far.
const KEPT_IN_TUNING: u64 = 3;

/// Bytes that a training step holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Operands of a linear layer, rounded to 16 bits.
    pub rounded: u64,
    /// All sequences of a step.
    pub tokens: u64,
    /// What the masks of all layers are to gain and keep, while that waits for the end of a step.
    pub masks: u64,
    /// Values on the tape of an evaluation.
    pub evaluation: u64,
}

impl Memory {
    /// Of a training step as `config` describes it. Without a vocabulary yet, the paper's is assumed.
    pub fn of_step(config: &Config) -> Self {
        Self::of(config, 0)
    }

    /// The same on each of so many ranks: moments are shared out, and of the gradients' tree a rank holds the
    /// sums of its own leaves, or one sum without a tree, and of all that is added up over ranks the part that is
    /// being added. Rank 0 has both moments of all in those buffers while it saves.
    pub fn of_rank(config: &Config, ranks: usize, reduce: Reduce) -> Self {
        let step = Self::of_step(config);
        if ranks < 2 {
            return step;
        }
        let micro_batches = config.micro_batches();
        let leaves = micro_batches.div_ceil(leaf(micro_batches, config.train.leaves.max(1)));
        let (levels, nodes) = match reduce {
            // Most ranks hold one or two nodes.
            Reduce::Exact => (u64::from(leaves.div_ceil(ranks).max(1).ilog2()) + 1, 2),
            Reduce::Fast => (1, 1),
        };
        let parts = product(&[nodes, ranks, LARGEST_PART]);
        let parts = parts.min(step.weights.saturating_mul(nodes as u64));
        let sums = step.weights.saturating_mul(levels).saturating_add(parts);
        Self {
            moments: step.moments / ranks as u64,
            gradients: sums.max(step.weights.saturating_mul(2)),
            tokens: step.tokens / ranks as u64,
            ..step
        }
    }

    /// Of fine-tuning the model that `config` describes.
    pub fn of_tuning(config: &Config, settings: &Settings) -> Self {
        let tune = &settings.finetune;
        let largest = tune.batch.iter().copied().max().unwrap_or(1).max(tune.stage_batch);
        let mut config = settings.training(config, largest, 0.0, 1);
        if tune.weights == Weights::Dense {
            config.sparsity.fall();
        }
        config.sparsity.stay();
        let step = Self::of(&config, tune.prompt_tokens);
        Self { weights: step.weights.saturating_mul(1 + KEPT_IN_TUNING), ..step }
    }

    /// Of a model that is imported: as it is read, and as it is kept.
    pub fn of_import(config: &Config) -> Self {
        let Self { weights, plans, .. } = Self::of_step(config);
        Self { weights: weights.saturating_mul(2), plans, ..Self::default() }
    }

    /// The most that it comes to: masks that shrink are largest before their first update, or after it, for dense
    /// weights need no plans.
    fn of(config: &Config, prompt_tokens: usize) -> Self {
        let trajectory = Trajectory::new(config);
        let all =
            trajectory.largest().map(|progress| Self::of_stretch(config, prompt_tokens, progress));
        all.max_by_key(Self::total).expect("a run has steps")
    }

    /// Where so much of all mask updates is made.
    fn of_stretch(config: &Config, prompt_tokens: usize, progress: f64) -> Self {
        let (model, train) = (&config.model, &config.train);
        let targets = Targets::new(&config.sparsity, model);
        let schedule = config.sparsity.algorithm;
        let vocabulary = if model.vocabulary == 0 { PAPER_VOCABULARY } else { model.vocabulary };
        let (mut dense, mut sparse, mut packed) = (0, 0, 0);
        let size = ModelConfig { vocabulary, ..model.clone() };
        for slot in slots(&size, 0) {
            let Some(weight) = slot.linear_weight() else {
                dense += slot.len();
                continue;
            };
            match schedule.sparsity(targets.of(&weight), progress) {
                0.0 => {
                    dense += weight.len();
                    packed += weight.len();
                }
                sparsity => sparse += weight.kept(sparsity),
            }
        }
        let prompt = product(&[prompt_tokens, model.d_model]);
        let weights = product(&[4, dense + sparse]).saturating_add(prompt.saturating_mul(VALUE));
        let micro_batches = config.micro_batches();
        let leaf = leaf(micro_batches, train.leaves.max(1));
        let levels = u64::from(micro_batches.div_ceil(leaf).max(1).ilog2()) + 1;

        let padded = |sequences: usize| product(&[sequences, train.context.div_ceil(LANES), LANES]);
        // An evaluation's passes are as large as it has sequences, where a step's batch is smaller.
        let windows = if config.eval.sequences == 0 { usize::MAX } else { config.eval.sequences };
        let evaluated = padded(train.micro_batch.min(windows));
        let padded = padded(train.micro_batch.min(train.batch));
        let chunk = padded.min((CHUNK_TILES * LANES) as u64);
        // Features do not depend on how many tokens there are.
        let rehearsal =
            Rehearsal::new(&size, train.precision, TokenLayout { sequences: 1, context: 1 }, 0);
        let values = |tokens: u64, features: usize| tokens.saturating_mul(product(&[4, features]));
        let tokens = product(&[train.batch, train.context]).saturating_mul(TOKEN);
        Self {
            weights,
            moments: weights.saturating_mul(2),
            gradients: weights.saturating_mul(levels),
            plans: (sparse as u64)
                .saturating_mul(of_plans(train.precision))
                .saturating_add(product(&[4, packed, copies(train.precision)])),
            activations: {
                let Features { exact, rounded } = rehearsal.features(train.recompute);
                // Two tiles share a line of 16-bit numbers.
                let in_pairs = padded.next_multiple_of(2 * LANES as u64);
                let halves = in_pairs.saturating_mul(product(&[2, rounded]));
                values(padded, exact).saturating_add(halves)
            },
            head: chunk
                .saturating_mul(vocabulary as u64)
                .saturating_add(product(&[vocabulary, model.d_model, copies(train.precision)]))
                .saturating_mul(VALUE)
                .saturating_add(match train.precision {
                    Precision::F32 => 0,
                    _ => chunk.saturating_mul(product(&[2, vocabulary])),
                }),
            rounded: match train.precision {
                Precision::F32 => 0,
                _ => padded.saturating_mul(product(&[2, 10, model.d_model])),
            },
            tokens: tokens.saturating_add((train.batch as u64).saturating_mul(SEQUENCE)),
            masks: match schedule.growth() {
                Growth::Gradient => {
                    let gained = config.sparsity.drop_fraction.init * sparse as f64;
                    (sparse as u64).saturating_add(product(&[4, gained as usize]))
                }
                _ => 0,
            },
            evaluation: values(evaluated, rehearsal.features_of_inference()),
        }
    }

    /// Names and bytes of the parts.
    pub fn parts(&self) -> [(&'static str, u64); 10] {
        [
            ("weights", self.weights),
            ("moments", self.moments),
            ("gradients", self.gradients),
            ("plans", self.plans),
            ("activations", self.activations),
            ("head", self.head),
            ("rounded", self.rounded),
            ("tokens", self.tokens),
            ("masks", self.masks),
            ("evaluation", self.evaluation),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Refuses `what` if it needs more than the `free` bytes there are; nothing is refused where the
    /// system does not tell.
    /// # Errors
    /// If it does not fit.
    pub fn require(&self, what: &'static str, free: Option<u64>) -> Result<(), Error> {
        let need = self.total();
        match free.filter(|&free| free < need) {
            None => Ok(()),
            Some(free) => {
                let largest = self.parts().into_iter().max_by_key(|(_, bytes)| *bytes);
                let (part, _) = largest.expect("there are parts");
                Err(Error::TooLarge { what, need, free, part })
            }
        }
    }
}

/// Of models that are there at the same time.
impl Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            weights: a.weights.saturating_add(b.weights),
            moments: a.moments.saturating_add(b.moments),
            gradients: a.gradients.saturating_add(b.gradients),
            plans: a.plans.saturating_add(b.plans),
            activations: a.activations.saturating_add(b.activations),
            head: a.head.saturating_add(b.head),
            rounded: a.rounded.saturating_add(b.rounded),
            tokens: a.tokens.saturating_add(b.tokens),
            masks: a.masks.saturating_add(b.masks),
            evaluation: a.evaluation.saturating_add(b.evaluation),
        })
    }
}

/// The product of `factors`, or the largest number.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
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
                    _ => of_plans(Precision::F32) * layer.nnz as u64,
                };
                assert_eq!(memory.plans, layers.iter().map(bytes).sum::<u64>());
                assert_eq!(memory.moments, 2 * memory.weights);
            }
        }
    }

    #[test]
    fn activations_are_those_that_a_step_keeps() {
        for (layers, sequences, micro_batch, recompute, precision) in [
            (1, 1, 1, false, Precision::F32),
            (2, 3, 3, false, Precision::F32),
            (4, 4, 2, false, Precision::F32),
            (4, 4, 2, true, Precision::F32),
            (1, 1, 1, false, Precision::Bf16),
            (2, 3, 3, false, Precision::F16),
            (4, 4, 2, false, Precision::Bf16),
            (4, 4, 2, true, Precision::Bf16),
        ] {
            let mut config = config(0.5);
            config.train.precision = precision;
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
    fn ranks_share_moments_and_gradients() {
        let mut config = config(0.5);
        (config.train.batch, config.train.micro_batch) = (8, 1);
        let alone = Memory::of_step(&config);
        for reduce in [Reduce::Exact, Reduce::Fast] {
            assert_eq!(Memory::of_rank(&config, 1, reduce), alone);
        }
        for (ranks, levels) in [(2, 3), (4, 2), (8, 1)] {
            let each = Memory::of_rank(&config, ranks, Reduce::Exact);
            assert_eq!(each.moments, alone.moments / ranks as u64);
            assert_eq!(each.weights, alone.weights);
            // The parts that are added up are small beside a large model, not beside this one.
            assert!((levels..=levels + 2).contains(&(each.gradients / each.weights)), "{ranks}");
            assert!(each.total() < alone.total());
            let fast = Memory::of_rank(&config, ranks, Reduce::Fast);
            assert_eq!(fast.gradients, 2 * fast.weights, "a sum, and as much that is added");
            assert!(fast.total() < each.total());
        }
    }

    #[test]
    fn nothing_overflows_whatever_the_settings_are() {
        let extremes = [1, 2, 1 << 16, 1 << 30, (1 << 32) - 2, usize::MAX >> 1, usize::MAX];
        let mut checked = 0;
        for extreme in extremes {
            for change in 0..8 {
                let mut config = config(0.75);
                let Config { model, train, .. } = &mut config;
                *[
                    &mut model.layers,
                    &mut model.d_model,
                    &mut model.context,
                    &mut model.vocabulary,
                    &mut train.steps,
                    &mut train.batch,
                    &mut train.micro_batch,
                    &mut train.context,
                ][change] = extreme;
                model.heads = 1;
                // Of what is not refused, all sums are true.
                if config.validate().is_ok() {
                    let memory = Memory::of_step(&config);
                    assert!(memory.total() > memory.weights, "{extreme} {change}");
                    assert!(memory.require("it", Some(memory.total())).is_ok());
                    let error = memory.require("it", Some(memory.total() - 1)).unwrap_err();
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                    checked += 1;
                }
                // The library may be asked for tokens before it is asked for a check.
                if config.validate_model().is_ok() {
                    assert!(Memory::of_step(&config).total() > 0);
                }
            }
        }
        assert!(checked > 15, "{checked}");
    }

    #[test]
    fn masks_that_shrink_are_counted_where_they_are_largest() {
        let moving = |algorithm: &str| {
            let mut config = config(0.75);
            for set in ["train.steps=100", "sparsity.update={freq=10, stop=91}"] {
                config.set(set).unwrap();
            }
            config.set(&format!("sparsity.algorithm={algorithm}")).unwrap();
            config.validate().unwrap();
            Memory::of_step(&config)
        };
        let (dense, sparse) = (Memory::of_step(&config(0.0)), Memory::of_step(&config(0.75)));
        assert_eq!(moving("set"), sparse);
        let rigl = moving("rigl");
        assert_eq!(Memory { masks: 0, ..rigl }, sparse);
        let kept = 2 * 12 * 64 * 64 / 4;
        assert_eq!(rigl.masks, kept + 4 * (kept * 3 / 10));
        // At once: dense, and then sparse. Step by step, masks of the first update have plans besides.
        assert_eq!(moving("one-shot"), dense);
        let gmp = moving("gmp");
        assert!(gmp.total() > dense.total() && gmp.weights < dense.weights, "{gmp:?}");
    }

    #[test]
    fn fine_tuning_holds_a_dense_model_and_its_prompt() {
        let task = crate::tasks::task("hoc").unwrap();
        let (mut settings, sparse) = (Settings::new(task), config(0.75));
        settings.set("finetune.prompt_tokens=0").unwrap();
        let bare = Memory::of_tuning(&sparse, &settings);
        assert_eq!(bare, Memory::of_tuning(&config(0.0), &settings));
        settings.set("finetune.prompt_tokens=10").unwrap();
        let prompted = Memory::of_tuning(&sparse, &settings);
        assert_eq!(prompted.moments - bare.moments, 2 * 10 * 64 * VALUE);
        settings.set("finetune.weights=sparse").unwrap();
        assert!(Memory::of_tuning(&sparse, &settings).weights < bare.weights);
        settings.set("finetune.prompt_tokens=9223372036854775807").unwrap();
        assert_eq!(Memory::of_tuning(&sparse, &settings).total(), u64::MAX);
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
