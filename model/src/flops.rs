//! Floating-point operations of training, in closed form.
//!
//! With L layers of width d, h heads, vocabulary V, S tokens per sequence, sparsity s, and a
//! multiply-add counted as two, one sequence costs forward ("Hoffmann et al., Appendix F", as
//! MediSwift's Table 6 uses it, with the embedding matrices):
//!
//! | part | forward FLOPs |
//! |---|---|
//! | linear layers | L · 2 · S · 12d² · (1 − s) |
//! | attention: logits and weighted sum, not halved for causality | L · 4 · S² · d |
//! | softmax | L · 3 · h · S² |
//! | input embedding, as a product with one-hot rows | E = 2 · S · V · d |
//! | output head | E |
//!
//! The backward pass costs twice the forward pass. Table 6 follows if the input embedding is the
//! exception, with a backward pass of E: nothing is propagated to its input ([`Convention::Table6`]).
//! [`Convention::Hoffmann`] makes no exception and misses the printed values by 2 to 8 %.
//!
//! [`Convention::Executed`] counts what the engine computes: embeddings are look-ups, attention
//! skips what causality masks, and LayerNorms, GELU, biases, residuals and the loss count too. It
//! asks the operators of the forward pass for their own costs.
//!
//! Where groups give layers sparsities of their own, L · 12d² (1 − s) is the number of weights kept; where masks
//! shrink during a run, it is that of a mean step. Gradients of whole matrices, by which masks may move, are counted
//! where they are executed.

use crate::config::{Config, ModelConfig};
use crate::named::named;
use crate::presets::PAPER_VOCABULARY;
use crate::rehearsal::{LINEAR, Rehearsal};
use crate::sparsity::{Growth, MaskState, Targets, Timing, Trajectory, linear_weights};
use mediswift_engine::ops::CausalAttention;
use mediswift_engine::{Op, TokenLayout};
use mediswift_kernels::Precision;

named! {
    /// What counts as an operation.
    pub enum Convention: "convention" {
        /// The accounting that reproduces the paper's Table 6.
        Table6 = "table6",
        /// Backward = 2 × forward everywhere.
        Hoffmann = "hoffmann",
        /// The operators that the engine runs.
        Executed = "executed",
    }
}

/// An amount of training, all that its FLOPs depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Size of the model.
    pub model: ModelConfig,
    /// Weights kept in the linear layers of all blocks.
    pub kept: usize,
    /// Tokens per sequence.
    pub context: usize,
    /// Sequences trained on.
    pub sequences: usize,
    /// FLOPs of gradients of whole matrices, by which masks move; the engine executes them, the paper's models do not.
    pub mask_updates: f64,
}

/// FLOPs, forward and backward together.
#[derive(Clone, Debug, PartialEq)]
pub struct Flops {
    /// All of them.
    pub total: f64,
    /// What they are spent on.
    pub parts: Vec<(&'static str, f64)>,
}

impl Workload {
    /// One optimiser step of a run, with the masks that it ends with. Without a vocabulary yet, the paper's is assumed.
    pub fn of_step(config: &Config) -> Self {
        let (model, train) = (&config.model, &config.train);
        let vocabulary = if model.vocabulary == 0 { PAPER_VOCABULARY } else { model.vocabulary };
        Self {
            model: ModelConfig { vocabulary, ..model.clone() },
            kept: config.sparsity.kept(model),
            context: train.context,
            sequences: train.batch,
            mask_updates: 0.0,
        }
    }

    /// All optimiser steps of a run. Where masks shrink, weights are those of a mean step.
    pub fn of_run(config: &Config) -> Self {
        let (step, steps) = (Self::of_step(config), config.train.steps);
        let (sequences, spent) = (step.sequences.saturating_mul(steps), Spent::new(config));
        let kept = (spent.trajectory.sum(steps) / steps as f64).round() as usize;
        Self { sequences, kept, mask_updates: spent.updates(steps), ..step }
    }

    /// The same work with a dense model.
    pub fn dense(&self) -> Self {
        let kept = linear_weights(&self.model).map(|weight| weight.len()).sum();
        Self { kept, mask_updates: 0.0, ..self.clone() }
    }

