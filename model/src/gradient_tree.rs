//! [`GradientTree`]: the sum of micro-batch gradients, in an order that is part of the definition.
//!
//! Floating-point sums depend on their order, so the order is fixed. Some micro-batches in a row
//! ([`leaf`]) add to one buffer, one after the other: a leaf. With g₀ … gₙ₋₁ the leaves of one optimiser
//! step,
//!
//! ```text
//! sum(g₀ … gₙ₋₁) = sum(g₀ … gₖ₋₁) + sum(gₖ … gₙ₋₁),   k the largest power of two below n
//! ```
//!
//! The sum of every aligned run of 2ʲ leaves is a node of this tree whoever computes it: ranks that
//! share the leaves and add their nodes get the bits of one process alone.
//!
//! Leaves arrive one by one and meet like the bits of a counter that is incremented: two sums of 2ʲ
//! make one of 2ʲ⁺¹. At most ⌊log₂ n⌋ + 1 gradients are held, and their buffers serve the following
//! steps.

use mediswift_engine::{Gradients, Layout};
use rayon::prelude::*;
use std::sync::Arc;

/// What up to eight ranks need to share a step; every doubling would cost the memory of another set of
/// gradients.
const MOST_LEAVES: usize = 8;

/// Micro-batches of a leaf: as many, a power of two, as make at most eight leaves.
pub fn leaf(micro_batches: usize) -> usize {
    micro_batches.div_ceil(MOST_LEAVES).next_power_of_two()
}

/// Values per parallel task.
const BLOCK: usize = 1 << 14;

/// Gradients added so far, as a binary counter.
#[derive(Debug, Default)]
pub struct GradientTree {
    /// Sums of 2ʲ leaves, j falling; one for every bit of `leaves`.
    sums: Vec<Gradients>,
    /// Leaves added.
    leaves: usize,
    /// Buffers without a use at the moment.
    spare: Vec<Gradients>,
}

impl GradientTree {
    /// A sum of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Zeros to accumulate the next leaf in, a buffer used before if there is one.
    /// `layout` must be the same at every call.
    pub fn zeros(&mut self, layout: &Arc<Layout>) -> Gradients {
        let Some(mut gradients) = self.spare.pop() else {
            return Gradients::zeros(layout);
        };
        gradients.iter_mut().for_each(|(_, g)| {
            g.par_chunks_mut(BLOCK).with_max_len(1).for_each(|block| block.fill(0.0));
        });
        gradients
    }

    /// Adds the gradient of the next leaf.
    pub fn push(&mut self, mut gradient: Gradients) {
        for _ in 0..self.leaves.trailing_ones() {
            gradient = self.join_last(gradient);
        }
        self.sums.push(gradient);
        self.leaves += 1;
    }

    /// The sum of all gradients pushed, if there are any; the next one starts a new sum. Hand it
    /// back to [`GradientTree::recycle`] after use.
    pub fn finish(&mut self) -> Option<Gradients> {
        self.leaves = 0;
        let mut total = self.sums.pop()?;
        while !self.sums.is_empty() {
            total = self.join_last(total);
        }
        Some(total)
    }

    /// Keeps the buffers of a sum for later micro-batches.
    pub fn recycle(&mut self, gradients: Gradients) {
        self.spare.push(gradients);
    }

    /// The last of the sums, taken off, plus `right`.
    fn join_last(&mut self, right: Gradients) -> Gradients {
        let mut left = self.sums.pop().expect("a sum to join");
        add(&mut left, &right);
        self.spare.push(right);
        left
    }
}

/// left += right.
fn add(left: &mut Gradients, right: &Gradients) {
    let blocks: Vec<_> = left
        .iter_mut()
        .zip(right.iter())
        .flat_map(|((_, left), (_, right))| left.chunks_mut(BLOCK).zip(right.values.chunks(BLOCK)))
        .collect();
    blocks.into_par_iter().with_max_len(1).for_each(|(left, right)| {
        left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_few_and_whole_powers_of_two() {
        for (micro_batches, expected) in [(1, 1), (8, 1), (9, 2), (16, 2), (17, 4), (512, 64)] {
            assert_eq!(leaf(micro_batches), expected);
        }
    }
    use mediswift_engine::Shape;

    fn layout() -> Arc<Layout> {
        Layout::new([("a", Shape::Vector(BLOCK + 5)), ("b", Shape::Vector(3))])
    }

    /// Gradient of micro-batch `leaf`, with numbers whose sums round differently in other orders.
    fn gradient(layout: &Arc<Layout>, leaf: usize) -> Gradients {
        let mut gradients = Gradients::zeros(layout);
        for (_, g) in gradients.iter_mut() {
            for (i, x) in g.iter_mut().enumerate() {
                let angle = (i * 31 + leaf * 17) as f32 * 0.618;
                *x = angle.sin() * 10f32.powi((leaf * 5 % 7) as i32 - 3);
            }
        }
        gradients
    }

    /// The definition.
    fn recursive(layout: &Arc<Layout>, first: usize, count: usize) -> Gradients {
        if count == 1 {
            return gradient(layout, first);
        }
        let half = count.next_power_of_two() / 2;
        let mut left = recursive(layout, first, half);
        let right = recursive(layout, first + half, count - half);
        for ((_, left), (_, right)) in left.iter_mut().zip(right.iter()) {
            left.iter_mut().zip(right.values).for_each(|(left, right)| *left += right);
        }
        left
    }

    fn bits(gradients: &Gradients) -> Vec<u32> {
        gradients.iter().flat_map(|(_, g)| g.values.iter().map(|x| x.to_bits())).collect()
    }

    #[test]
    fn sums_equal_the_recursive_definition_bit_for_bit() {
        let layout = layout();
        let mut tree = GradientTree::new();
        for count in 1..=17 {
            for leaf in 0..count {
                let mut leaf_gradient = tree.zeros(&layout);
                assert!(leaf_gradient.iter().all(|(_, g)| g.values.iter().all(|&x| x == 0.0)));
                add(&mut leaf_gradient, &gradient(&layout, leaf));
                tree.push(leaf_gradient);
            }
            let total = tree.finish().unwrap();
            assert_eq!(bits(&total), bits(&recursive(&layout, 0, count)), "{count} leaves");
            tree.recycle(total);
        }
        // The counter of 16 leaves is one sum, and the 16th arrives at 4 sums: 5 buffers in all.
        assert_eq!(tree.spare.len(), 5);
        assert!(tree.finish().is_none());
    }

    #[test]
    fn aligned_runs_are_nodes_of_the_whole_sum() {
        let layout = layout();
        let mut node = recursive(&layout, 0, 8);
        add(&mut node, &recursive(&layout, 8, 8));
        assert_eq!(bits(&node), bits(&recursive(&layout, 0, 16)));
    }
}
