//! Which weights sparsity applies to.

use crate::architecture::{Slot, slots};
use crate::config::ModelConfig;
use mediswift_kernels::sparse::mask::kept;
use serde::Serialize;

/// A weight that sparsity applies to: of a linear layer of a block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearWeight {
    /// Its name.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Equal masks on top of each other: 3 for a joint query-key-value projection, else 1.
    pub parts: usize,
}

impl LinearWeight {
    /// Weights in its dense form.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Weights kept at a sparsity: exactly those of its mask.
    pub fn kept(&self, sparsity: f64) -> usize {
        self.parts * kept(self.len() / self.parts, sparsity)
    }
}

impl Slot {
    /// The tensor as a weight, if sparsity applies to it.
    pub(crate) fn linear_weight(&self) -> Option<LinearWeight> {
        let (name, parts) = (self.name.clone(), self.masks());
        let weight =
            || LinearWeight { name, rows: self.extents[0], columns: self.extents[1], parts };
        (parts > 0).then(weight)
    }
}

/// Every weight of a model that sparsity applies to, block by block.
pub fn linear_weights(size: &ModelConfig) -> impl Iterator<Item = LinearWeight> {
    slots(size, 0).into_iter().filter_map(|slot| slot.linear_weight())
}

/// Sparsity of one layer, as wanted and as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSparsity {
    /// Name of the weight.
    pub name: String,
    /// Sparsity in the configuration.
    pub target: f64,
    /// Weights left out as a fraction of all.
    pub actual: f64,
    /// Weights kept.
    pub nnz: usize,
    /// Weights, zeros included.
    #[serde(skip)]
    pub weights: usize,
}