    /// FLOPs of this work.
    pub fn flops(&self, convention: Convention) -> Flops {
        let parts = match convention {
            Convention::Table6 => self.papers(2.0),
            Convention::Hoffmann => self.papers(3.0),
            Convention::Executed => self.executed(),
        };
        Flops { total: parts.iter().map(|(_, flops)| flops).sum(), parts }
    }

    /// FLOPs as a fraction of the dense model's.
    pub fn ratio_to_dense(&self, convention: Convention) -> f64 {
        self.flops(convention).total / self.dense().flops(convention).total
    }

    /// How many times faster than the dense model a step would be if time were FLOPs.
    pub fn theoretical_speedup(&self, convention: Convention) -> f64 {
        1.0 / self.ratio_to_dense(convention)
    }

    /// The paper's accounting, with the input embedding counted `embedding` times.
    fn papers(&self, embedding: f64) -> Vec<(&'static str, f64)> {
        let [layers, d, heads, vocabulary, context, sequences] = self.extents();
        let linear = 2.0 * context * self.kept as f64;
        let attention = layers * 4.0 * context * context * d;
        let softmax = layers * 3.0 * heads * context * context;
        let matrix = 2.0 * context * vocabulary * d;
        vec![
            ("linear layers", sequences * 3.0 * linear),
            ("attention", sequences * 3.0 * attention),
            ("softmax", sequences * 3.0 * softmax),
            ("input embedding", sequences * embedding * matrix),
            ("output head", sequences * 3.0 * matrix),
        ]
    }

    /// Operator by operator, as the forward pass applies them.
    fn executed(&self) -> Vec<(&'static str, f64)> {
        let one = TokenLayout { sequences: 1, context: self.context };
        let ModelConfig { layers, d_model, heads, .. } = self.model;
        let mut parts = Rehearsal::new(&self.model, Precision::F32, one, self.kept).flops();
        // The paper has the softmax by itself.
        let attention = CausalAttention { heads, features: d_model, precision: Precision::F32 };
        let softmax = (3 * layers as u64 * attention.softmax_flops(one)) as f64;
        parts.push(("softmax", softmax));
        for (name, flops) in &mut parts {
            let known = NAMES.iter().find(|(operator, _)| operator == name);
            *flops -= if *name == attention.name() { softmax } else { 0.0 };
            *name = known.map_or(*name, |(_, part)| part);
            *flops *= self.sequences as f64;
        }
        if self.mask_updates > 0.0 {
            parts.push(("mask updates", self.mask_updates));
        }
        let place = |name| NAMES.iter().position(|(_, part)| *part == name);
        parts.sort_by_key(|(name, _)| place(*name).unwrap_or(NAMES.len()));
        parts
    }

    fn extents(&self) -> [f64; 6] {
        let ModelConfig { layers, d_model, heads, vocabulary, .. } = self.model;
        [layers, d_model, heads, vocabulary, self.context, self.sequences]
            .map(|extent| extent as f64)
    }
}

/// What a run has spent after so many steps, as the engine executes it and as its settings plan it.
pub(crate) struct Spent {
    /// FLOPs of a step without the products with linear layers' weights.
    fixed: f64,
    /// FLOPs of a step for each weight.
    per_weight: f64,
    trajectory: Trajectory,
    timing: Timing,
    /// FLOPs of a mask update.
    per_update: f64,
}

impl Spent {
    /// By those settings.
    pub fn new(config: &Config) -> Self {
        let tokens = config.train.batch as f64 * config.train.context as f64;
        let none = Workload { kept: 0, ..Workload::of_step(config) };
        Self {
            fixed: none.flops(Convention::Executed).total,
            per_weight: 6.0 * tokens,
            trajectory: Trajectory::new(config),
            timing: Timing::new(&config.sparsity, config.train.steps),
            per_update: of_mask_update(config),
        }
    }

