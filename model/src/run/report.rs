//! [`TrainingReport`]: what came of a run.

use crate::reduction::Reduce;
use crate::sparsity::LayerSparsity;
use serde::Serialize;

/// The result of a run: `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingReport {
    /// Optimiser steps done.
    pub step: usize,
    /// Mean loss of the last step's batch, in nats per token; NaN, `null` in the file, if its log is lost.
    pub train_loss: f64,
    /// Mean loss on the validation windows, in nats per token.
    pub val_loss: f64,
    /// Tokens per second of training; evaluating and saving are not counted.
    pub tokens_per_second: f64,
    /// Floating-point operations of all training steps: the exact work of every operator, and of the gradients by which
    /// masks move.
    pub flops: f64,
    /// BLAKE3 over all parameters in name order.
    pub weights_hash: String,
    /// Stored parameters.
    pub parameters: usize,
    /// Stored weights of the layers that sparsity applies to.
    pub nnz: usize,
    /// Sparsity of every such layer.
    pub layers: Vec<LayerSparsity>,
    /// How often masks have moved, where they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_updates: Option<u64>,
    /// How ranks have added up their gradients: the faster way if any of them were.
    pub reduce: Reduce,
}

impl TrainingReport {
    /// Weights of the layers that sparsity applies to, zeros included.
    pub fn linear_weights(&self) -> f64 {
        self.layers.iter().map(|layer| layer.weights as f64).sum()
    }

    /// The fraction of these weights that the settings left out.
    pub fn target_sparsity(&self) -> f64 {
        let wanted: f64 = self.layers.iter().map(|layer| layer.target * layer.weights as f64).sum();
        wanted / self.linear_weights()
    }

    /// The fraction that the masks leave out.
    pub fn actual_sparsity(&self) -> f64 {
        1.0 - self.nnz as f64 / self.linear_weights()
    }
}
