//! Magnitude pruning: the largest weights stay. Of a model that was trained elsewhere, these carry
//! most of what it learnt; of initial weights, it is Cerebras' `topk`.

use super::policy::MaskPolicy;
use super::selection::largest;
use mediswift_kernels::sparse::mask::kept;
use mediswift_kernels::{PatternError, SparsePattern};

/// The weights of largest magnitude; of equal ones, those that come first.
pub(crate) struct Magnitude;

impl MaskPolicy for Magnitude {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn mask<'v>(
        &self,
        rows: usize,
        columns: usize,
        sparsity: f64,
        _: u64,
        values: &dyn Fn() -> &'v [f32],
    ) -> Result<SparsePattern, PatternError> {
        let weights = values();
        let marks = largest(weights, kept(weights.len(), sparsity));
        let (mut row_offsets, mut column_indices) = (vec![0], Vec::new());
        for row in 0..rows {
            let marks = (0..).zip(&marks[row * columns..][..columns]);
            column_indices.extend(marks.filter(|(_, mark)| **mark).map(|(column, _)| column));
            row_offsets.push(column_indices.len() as u32);
        }
        SparsePattern::new(rows, columns, row_offsets, column_indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_and_ties_go_to_the_first() {
        let weights = [1.0, -3.0, 0.5, -1.0, 1.0, 2.0];
        let kept_at = |sparsity| {
            let mask = Magnitude.mask(2, 3, sparsity, 1, &|| &weights).unwrap();
            (0..2).flat_map(|r| mask.row(r).iter().map(move |&c| r * 3 + c as usize)).collect()
        };
        let all: Vec<Vec<usize>> = [1.0, 0.83, 0.66, 0.5, 0.33, 0.17, 0.0].map(kept_at).into();
        let expected: [&[usize]; 7] =
            [&[], &[1], &[1, 5], &[0, 1, 5], &[0, 1, 3, 5], &[0, 1, 3, 4, 5], &[0, 1, 2, 3, 4, 5]];
        assert_eq!(all, expected);
    }
}
