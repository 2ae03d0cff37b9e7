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
//! The sum of every aligned run of 2ʲ leaves is a [`Node`] of this tree whoever computes it: ranks that
//! share the leaves add their nodes ([`crate::reduction`]) and get the bits of one process alone.
//!
//! Leaves arrive one by one and meet like the bits of a counter that is incremented: two sums of 2ʲ
//! make one of 2ʲ⁺¹. Of n leaves, at most ⌊log₂ n⌋ + 1 gradients are held, and their buffers serve the
//! following steps.

use mediswift_engine::{BLOCK, Gradients, Layout};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Micro-batches of a leaf: as many, a power of two, as make at most `leaves` leaves.
pub fn leaf(micro_batches: usize, leaves: usize) -> usize {
    micro_batches.div_ceil(leaves).next_power_of_two()
}

/// A sum of leaves that is a node of the tree: of an aligned run of them, or of all from somewhere to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its first leaf.
    pub first: usize,
    /// How many it has.
    pub leaves: usize,
}

impl Node {
    /// Whether both are the halves of an aligned run.
    fn meets(self, next: Node) -> bool {
        self.leaves == next.leaves && self.first.is_multiple_of(2 * self.leaves)
    }

    fn with(self, next: Node) -> Node {
        Node { leaves: self.leaves + next.leaves, ..self }
    }
}

/// The nodes that whoever adds the leaves of that range has at the end.
pub fn nodes(leaves: Range<usize>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for first in leaves {
        let mut node = Node { first, leaves: 1 };
        while let Some(&last) = nodes.last()
            && Node::meets(last, node)
        {
            node = last.with(node);
            nodes.pop();
        }
        nodes.push(node);
    }
    nodes
}

/// How nodes that follow each other make their sum: pairs of places, in order; each time the node at the second
/// is added to the one at the first, and the first one's place holds both. The last sum is at place 0.
pub fn merges(nodes: &[Node]) -> Vec<(usize, usize)> {
    let (mut merges, mut open) = (Vec::new(), Vec::<(Node, usize)>::new());
    for (at, &node) in nodes.iter().enumerate() {
        open.push((node, at));
        while let [.., (left, to), (right, from)] = open[..]
            && left.meets(right)
        {
            merges.push((to, from));
            open.truncate(open.len() - 2);
            open.push((left.with(right), to));
        }
    }
    let rest: Vec<usize> = open.iter().map(|&(_, at)| at).collect();
    merges.extend(rest.windows(2).rev().map(|pair| (pair[0], pair[1])));
    merges
}

/// Gradients added so far, as a binary counter.
#[derive(Debug, Default)]
pub struct GradientTree {
    /// Sums of leaves, in order.
    sums: Vec<(Node, Gradients)>,
    /// The next leaf.
    next: usize,
    /// Buffers without a use at the moment.
    spare: Vec<Gradients>,
}

impl GradientTree {
    /// A sum of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a sum at that leaf; what was added before is forgotten.
    pub fn start(&mut self, leaf: usize) {
        self.spare.extend(self.sums.drain(..).map(|(_, gradients)| gradients));
        self.next = leaf;
    }

    /// Zeros to accumulate the next leaf in, a buffer used before if there is one.
    /// Layout and ranges ([`Gradients::shard`]) must be the same at every call; to be pushed, a gradient has all in
    /// one range.
    pub fn zeros(&mut self, layout: &Arc<Layout>, ranges: &[Range<usize>]) -> Gradients {
        let Some(mut gradients) = self.spare.pop() else {
            return Gradients::shard(layout, ranges);
        };
        gradients.iter_mut().for_each(|(_, g)| {
            g.par_chunks_mut(BLOCK).with_max_len(1).for_each(|block| block.fill(0.0));
        });
        gradients
    }

    /// Adds the gradient of the next leaf.
    pub fn push(&mut self, mut gradient: Gradients) {
        let mut node = Node { first: self.next, leaves: 1 };
        while self.sums.last().is_some_and(|(last, _)| last.meets(node)) {
            (node, gradient) = self.join_last(node, gradient);
        }
        self.sums.push((node, gradient));
        self.next += 1;
    }

