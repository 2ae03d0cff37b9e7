//! Initial weights, as GPT-2 and GPT-3 have them.
//!
//! Weights are drawn from N(0, [`STD`]²); the two projections that write into the residual stream
//! (`attn.proj`, `mlp.down`) from N(0, STD² / 2L), so that the sum of 2L of them keeps its variance.
//! Biases start at 0, LayerNorm gains at 1.
//!
//! A value depends only on the seed, the tensor's name and its place in the **dense** matrix, of
//! which a sparse layer keeps a part: sparse and dense twins of one seed start from the same weights
//! where both have them. Every row has a random stream of its own, so rows are drawn in parallel.

use mediswift_engine::Shape;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Standard deviation of weights that do not write into the residual stream.
pub const STD: f64 = 0.02;

/// How the values of a tensor start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal around 0, with the standard deviation [`STD`].
    Weight,
    /// The same for an output projection: [`STD`] / √2L.
    Residual,
}

impl Init {
    /// Writes the initial values of the tensor `name` of that shape, in a model of `layers` blocks, to
    /// `to`: of a sparse one, those of its places.
    /// # Panics
    /// If the shape has not as many values as `to`.
    #[track_caller]
    pub fn fill(self, name: &str, shape: &Shape, layers: usize, seed: u64, mut to: &mut [f32]) {
        assert_eq!(shape.len(), to.len(), "values and shape of '{name}' disagree");
        let std = match self {
            Init::Zeros => return to.fill(0.0),
            Init::Ones => return to.fill(1.0),
            Init::Weight => STD,
            Init::Residual => STD / (2.0 * layers as f64).sqrt(),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mediswift initial weights").update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let key = *hasher.finalize().as_bytes();
        let extents = shape.extents();
        let (rows, columns) = (extents[0], extents.get(1).copied().unwrap_or(1));
        let mut rows: Vec<&mut [f32]> = (0..rows)
            .map(|row| {
                let len = match shape {
                    Shape::Sparse(pattern) => pattern.row(row).len(),
                    _ => columns,
                };
                to.split_off_mut(..len).expect("as many values as the shape has")
            })
            .collect();
        rows.par_iter_mut().enumerate().for_each(|(row, to)| {
            let values = normal_row(key, row, columns, std);
            match shape {
                Shape::Sparse(pattern) => {
                    let kept = pattern.row(row).iter().map(|&column| values[column as usize]);
                    to.iter_mut().zip(kept).for_each(|(to, value)| *to = value);
                }
                _ => to.copy_from_slice(&values),
            }
        });
    }
}

/// Row `row` of a normal matrix, by the Box–Muller transform: two uniforms give two neighbours.
fn normal_row(key: [u8; 32], row: usize, columns: usize, std: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(row as u64);
    let mut uniform = || (f64::from(rng.next_u32()) + 0.5) / (u32::MAX as f64 + 1.0);
    let mut values = Vec::with_capacity(columns + 1);
    while values.len() < columns {
        let radius = std * (-2.0 * uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform()).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(columns);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_kernels::CsrMatrix;
    use mediswift_kernels::sparse::mask::uniform_random;
    use std::sync::Arc;

    /// Values of a matrix in a model of two blocks.
    fn dense(init: Init, name: &str, rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; rows * columns];
        init.fill(name, &Shape::Matrix(rows, columns), 2, seed, &mut values);
        values
    }

    #[test]
    fn weights_depend_on_seed_name_and_place() {
        let values = |name, rows, seed| dense(Init::Weight, name, rows, 31, seed);
        assert_eq!(values("w", 9, 7)[..], values("w", 10, 7)[..9 * 31]);
        assert_ne!(values("w", 9, 7)[..], values("w", 9, 8)[..]);
        assert_ne!(values("w", 9, 7)[..], values("v", 9, 7)[..]);
        assert_ne!(values("w", 9, 7)[..31], values("w", 9, 7)[31..62]);
    }

    #[test]
    fn sparse_tensors_start_with_the_weights_of_dense_ones() {
        let pattern = uniform_random(9, 31, 0.7, 3).unwrap();
        let dense = dense(Init::Weight, "w", 9, 31, 7);
        let kept = CsrMatrix::from_dense(Arc::new(pattern), &dense).unwrap();
        let mut values = vec![0.0; kept.values().len()];
        let shape = Shape::Sparse(kept.pattern().clone());
        Init::Weight.fill("w", &shape, 2, 7, &mut values);
        assert_eq!(values, kept.values());
        for (init, value) in [(Init::Ones, 1.0), (Init::Zeros, 0.0)] {
            init.fill("w", &shape, 2, 7, &mut values);
            assert!(values.iter().all(|&x| x == value));
        }
    }

    #[test]
    fn weights_have_the_moments_of_a_normal_distribution() {
        let values = dense(Init::Residual, "w", 100, 501, 1);
        let moment = |power: i32| {
            values.iter().map(|&x| (f64::from(x) / 0.01).powi(power)).sum::<f64>()
                / values.len() as f64
        };
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(power) - expected).abs() < 0.1, "moment {power}: {}", moment(power));
        }
    }
}
