//! Initial weights, as GPT-2 and GPT-3 have them.
//!
//! Weights are drawn from N(0, [`STD`]²); the two projections that write into the residual stream
//! (`attn.proj`, `mlp.down`) from N(0, STD² / 2L), so that the sum of 2L of them keeps its variance.
//! Biases start at 0, LayerNorm gains at 1.
//!
//! A value depends only on the seed, the tensor's name and its place in the **dense** matrix: every
//! row has a random stream of its own, which draws all columns whether a mask keeps them or not.
//! Sparse and dense twins of one seed therefore start from the same weights where both have them,
//! and rows are drawn in parallel.

use mediswift_engine::Shape;
use mediswift_kernels::AlignedBuffer;
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
    /// Normal around 0, with this standard deviation.
    Normal(f64),
}

impl Init {
    /// Standard deviation of an output projection in a model of `layers` blocks.
    pub fn residual(layers: usize) -> Self {
        Self::Normal(STD / (2.0 * layers as f64).sqrt())
    }

    /// The initial values of the tensor `name`.
    pub fn values(self, name: &str, shape: &Shape, seed: u64) -> AlignedBuffer {
        let std = match self {
            Init::Zeros => return AlignedBuffer::zeros(shape.len()),
            Init::Ones => return std::iter::repeat_n(1.0, shape.len()).collect(),
            Init::Normal(std) => std,
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mediswift initial weights").update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let key = *hasher.finalize().as_bytes();
        let (rows, columns) = match shape {
            Shape::Vector(n) => (1, *n),
            Shape::Matrix(rows, columns) => (*rows, *columns),
            Shape::Sparse(pattern) => (pattern.rows(), pattern.columns()),
        };
        let kept: Vec<Vec<f32>> = (0..rows)
            .into_par_iter()
            .map(|row| {
                let dense = normal_row(key, row, columns, std);
                match shape {
                    Shape::Sparse(pattern) => {
                        pattern.row(row).iter().map(|&column| dense[column as usize]).collect()
                    }
                    _ => dense,
                }
            })
            .collect();
        let mut values = AlignedBuffer::zeros(shape.len());
        let mut rest = &mut values[..];
        for row in kept {
            let (to, tail) = rest.split_at_mut(row.len());
            to.copy_from_slice(&row);
            rest = tail;
        }
        values
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
    use mediswift_kernels::sparse::mask;
    use std::sync::Arc;

    #[test]
    fn sparse_and_dense_twins_start_from_the_same_weights() {
        let dense = Init::Normal(STD).values("w", &Shape::Matrix(9, 31), 7);
        let pattern = Arc::new(mask::uniform_random(9, 31, 0.5, 3).unwrap());
        let sparse = Init::Normal(STD).values("w", &Shape::Sparse(pattern.clone()), 7);
        for row in 0..9 {
            for (at, &column) in pattern.row_range(row).zip(pattern.row(row)) {
                assert_eq!(sparse[at], dense[row * 31 + column as usize]);
            }
        }
        assert_ne!(dense[..], Init::Normal(STD).values("w", &Shape::Matrix(9, 31), 8)[..]);
        assert_ne!(dense[..], Init::Normal(STD).values("v", &Shape::Matrix(9, 31), 7)[..]);
    }

    #[test]
    fn weights_have_the_moments_of_a_normal_distribution() {
        let values = Init::residual(2).values("w", &Shape::Matrix(100, 501), 1);
        let moment = |power: i32| {
            values.iter().map(|&x| (f64::from(x) / 0.01).powi(power)).sum::<f64>()
                / values.len() as f64
        };
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(power) - expected).abs() < 0.1, "moment {power}: {}", moment(power));
        }
    }
}
