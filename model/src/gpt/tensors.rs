//! Tensors as a configuration wants them: their shapes, their first values, and what is refused.

use crate::architecture::{Slot, slots};
use crate::config::Config;
use crate::error::Error;
use crate::sparsity::{Targets, layer_mask};
use mediswift_engine::{Parameters, Shape, Tensor};
use mediswift_kernels::AlignedBuffer;
use std::sync::Arc;

/// Gives all tensors but a soft prompt their first values, in the model that `config` describes.
pub(crate) fn initialise(parameters: &mut Parameters, config: &Config, seed: u64) {
    let layout = Arc::clone(parameters.layout());
    for slot in slots(&config.model, 0) {
        let id = layout.find(&slot.name).expect("all tensors are there");
        slot.initialise(seed, &layout.place(id).shape, &mut parameters[id]);
    }
}

impl Slot {
    /// The sparsity that the tensor is to have in the end; without one it is dense.
    pub(crate) fn sparsity(&self, targets: &Targets<'_>) -> Option<f64> {
        self.linear_weight().map(|weight| targets.of(&weight)).filter(|sparsity| *sparsity > 0.0)
    }

    /// The shape that a run begins with, with the mask that the policy of `config` makes of the dense values.
    /// # Errors
    /// If the layer is too large for 32-bit indices.
    pub(crate) fn shape(
        &self,
        config: &Config,
        targets: &Targets<'_>,
        values: impl FnOnce() -> AlignedBuffer,
    ) -> Result<Shape, Error> {
        let target = self.sparsity(targets).unwrap_or(0.0);
        let sparsity = config.sparsity.algorithm.sparsity(target, 0.0);
        if sparsity == 0.0 {
            return Ok(self.dense_shape());
        }
        let weight = self.linear_weight().expect("sparsity applies");
        Ok(Shape::Sparse(Arc::new(layer_mask(&config.sparsity, &weight, sparsity, values)?)))
    }

    /// The first values, dense.
    pub(crate) fn initial_values(&self, seed: u64) -> AlignedBuffer {
        let mut values = AlignedBuffer::zeros(self.len());
        self.initialise(seed, &self.dense_shape(), &mut values);
        values
    }

    /// Checks a tensor from outside.
    pub(super) fn check(
        &self,
        config: &Config,
        targets: &Targets<'_>,
        tensor: Tensor<'_>,
    ) -> Result<(), Error> {
        let (name, Tensor { shape, values, .. }) = (self.name.clone(), tensor);
        let (found, expected) = (shape.extents(), self.extents.clone());
        if found != expected {
            return Err(Error::TensorShape { name, found, expected });
        }
        let may_be_dense = |target| config.sparsity.algorithm.sparsity(target, 0.0) == 0.0;
        match (matches!(shape, Shape::Sparse(_)), self.sparsity(targets)) {
            (false, Some(sparsity)) if !may_be_dense(sparsity) => {
                return Err(Error::SparsityOfTensor { name, sparsity, has_mask: false });
            }
            (true, None) => {
                return Err(Error::SparsityOfTensor { name, sparsity: 0.0, has_mask: true });
            }
            _ => {}
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(position) => {
                let value = values[position];
                Err(Error::NonFinite { what: "weight", name, position, value })
            }
            None => Ok(()),
        }
    }
}