    /// FLOPs of all steps until each of some: their numbers, rising, with the weights that are kept after those with an
    /// update of masks. So past steps count as they were, whatever is planned now.
    pub fn by_steps(&self, steps: impl Iterator<Item = (usize, Option<usize>)>) -> Vec<f64> {
        let (mut kept, mut weight_steps, mut updates) = (self.trajectory.sum(1), 0.0, 0.0);
        let mut before = 0.0;
        let until = |(step, moved): (usize, Option<usize>)| {
            let step = step as f64;
            weight_steps += (step - before) * kept;
            before = step;
            // A step with an update is still made with the mask of before.
            if let Some(now) = moved {
                (kept, updates) = (now as f64, updates + self.per_update);
            }
            step * self.fixed + self.weights(weight_steps) + updates
        };
        steps.map(until).collect()
    }

    fn updates(&self, steps: usize) -> f64 {
        self.timing.updates_until(steps) as f64 * self.per_update
    }

    fn weights(&self, weight_steps: f64) -> f64 {
        self.per_weight * weight_steps
    }

    /// FLOPs of so many steps in which masks moved as they did.
    pub fn by_masks(&self, steps: usize, masks: MaskState) -> f64 {
        let updates = masks.updates as f64 * self.per_update;
        steps as f64 * self.fixed + self.weights(masks.weight_steps as f64) + updates
    }
}

/// FLOPs of the gradients of whole matrices that an update of masks takes, if it does: those of the first micro-batch.
fn of_mask_update(config: &Config) -> f64 {
    if config.sparsity.algorithm.growth() != Growth::Gradient {
        return 0.0;
    }
    let targets = Targets::new(&config.sparsity, &config.model);
    let moving = linear_weights(&config.model).filter(|weight| targets.of(weight) > 0.0);
    let places: usize = moving.map(|weight| weight.len()).sum();
    let train = &config.train;
    2.0 * places as f64 * train.micro_batch.min(train.batch) as f64 * train.context as f64
}

/// What the parts are called that the operators of these names execute, in the order of reports.
const NAMES: [(&str, &str); 8] = [
    (LINEAR, LINEAR),
    ("attention", "attention"),
    ("softmax", "softmax"),
    ("embedding", "input embedding"),
    ("output head", "output head"),
    ("layer norm", "layer norms"),
    ("gelu", "gelu"),
    ("add", "residuals"),
];

/// One entry of the paper's Table 6: FLOPs of a whole pre-training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Table6Entry {
    /// Model.
    pub preset: &'static str,
    /// Its sparsity.
    pub sparsity: f64,
    /// FLOPs as printed.
    pub printed: f64,
    /// Ratio to the dense model as printed.
    pub printed_ratio: f64,
    /// FLOPs by [`Convention::Table6`].
    pub computed: f64,
    /// Ratio to the dense model by [`Convention::Table6`].
    pub computed_ratio: f64,
    /// `computed / printed − 1`.
    pub relative_difference: f64,
}

