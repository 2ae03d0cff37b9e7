//! Logits, gradients and ten optimiser steps against PyTorch (`tests/goldens/README.md`).

use mediswift_engine::{Arena, Gradients, Parameters, Shape, TokenLayout};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::{CsrMatrix, Precision, SparsePattern};
use mediswift_model::Config;
use mediswift_model::gpt::{Gpt, TokenBatch};
use mediswift_model::optimisation::Optimisation;
use safetensors::{Dtype, SafeTensors};
use std::sync::Arc;

const STEPS: usize = 10;
const SEQUENCES: usize = 3;
const CONTEXT: usize = 37;

/// A golden file: what is trained, and what comes of it in one precision.
#[derive(Clone, Copy, Debug)]
struct Variant {
    weights: &'static str,
    precision: Precision,
}

const DENSE: Variant = Variant { weights: "dense", precision: Precision::F32 };
const SPARSE: Variant = Variant { weights: "sparse75", precision: Precision::F32 };
const DENSE_BF16: Variant = Variant { precision: Precision::Bf16, ..DENSE };
const SPARSE_BF16: Variant = Variant { precision: Precision::Bf16, ..SPARSE };

/// How far from a golden file what is computed may be, relative to its size.
struct Tolerances {
    /// Of the first step.
    logits: f64,
    loss: f64,
    gradients: f64,
    /// Of all ten.
    losses: f64,
    grad_norms: f64,
    weights: f64,
}

const EXACT: Tolerances = Tolerances {
    logits: 1e-5,
    loss: 1e-5,
    gradients: 1e-3,
    losses: 1e-4,
    grad_norms: 1e-3,
    weights: 1e-3,
};
/// Sums that differ in their last bits may be rounded to neighbouring numbers of 16 bits, by 2⁻⁸ of one, and
/// what follows differs from there on. What rounding as a whole changes is more: see below.
const ROUNDED: Tolerances = Tolerances {
    logits: 2e-3,
    loss: 1e-4,
    gradients: 5e-3,
    losses: 1e-3,
    grad_norms: 1e-2,
    weights: 1e-2,
};

fn config(variant: Variant) -> Config {
    let mut config = Config::from_preset("micro").unwrap();
    for assignment in [
        "model.d_model=48",
        "model.heads=3",
        "model.context=40",
        "model.vocabulary=101",
        "train.steps=10",
        "train.batch=3",
        "train.micro_batch=1",
        "train.context=37",
        "train.lr=1e-2",
        "train.warmup_fraction=0.2",
    ] {
        config.set(assignment).unwrap();
    }
    config.sparsity.sparsity = if variant.weights == "dense" { 0.0 } else { 0.75 };
    config.train.precision = variant.precision;
    config.validate().unwrap();
    config
}

/// What is trained, and what comes of it.
struct Golden {
    config: Config,
    given: Vec<u8>,
    results: Vec<u8>,
}

impl Golden {
    fn open(variant: Variant) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens");
        let read = |name: String| std::fs::read(format!("{folder}/{name}.safetensors")).unwrap();
        let Variant { weights, precision } = variant;
        let results = match precision {
            Precision::F32 => read(weights.to_string()),
            // Attention is rounded where that is faster.
            precision if IsaKind::active().unwrap().multiplies(precision) => {
                read(format!("{weights}-{precision}-attention"))
            }
            precision => read(format!("{weights}-{precision}")),
        };
        Self { config: config(variant), given: read(weights.to_string()), results }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.given).unwrap()
    }

    fn parameter(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        words(file.tensor(&format!("param.{name}")).unwrap().data())
            .map(f32::from_le_bytes)
            .collect()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.results).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        words(tensor.data()).map(f32::from_le_bytes).collect()
    }

    fn mask(&self, name: &str) -> Option<Arc<SparsePattern>> {
        let file = self.file();
        let mask = file.tensor(&format!("mask.{name}")).ok()?;
        let [rows, columns] = mask.shape()[..] else { panic!("{name} is no matrix") };
        let dense: Vec<f32> = mask.data().iter().map(|&kept| f32::from(kept)).collect();
        let dense = ndarray::ArrayView2::from_shape((rows, columns), &dense).unwrap();
        Some(CsrMatrix::from_ndarray(dense).unwrap().pattern().clone())
    }

    /// `values` of the weight `name` as the model stores them.
    fn stored(&self, name: &str, values: Vec<f32>) -> Vec<f32> {
        match self.mask(name) {
            Some(pattern) => CsrMatrix::from_dense(pattern, &values).unwrap().values().to_vec(),
            None => values,
        }
    }

    fn model(&self) -> Gpt {
        let mut tensors = Vec::new();
        for (name, tensor) in self.file().tensors() {
            let Some(name) = name.strip_prefix("param.") else { continue };
            let shape = match (self.mask(name), tensor.shape()) {
                (Some(pattern), _) => Shape::Sparse(pattern),
                (None, &[n]) => Shape::Vector(n),
                (None, &[rows, columns]) => Shape::Matrix(rows, columns),
                (None, shape) => panic!("{name} has shape {shape:?}"),
            };
            let values = self.stored(name, self.parameter(name));
            tensors.push((name.to_string(), shape, values));
        }
        Gpt::from_parameters(&self.config, Parameters::from_tensors(tensors)).unwrap()
    }

    /// The batch of step `step`, one sequence each.
    fn micro_batches(&self, step: usize) -> Vec<TokenBatch> {
        let file = self.file();
        let ids: Vec<u32> =
            words(file.tensor("ids").unwrap().data()).map(u32::from_le_bytes).collect();
        ids.chunks_exact(CONTEXT + 1)
            .skip(step * SEQUENCES)
            .take(SEQUENCES)
            .map(|ids| TokenBatch {
                layout: TokenLayout { sequences: 1, context: CONTEXT },
                ids: ids[..CONTEXT].to_vec(),
                targets: ids[1..].to_vec(),
                weights: None,
            })
            .collect()
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|word| word.try_into().unwrap())
}

