//! Initial weights: those of GPT-2 and GPT-3 where models are as wide as theirs.
//!
//! Weights are drawn from N(0, σ²), σ = [`STD`] or, where that is more, √(2/5d) of the width d (Nguyen and
//! Salazar, *Transformers without Tears*, 2019): from d = 1000 on, as in the paper's models, σ is 0.02.
//! The two projections that write into the residual stream (`attn.proj`, `mlp.down`) are drawn from
//! N(0, σ² / 2L), so that the sum of 2L of them keeps its variance; positions from N(0, STD²) at any width.
//! Biases start at 0, LayerNorm gains at 1.
//!
//! Why the width: Adam moves every weight by about the learning rate in a step, whatever its size. With
//! σ = 0.02 at d = 128, the first 30 steps of a warm-up to 10⁻³ turn the direction that all tokens have in
//! common over in a single step: the loss rises by up to 2.5 nats, the gradient's norm is 20 to 100, and
//! PyTorch does the same. Started at √(2/5d), no step does.
//!
//! A value depends only on the seed, the tensor's name and its place in the **dense** matrix, of
//! which a sparse layer keeps a part: sparse and dense twins of one seed start from the same weights
//! where both have them. Every row has a random stream of its own, so rows are drawn in parallel.

use mediswift_engine::Shape;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Standard deviation of the weights of wide models that do not write into the residual stream, and of
/// positions.
pub const STD: f64 = 0.02;

/// What a model's first values depend on.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Transformer blocks, L.
    pub layers: usize,
    /// Width of the residual stream, d.
    pub d_model: usize,
}

impl Size {
    /// Standard deviation of weights that do not write into the residual stream, σ.
    pub fn std(self) -> f64 {
        STD.max((0.4 / self.d_model as f64).sqrt())
    }
}

/// How the values of a tensor start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal around 0, with the standard deviation [`Size::std`].
    Weight,
    /// The same for an output projection: [`Size::std`] / √2L.
    Residual,
    /// Normal around 0, with the standard deviation [`STD`].
    Position,
}

impl Init {
    /// Writes the initial values of the tensor `name` of that shape, in a model of that size, to `to`: of
    /// a sparse one, those of its places.
    /// # Panics
    /// If the shape has not as many values as `to`.
    #[track_caller]
    pub fn fill(self, name: &str, shape: &Shape, size: Size, seed: u64, mut to: &mut [f32]) {
        assert_eq!(shape.len(), to.len(), "values and shape of '{name}' disagree");
        let std = match self {
            Init::Zeros => return to.fill(0.0),
            Init::Ones => return to.fill(1.0),
            Init::Weight => size.std(),
            Init::Residual => size.std() / (2.0 * size.layers as f64).sqrt(),
            Init::Position => STD,
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

    /// Two blocks of a width at which σ is 0.02.
    const WIDE: Size = Size { layers: 2, d_model: 1024 };

    /// Values of a matrix in a model of that size.
    fn dense(init: Init, name: &str, rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; rows * columns];
        init.fill(name, &Shape::Matrix(rows, columns), WIDE, seed, &mut values);
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
        Init::Weight.fill("w", &shape, WIDE, 7, &mut values);
        assert_eq!(values, kept.values());
        for (init, value) in [(Init::Ones, 1.0), (Init::Zeros, 0.0)] {
            init.fill("w", &shape, WIDE, 7, &mut values);
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

    #[test]
    fn narrow_models_start_wider_and_the_papers_as_gpt_3() {
        let std = |d_model| Size { layers: 2, d_model }.std();
        assert_eq!([1000, 1024, 1536, 2048].map(std), [STD; 4]);
        assert!((std(128) - 0.0559).abs() < 1e-4, "{}", std(128));
        assert!(std(64) > std(128) && std(768) > STD);
    }
}
