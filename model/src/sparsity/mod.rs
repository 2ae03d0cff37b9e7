//! Which weights exist: mask policies say which ones a sparse layer starts with, mask schedules how that changes.
//!
//! A policy is one file and one entry of `policies`, or a family of the kernels' list of masks;
//! `sparsity.init_method` names it. Every layer
//! draws from a seed of its own, derived from the configured seed and the layer's name, so a mask
//! depends neither on the order in which layers are made nor on how many there are. A schedule is one file and one
//! entry of [`SCHEDULES`]; `sparsity.algorithm` names it.

mod dense_gradient;
mod drawn;
mod frozen;
mod gmp;
mod magnitude;
mod moving;
mod one_shot;
mod policy;
mod rigl;
mod schedule;
mod selection;
mod set;
mod settings;
mod targets;
mod timing;
mod trajectory;
mod weights;

pub(crate) use dense_gradient::{Decided, DenseGradients};
pub use frozen::Static;
pub(crate) use magnitude::Magnitude;
pub(crate) use moving::{Due, MovingMasks};
pub use moving::{MaskState, MaskUpdate};
pub use policy::MaskPolicy;
pub use schedule::{Distribution, DropShape, Growth, MaskSchedule};
pub(crate) use targets::Targets;
pub(crate) use timing::Timing;
pub(crate) use trajectory::Trajectory;
pub use weights::LayerSparsity;
pub(crate) use weights::{LinearWeight, linear_weights};

use crate::config::SparsityConfig;
use crate::error::Error;
use crate::named::Named;
use mediswift_kernels::sparse::mask::MASKS;
use mediswift_kernels::{AlignedBuffer, SparsePattern};
use std::cell::LazyCell;
use std::iter;

/// Every policy.
pub(crate) fn policies() -> impl Iterator<Item = &'static dyn MaskPolicy> {
    let drawn = MASKS.iter().map(|family| family as &dyn MaskPolicy);
    drawn.chain(iter::once(&Magnitude as &dyn MaskPolicy))
}

/// Every schedule, the usual one first.
pub static SCHEDULES: &[&dyn MaskSchedule] =
    &[&Static, &set::Set, &rigl::Rigl, &gmp::Gmp, &one_shot::OneShot];

impl Named for &'static dyn MaskSchedule {
    const WHAT: &'static str = "algorithm";

    fn all() -> impl Iterator<Item = Self> {
        SCHEDULES.iter().copied()
    }

    fn name(&self) -> &'static str {
        MaskSchedule::name(*self)
    }
}

impl Named for &'static dyn MaskPolicy {
    const WHAT: &'static str = "mask policy";

    fn all() -> impl Iterator<Item = Self> {
        policies()
    }

    fn name(&self) -> &'static str {
        MaskPolicy::name(*self)
    }
}

/// The mask of a weight at a sparsity, made of its parts, each with its exact number of non-zeros. `values` returns
/// its dense values, row by row; it is asked if the policy wants them.
/// # Errors
/// If the layer exceeds 32-bit indices.
/// # Panics
/// If the parts do not divide the rows, there is not one value per place, or the sparsity lies outside
/// [0, 1].
#[track_caller]
pub(crate) fn layer_mask(
    config: &SparsityConfig,
    weight: &LinearWeight,
    sparsity: f64,
    values: impl FnOnce() -> AlignedBuffer,
) -> Result<SparsePattern, Error> {
    let &LinearWeight { ref name, rows, columns, parts } = weight;
    assert_eq!(rows % parts, 0, "{rows} rows of '{name}' do not split into {parts} parts");
    let values = LazyCell::new(values);
    let values = || {
        assert_eq!(values.len(), rows * columns, "values and extents of '{name}' disagree");
        &values[..]
    };
    let masks: Result<Vec<_>, _> = (0..parts)
        .map(|part| {
            let seed = layer_seed(config.seed, name, part);
            let count = rows / parts * columns;
            let values = || &values()[part * count..][..count];
            config.init_method.mask(rows / parts, columns, sparsity, seed, &values)
        })
        .collect();
    masks
        .and_then(|masks| SparsePattern::stack(&masks))
        .map_err(|source| Error::Mask { layer: name.to_string(), source })
}

/// Seed of one part of one layer: the first eight bytes of a hash of all that names it.
fn layer_seed(seed: u64, name: &str, part: usize) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mediswift layer mask").update(&seed.to_le_bytes());
    hasher.update(&(part as u64).to_le_bytes()).update(name.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_kernels::sparse::mask::kept;

    fn config(seed: u64) -> SparsityConfig {
        SparsityConfig { seed, ..SparsityConfig::default() }
    }

    fn weight(name: &str, rows: usize, columns: usize, parts: usize) -> LinearWeight {
        LinearWeight { name: name.into(), rows, columns, parts }
    }

    #[test]
    fn every_policy_keeps_the_exact_number_in_every_part() {
        for policy in policies() {
            let config = SparsityConfig { init_method: policy, ..config(1) };
            let values: AlignedBuffer =
                (0..39 * 13).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            let pattern = layer_mask(&config, &weight("qkv", 39, 13, 3), 0.75, || values).unwrap();
            for part in 0..3 {
                let count: usize = (part * 13..(part + 1) * 13).map(|r| pattern.row(r).len()).sum();
                assert_eq!(count, kept(13 * 13, 0.75));
            }
            let part = |part: usize| (part * 13..(part + 1) * 13).map(|r| pattern.row(r));
            assert!(part(0).ne(part(1)), "the parts must differ: {policy:?}");
        }
    }

    #[test]
    fn masks_depend_on_seed_and_name_alone() {
        let values = || AlignedBuffer::zeros(256);
        let mask =
            |seed, name| layer_mask(&config(seed), &weight(name, 16, 16, 1), 0.75, values).unwrap();
        assert_eq!(mask(1, "a"), mask(1, "a"));
        assert_ne!(mask(1, "a"), mask(2, "a"));
        assert_ne!(mask(1, "a"), mask(1, "b"));
    }

    #[test]
    fn an_unknown_policy_names_the_nearest() {
        let found = <&dyn MaskPolicy>::named("randm", "sparsity.init_method");
        let error = found.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("did you mean 'random'?"), "{error}");
    }
}