/// The paper's Table 6 beside ours.
pub fn table6() -> Vec<Table6Entry> {
    const PRINTED: [(&str, f64, f64, f64); 9] = [
        ("med", 0.0, 2.677e20, 1.00),
        ("med", 0.5, 1.727e20, 0.64),
        ("med", 0.75, 1.252e20, 0.46),
        ("large", 0.0, 4.248e20, 1.00),
        ("large", 0.5, 2.645e20, 0.62),
        ("large", 0.75, 1.840e20, 0.43),
        ("xl", 0.0, 9.148e20, 1.00),
        ("xl", 0.5, 5.348e20, 0.58),
        ("xl", 0.75, 3.448e20, 0.38),
    ];
    let entry = |(name, sparsity, printed, printed_ratio)| {
        let mut config = Config::from_preset(name).expect("the paper's models are presets");
        config.sparsity.sparsity = sparsity;
        let work = Workload::of_run(&config);
        let computed = work.flops(Convention::Table6).total;
        Table6Entry {
            preset: name,
            sparsity,
            printed,
            printed_ratio,
            computed,
            computed_ratio: work.ratio_to_dense(Convention::Table6),
            relative_difference: computed / printed - 1.0,
        }
    };
    PRINTED.map(entry).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::Gpt;
    use crate::named::Named;
    use crate::presets::PRESETS;
    use mediswift_engine::TokenLayout;

    #[test]
    fn what_is_executed_is_the_sum_over_the_operators() {
        for preset in PRESETS {
            for (sparsity, context, sequences) in [(0.0, 17, 1), (0.5, 33, 3), (0.77, 16, 2)] {
                let mut config = Config::from_preset(preset.name).unwrap();
                config.set("sparsity.groups=[{param_filter=['*.1.mlp.*'], sparsity=0.9}]").unwrap();
                // The structure counts, not the width: large models would take long to make.
                config.model.d_model = preset.d_model.min(8 * preset.heads);
                config.model.vocabulary = 61;
                config.model.context = 40;
                config.sparsity.sparsity = sparsity;
                config.train.context = context;
                config.train.batch = sequences;
                let cost = Gpt::new(&config).unwrap().cost(TokenLayout { sequences, context });
                let executed = (cost.forward_flops + cost.backward_flops) as f64;
                let work = Workload::of_step(&config);
                let flops = work.flops(Convention::Executed);
                assert_eq!(flops.total, executed, "{} at {sparsity}", preset.name);
                assert_eq!(flops.parts, closed_form(&work), "{} at {sparsity}", preset.name);
            }
        }
    }

    /// What the operators' documentation adds up to.
    fn closed_form(work: &Workload) -> Vec<(&'static str, f64)> {
        let [layers, d, heads, vocabulary, context, sequences] = work.extents();
        let tokens = sequences * context;
        // Query and key pairs that causality leaves.
        let pairs = sequences * context * (context + 1.0) / 2.0;
        // Query, key and value, output projection, then both matrices of the MLP.
        let outputs = layers * (3.0 + 1.0 + 4.0 + 1.0) * d;
        vec![
            ("linear layers", tokens * (6.0 * work.kept as f64 + 2.0 * outputs)),
            ("attention", layers * 3.0 * 4.0 * pairs * d),
            ("softmax", layers * 3.0 * 3.0 * pairs * heads),
            ("input embedding", tokens * 3.0 * d),
            ("output head", tokens * (6.0 * vocabulary * d + 6.0 * vocabulary)),
            ("layer norms", (2.0 * layers + 1.0) * tokens * (21.0 * d + 7.0)),
            ("gelu", layers * tokens * 24.0 * 4.0 * d),
            ("residuals", layers * 2.0 * tokens * d),
        ]
    }

    #[test]
    fn the_accounting_reproduces_table_6() {
        let entries = table6();
        assert_eq!(entries.len(), 9);
        for entry in entries {
            assert!(entry.relative_difference.abs() < 0.002, "{entry:?}");
            assert!((entry.computed_ratio - entry.printed_ratio).abs() < 0.01, "{entry:?}");
        }
    }

    #[test]
    fn a_literal_factor_of_two_does_not() {
        for entry in table6() {
            let mut config = Config::from_preset(entry.preset).unwrap();
            config.sparsity.sparsity = entry.sparsity;
            let hoffmann = Workload::of_run(&config).flops(Convention::Hoffmann).total;
            let excess = hoffmann / entry.printed - 1.0;
            assert!((0.015..0.08).contains(&excess), "{entry:?}: {excess}");
        }
    }

    #[test]
    fn sparsity_saves_more_in_larger_models_and_never_more_than_its_share() {
        for convention in Convention::all() {
            let speedups: Vec<f64> = PRESETS
                .iter()
                .map(|preset| {
                    let mut config = Config::from_preset(preset.name).unwrap();
                    assert_eq!(Workload::of_step(&config).theoretical_speedup(convention), 1.0);
                    config.sparsity.sparsity = 0.75;
                    Workload::of_step(&config).theoretical_speedup(convention)
                })
                .collect();
            assert!(speedups.iter().all(|&s| s > 1.0 && s < 4.0), "{convention:?}: {speedups:?}");
            assert!(speedups.is_sorted(), "{convention:?}: {speedups:?}");
        }
    }

    #[test]
    fn conventions_are_found_by_name() {
        for convention in Convention::all() {
            assert_eq!(Convention::named(convention.name(), "flops").unwrap(), convention);
        }
        let error = Convention::named("table5", "flops").unwrap_err().to_string();
        assert!(error.contains("did you mean 'table6'?"), "{error}");
    }
}
