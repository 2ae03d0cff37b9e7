//! Masks: which weights to keep. To add a family, write a function and one line in [`MASKS`].

mod drawing;
mod skewed;
mod structured;
mod uniform;

pub use self::drawing::{kept, sample};
pub use self::skewed::{block_biased, column_skewed, row_skewed};
pub use self::structured::{constant_fan_in, n_of_m, whole_blocks};
pub use self::uniform::uniform_random;

use super::{PatternError, SparsePattern};

/// A way to draw a mask: (rows, columns, sparsity, seed), with exactly [`kept`] non-zeros.
pub type Draw = fn(usize, usize, f64, u64) -> Result<SparsePattern, PatternError>;

/// Masks that are drawn alike.
#[derive(Debug)]
pub struct MaskFamily {
    /// What settings and the command line call it.
    pub name: &'static str,
    /// Draws one.
    pub draw: Draw,
}

const fn family(name: &'static str, draw: Draw) -> MaskFamily {
    MaskFamily { name, draw }
}

/// Uniformly random masks: what the paper prunes by.
pub const RANDOM: MaskFamily = family("random", uniform_random);

/// Every mask that a study can ask for by name: uniform, uneven, and with structure.
pub static MASKS: &[MaskFamily] = &[
    RANDOM,
    family("row-skewed", row_skewed),
    family("column-skewed", column_skewed),
    family("block", block_biased),
    family("fan-in", constant_fan_in),
    family("4x1", whole_blocks::<4, 1>),
    family("1x4", whole_blocks::<1, 4>),
    family("2x2", whole_blocks::<2, 2>),
    family("4x4", whole_blocks::<4, 4>),
    family("n:m", n_of_m),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_seeds_matter() {
        for (rows, columns) in [(1, 1), (7, 13), (64, 100), (0, 5)] {
            for sparsity in [0.0, 0.3, 0.5, 0.75, 0.99, 1.0] {
                for MaskFamily { name, draw } in MASKS {
                    let mask = draw(rows, columns, sparsity, 1).unwrap();
                    assert_eq!(mask.nnz(), kept(rows * columns, sparsity), "{name}");
                    assert_eq!((mask.rows(), mask.columns()), (rows, columns), "{name}");
                }
            }
        }
        for MaskFamily { name, draw } in MASKS {
            let mask = |seed| draw(20, 20, 0.5, seed).unwrap();
            assert_eq!(mask(1), mask(1), "{name}");
            assert_ne!(mask(1), mask(2), "{name}");
        }
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut hits = [0u32; 12];
        for seed in 0..6000 {
            let mask = uniform_random(3, 4, 0.75, seed).unwrap();
            for row in 0..3 {
                for &column in mask.row(row) {
                    hits[row * 4 + column as usize] += 1;
                }
            }
        }
        // 1500 expected, standard deviation ≈ 34.
        assert!(hits.iter().all(|&h| (1330..1670).contains(&h)), "{hits:?}");
    }
}
