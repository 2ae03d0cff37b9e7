//! Checks of operators: gradients by central differences of an `f64` reference, to compare backward
//! passes with, and [`check`], which holds a whole operator to its [`OpCase`](crate::ops::OpCase).

mod case;

pub use case::{Passes, assert_padding, check};

use mediswift_kernels::AlignedBuffer;

/// Reproducible values in [−1, 1): a hash of the seed and of the place.
pub fn numbers(len: usize, seed: u32) -> AlignedBuffer {
    let number = |i: usize| {
        let mut x = (i as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        }
        ((x ^ (x >> 15)) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(number).collect()
}

/// ∂f/∂x for every element of every tensor: (f(x + h) − f(x − h)) / 2h with h = 10⁻⁵, which leaves
/// about ten correct digits of smooth functions of order one.
pub fn central_differences(tensors: &[Vec<f64>], f: impl Fn(&[Vec<f64>]) -> f64) -> Vec<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let mut moved = tensors.to_vec();
    let mut gradients = Vec::with_capacity(tensors.len());
    for (which, tensor) in tensors.iter().enumerate() {
        let mut gradient = Vec::with_capacity(tensor.len());
        for (at, &x) in tensor.iter().enumerate() {
            let mut value = |x: f64| {
                moved[which][at] = x;
                f(&moved)
            };
            gradient.push((value(x + STEP) - value(x - STEP)) / (2.0 * STEP));
            moved[which][at] = x;
        }
        gradients.push(gradient);
    }
    gradients
}

/// Asserts that every element is within `tolerance` of the largest magnitude of the expected tensor
/// (plus 10⁻⁶, where all of it vanishes).
/// # Panics
/// If one is not, naming `what` and the place.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: different lengths");
    let scale = expected.iter().fold(0.0, |scale: f64, x| scale.max(x.abs()));
    for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= tolerance * scale + 1e-6, "{what}[{at}] is {got}, not {expected}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_equal_known_derivatives() {
        let tensors = vec![vec![0.5, -1.0], vec![2.0]];
        let gradients =
            central_differences(&tensors, |t| t[0][0].sin() * t[0][1] + t[1][0].powi(3));
        let expected = [vec![-(0.5f64.cos()), 0.5f64.sin()], vec![12.0]];
        for (gradient, expected) in gradients.iter().flatten().zip(expected.iter().flatten()) {
            assert!((gradient - expected).abs() < 1e-8, "{gradient} != {expected}");
        }
    }

    #[test]
    fn numbers_fill_their_range() {
        let values = numbers(10_000, 3);
        let mean = values.iter().sum::<f32>() / 1e4;
        let square = values.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(values.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!(mean.abs() < 0.02 && (square - 1.0 / 3.0).abs() < 0.01, "{mean}, {square}");
        assert_ne!(values[..10], numbers(10, 4)[..]);
    }

    #[test]
    #[should_panic(expected = "dx[1] is 2, not 1")]
    fn a_wrong_element_is_named() {
        assert_close("dx", &[1.0, 2.0], &[1.0, 1.0], 1e-3);
    }
}