/// ‖got − expected‖ / ‖expected‖.
fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |xs: &mut dyn Iterator<Item = f64>| xs.map(|x| x * x).sum::<f64>().sqrt();
    let difference =
        norm(&mut got.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&x| f64::from(x)))
}

fn logits_and_gradients(variant: Variant, tolerances: &Tolerances) {
    let golden = Golden::open(variant);
    let gpt = golden.model();
    let batches = golden.micro_batches(0);
    let expected = golden.values("logits");
    for (batch, expected) in batches.iter().zip(expected.chunks_exact(CONTEXT * 101)) {
        let logits = gpt.logits(&batch.ids, batch.layout).unwrap();
        let error = relative_error(&logits, expected);
        assert!(error < tolerances.logits, "logits are off by {error:e}");
    }

    let mut gradients = Gradients::zeros(gpt.parameters().layout());
    let mut arena = Arena::default();
    let tokens = (SEQUENCES * CONTEXT) as f64;
    let mut loss = 0.0;
    for batch in &batches {
        loss += gpt.loss_and_gradients(batch, tokens, &mut gradients, &mut arena).unwrap().sum;
    }
    let expected = f64::from(golden.values("losses")[0]);
    let error = (loss / tokens / expected - 1.0).abs();
    assert!(error < tolerances.loss, "{} is not {expected}", loss / tokens);
    for (id, parameter) in gpt.parameters().iter() {
        let name = parameter.name;
        let expected = golden.stored(name, golden.values(&format!("grad.{name}")));
        let error = relative_error(&gradients[id], &expected);
        assert!(error < tolerances.gradients, "gradient of {name} is off by {error:e}");
    }
}

fn ten_steps(variant: Variant, tolerances: &Tolerances) {
    let golden = Golden::open(variant);
    let mut optimisation = Optimisation::new(golden.model(), &golden.config).unwrap();
    let expected = |name| golden.values(name);
    for step in 0..STEPS {
        let done = optimisation.step(&golden.micro_batches(step), &mut ()).unwrap();
        for (name, found, tolerance) in [
            ("losses", done.loss.mean(), tolerances.losses),
            ("grad_norms", done.grad_norm, tolerances.grad_norms),
            ("lrs", done.lr, 1e-6),
        ] {
            let expected = f64::from(expected(name)[step]);
            let error = (found / expected - 1.0).abs();
            assert!(error < tolerance, "{name}[{step}] is {found}, not {expected}");
        }
    }
    for (id, parameter) in optimisation.gpt().parameters().iter() {
        let name = parameter.name;
        // The key bias has no gradient in exact arithmetic, so AdamW turns rounding into steps.
        if !name.ends_with("attn.qkv.bias") {
            let expected = golden.stored(name, golden.values(&format!("final.{name}")));
            let error = relative_error(&optimisation.gpt().parameters()[id], &expected);
            assert!(error < tolerances.weights, "{name} is off by {error:e} after {STEPS} steps");
        }
    }
}

#[test]
fn dense_logits_and_gradients() {
    logits_and_gradients(DENSE, &EXACT);
}

#[test]
fn sparse_logits_and_gradients() {
    logits_and_gradients(SPARSE, &EXACT);
}

#[test]
fn dense_training() {
    ten_steps(DENSE, &EXACT);
}

#[test]
fn sparse_training() {
    ten_steps(SPARSE, &EXACT);
}

#[test]
fn logits_and_gradients_of_bf16() {
    logits_and_gradients(DENSE_BF16, &ROUNDED);
    logits_and_gradients(SPARSE_BF16, &ROUNDED);
}

#[test]
fn training_in_bf16() {
    ten_steps(DENSE_BF16, &ROUNDED);
    ten_steps(SPARSE_BF16, &ROUNDED);
}

/// Otherwise the tolerances of 16 bits would tell nothing.
#[test]
fn rounding_changes_more_than_it_may_be_missed_by() {
    for (exact, rounded) in [(DENSE, DENSE_BF16), (SPARSE, SPARSE_BF16)] {
        let [exact, rounded] =
            [exact, rounded].map(|variant| Golden::open(variant).values("logits"));
        let change = relative_error(&rounded, &exact);
        assert!(change > 1.5 * ROUNDED.logits, "logits change by {change:e}");
    }
}