    /// The sum of all gradients pushed, if there are any. Hand it back to [`GradientTree::recycle`] after
    /// use.
    pub fn finish(&mut self) -> Option<Gradients> {
        let (mut node, mut total) = self.sums.pop()?;
        while !self.sums.is_empty() {
            (node, total) = self.join_last(node, total);
        }
        Some(total)
    }

    /// The nodes of the leaves that were pushed, in order, with their sums.
    pub fn take(&mut self) -> Vec<(Node, Gradients)> {
        std::mem::take(&mut self.sums)
    }

    /// Keeps the buffers of a sum for later micro-batches.
    pub fn recycle(&mut self, gradients: Gradients) {
        self.spare.push(gradients);
    }

    /// The last of the sums, taken off, plus `right`.
    fn join_last(&mut self, node: Node, right: Gradients) -> (Node, Gradients) {
        let (before, mut left) = self.sums.pop().expect("a sum to join");
        add(left.whole_mut(), right.range(0..right.layout().len()));
        self.spare.push(right);
        (before.with(node), left)
    }
}

/// left += right, block by block in parallel.
pub fn add(left: &mut [f32], right: &[f32]) {
    let blocks = left.par_chunks_mut(BLOCK).zip(right.par_chunks(BLOCK)).with_max_len(1);
    blocks.for_each(|(left, right)| {
        left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_engine::Shape;

    #[test]
    fn leaves_are_few_and_whole_powers_of_two() {
        for (micro_batches, expected) in [(1, 1), (8, 1), (9, 2), (16, 2), (17, 4), (512, 64)] {
            assert_eq!(leaf(micro_batches, 8), expected);
        }
        assert_eq!([leaf(512, 512), leaf(512, 100), leaf(3, 1)], [1, 8, 4]);
    }

    #[test]
    fn whoever_shares_the_leaves_has_nodes_of_the_one_tree() {
        for all in 1..=20 {
            // All cuts into three parts that follow each other.
            for (from, to) in (0..=all).flat_map(|from| (from..=all).map(move |to| (from, to))) {
                let parts = [0..from, from..to, to..all];
                let parts: Vec<Node> = parts.into_iter().flat_map(nodes).collect();
                let mut sums: Vec<String> = parts.iter().map(|n| text(n.first, n.leaves)).collect();
                for (to, from) in merges(&parts) {
                    sums[to] = format!("({}+{})", sums[to], sums[from]);
                }
                assert_eq!(sums[0], text(0, all), "{parts:?}");
            }
        }
    }

    /// The definition, as text.
    fn text(first: usize, leaves: usize) -> String {
        if leaves == 1 {
            return first.to_string();
        }
        let half = leaves.next_power_of_two() / 2;
        format!("({}+{})", text(first, half), text(first + half, leaves - half))
    }

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

    fn whole(gradients: &Gradients) -> &[f32] {
        gradients.range(0..gradients.layout().len())
    }

    fn bits(gradients: &Gradients) -> Vec<u32> {
        gradients.iter().flat_map(|(_, g)| g.values.iter().map(|x| x.to_bits())).collect()
    }

    #[test]
    fn sums_equal_the_recursive_definition_bit_for_bit() {
        let layout = layout();
        let mut tree = GradientTree::new();
        for count in 1..=17 {
            tree.start(0);
            for leaf in 0..count {
                let mut leaf_gradient = tree.zeros(&layout, &layout.shards(1));
                assert!(leaf_gradient.iter().all(|(_, g)| g.values.iter().all(|&x| x == 0.0)));
                add(leaf_gradient.whole_mut(), whole(&gradient(&layout, leaf)));
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
        add(node.whole_mut(), whole(&recursive(&layout, 8, 8)));
        assert_eq!(bits(&node), bits(&recursive(&layout, 0, 16)));
    }
}
