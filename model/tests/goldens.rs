//! Logits, gradients and ten optimiser steps against PyTorch (`tests/goldens/README.md`).

use mediswift_engine::{Arena, Gradients, Parameters, Shape, TokenLayout};
use mediswift_kernels::{CsrMatrix, SparsePattern};
use mediswift_model::Config;
use mediswift_model::gpt::{Gpt, TokenBatch};
use mediswift_model::optimisation::Optimisation;
use safetensors::{Dtype, SafeTensors};
use std::sync::Arc;

const STEPS: usize = 10;
const SEQUENCES: usize = 3;
const CONTEXT: usize = 37;

fn config(variant: &str) -> Config {
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
    config.sparsity.sparsity = if variant == "dense" { 0.0 } else { 0.75 };
    config.validate().unwrap();
    config
}

/// One golden file.
struct Golden {
    config: Config,
    bytes: Vec<u8>,
}

impl Golden {
    fn open(variant: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens");
        let bytes = std::fs::read(format!("{folder}/{variant}.safetensors")).unwrap();
        Self { config: config(variant), bytes }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let file = self.file();
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
            let values = self.stored(name, self.values(&format!("param.{name}")));
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

fn logits_and_gradients(variant: &str) {
    let golden = Golden::open(variant);
    let gpt = golden.model();
    let batches = golden.micro_batches(0);
    let expected = golden.values("logits");
    for (batch, expected) in batches.iter().zip(expected.chunks_exact(CONTEXT * 101)) {
        let logits = gpt.logits(&batch.ids, batch.layout).unwrap();
        assert!(relative_error(&logits, expected) < 1e-5);
    }

    let mut gradients = Gradients::zeros(gpt.parameters().layout());
    let mut arena = Arena::default();
    let tokens = (SEQUENCES * CONTEXT) as f64;
    let mut loss = 0.0;
    for batch in &batches {
        loss += gpt.loss_and_gradients(batch, tokens, &mut gradients, &mut arena).unwrap().sum;
    }
    let expected = f64::from(golden.values("losses")[0]);
    assert!((loss / tokens / expected - 1.0).abs() < 1e-5, "{} is not {expected}", loss / tokens);
    for (id, parameter) in gpt.parameters().iter() {
        let name = parameter.name;
        let expected = golden.stored(name, golden.values(&format!("grad.{name}")));
        let error = relative_error(&gradients[id], &expected);
        assert!(error < 1e-3, "gradient of {name} is off by {error:e}");
    }
}

fn ten_steps(variant: &str) {
    let golden = Golden::open(variant);
    let mut optimisation = Optimisation::new(golden.model(), &golden.config).unwrap();
    let expected = |name| golden.values(name);
    for step in 0..STEPS {
        let done = optimisation.step(&golden.micro_batches(step), &mut ()).unwrap();
        for (name, found, tolerance) in [
            ("losses", done.loss.mean(), 1e-4),
            ("grad_norms", done.grad_norm, 1e-3),
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
            assert!(error < 1e-3, "{name} is off by {error:e} after {STEPS} steps");
        }
    }
}

#[test]
fn dense_logits_and_gradients() {
    logits_and_gradients("dense");
}

#[test]
fn sparse_logits_and_gradients() {
    logits_and_gradients("sparse75");
}

#[test]
fn dense_training() {
    ten_steps("dense");
}

#[test]
fn sparse_training() {
    ten_steps("sparse75");
}
