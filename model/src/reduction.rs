//! The sum of gradients over ranks: every rank gets its shard of the sum that one process would have.
//!
//! Each rank has added the gradients of a contiguous share of a step's leaves, so what it holds are nodes of
//! the tree of all leaves ([`crate::gradient_tree`]). Ranks exchange the parts of them that are each other's shards
//! ([`mediswift_ranks::collectives::reduce_scatter`]), and add what they get in the order of the tree. MPI's own sums
//! promise no order.
//!
//! Ranks hold one node each if leaves and ranks are powers of two; where shares are uneven, a rank may hold
//! several nodes and sends each.
//!
//! So it is by default, [`Reduce::Exact`]. What is done instead for the sake of time is in [`crate::overlap`], and
//! what each of the two makes of a store's ranges is here ([`Shards`]).

use crate::error::Error;
use crate::gradient_tree::{GradientTree, Node, add, merges, nodes};
use crate::named::named;
use mediswift_engine::{BLOCK, Gradients, Layout};
use mediswift_ranks::Ranks;
use mediswift_ranks::collectives::reduce_scatter;
use std::ops::Range;

named! {
    /// How ranks add up their gradients.
    #[derive(Default)]
    pub enum Reduce: "way to add up gradients" {
        /// After the backward passes, in the order of one process: the same bits for any number of ranks.
        #[default]
        Exact = "exact",
        /// During the last backward pass, in the order of ranks: the same bits for the same number of them.
        Fast = "fast",
    }
}

impl Reduce {
    /// What so many ranks do: one has nothing to add.
    pub fn among(self, ranks: usize) -> Self {
        if ranks < 2 { Self::Exact } else { self }
    }
}

/// Elements of a bucket of [`Reduce::Fast`]: 8 MiB, but four blocks for every rank at least.
fn bucket(ranks: usize) -> usize {
    (128 * BLOCK).max(4 * BLOCK * ranks)
}

/// What of all stores each rank owns: of each of some ranges that follow each other, a part.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    /// The parts of all ranks, range by range.
    ranges: Vec<Vec<Range<usize>>>,
}

impl Shards {
    /// One part of the whole store, or one of every bucket: so the ranks have as much to do with each.
    pub fn new(reduce: Reduce, layout: &Layout, ranks: usize) -> Self {
        let ranges = match reduce.among(ranks) {
            Reduce::Exact => vec![layout.shards(ranks)],
            Reduce::Fast => {
                let buckets = layout.buckets(bucket(ranks)).into_iter();
                buckets.map(|bucket| layout.shards_of(bucket, ranks)).collect()
            }
        };
        Self { ranges }
    }

    /// The parts of all ranks, range by range.
    pub fn ranges(&self) -> &[Vec<Range<usize>>] {
        &self.ranges
    }

    /// The ranges themselves.
    pub fn wholes(&self) -> Vec<Range<usize>> {
        let ends = self.ranges.iter().map(|parts| (parts.first(), parts.last()));
        ends.filter_map(|(first, last)| Some(first?.start..last?.end)).collect()
    }

    /// The parts that all ranks have of a tensor in that range, from its start.
    /// # Panics
    /// If the tensor lies in several of the ranges.
    #[track_caller]
    pub fn within(&self, tensor: &Range<usize>) -> Vec<Range<usize>> {
        let holds = |parts: &&Vec<Range<usize>>| {
            let (first, last) = (parts.first(), parts.last());
            first.is_some_and(|first| first.start <= tensor.start)
                && last.is_some_and(|last| tensor.end <= last.end)
        };
        let parts = self.ranges.iter().find(holds).expect("no range cuts a tensor");
        let clamped = |at: usize| at.clamp(tensor.start, tensor.end) - tensor.start;
        parts.iter().map(|part| clamped(part.start)..clamped(part.end)).collect()
    }

    /// The parts of one rank.
    pub fn of(&self, rank: usize) -> Vec<Range<usize>> {
        self.ranges.iter().map(|parts| parts[rank].clone()).collect()
    }
}

/// The leaves of one rank, as even as they can be.
pub fn share(leaves: usize, count: usize, rank: usize) -> Range<usize> {
    leaves * rank / count..leaves * (rank + 1) / count
}

/// Adds up what all ranks have pushed to their trees, a step of so many leaves; only this rank's shard of
/// the result holds the sum.
/// # Errors
/// If a rank is lost.
/// # Panics
/// If a rank has not pushed the leaves of its [`share`], or that is empty.
pub fn reduce(
    ranks: &dyn Ranks,
    leaves: usize,
    shards: &[Range<usize>],
    tree: &mut GradientTree,
) -> Result<Gradients, Error> {
    let (rank, count) = (ranks.rank(), ranks.count());
    if count == 1 {
        return Ok(tree.finish().expect("a step has a leaf"));
    }
    let of_ranks: Vec<Vec<Node>> =
        (0..count).map(|rank| nodes(share(leaves, count, rank))).collect();
    let (mine, mut sums): (Vec<Node>, Vec<Gradients>) = tree.take().into_iter().unzip();
    assert_eq!(mine, of_ranks[rank], "the leaves of this rank's share");
    let counts: Vec<usize> = of_ranks.iter().map(Vec::len).collect();
    let mut buffers: Vec<&mut [f32]> = sums.iter_mut().map(Gradients::whole_mut).collect();
    let merges = merges(&of_ranks.concat());
    reduce_scatter(ranks, shards, &counts, &mut buffers, &merges, add)?;
    let mut sums = sums.into_iter();
    let sum = sums.next().expect("a rank has leaves");
    sums.for_each(|rest| tree.recycle(rest));
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_engine::{BLOCK, Layout, Shape};
    use mediswift_ranks::Threads;
    use mediswift_ranks::collectives::LARGEST_PART;
    use std::sync::Arc;

    fn layout() -> Arc<Layout> {
        let tensors =
            [("a", 3 * BLOCK + 5), ("b", 3), ("c", LARGEST_PART / 4 + 2 * BLOCK), ("d", 70)];
        Layout::new(tensors.map(|(name, len)| (name, Shape::Vector(len))))
    }

    /// Numbers whose sums round differently in other orders.
    fn gradient(tree: &mut GradientTree, layout: &Arc<Layout>, leaf: usize) -> Gradients {
        let mut gradients = tree.zeros(layout, &layout.shards(1));
        for (_, g) in gradients.iter_mut() {
            for (i, x) in g.iter_mut().enumerate() {
                let angle = (i * 31 + leaf * 17) as f32 * 0.618;
                *x = angle.sin() * 10f32.powi((leaf * 5 % 7) as i32 - 3);
            }
        }
        gradients
    }

    #[test]
    fn any_number_of_ranks_gives_the_bits_of_one() {
        let layout = layout();
        for leaves in [1, 2, 3, 5, 8] {
            let sum = |ranks: &dyn Ranks| {
                let shards = layout.shards(ranks.count());
                let mut tree = GradientTree::new();
                let mut bits = Vec::new();
                // Twice: the buffers of the first step serve the second.
                for _ in 0..2 {
                    let share = share(leaves, ranks.count(), ranks.rank());
                    tree.start(share.start);
                    for leaf in share {
                        let gradient = gradient(&mut tree, &layout, leaf);
                        tree.push(gradient);
                    }
                    let sum = reduce(ranks, leaves, &shards, &mut tree).unwrap();
                    bits = sum
                        .range(shards[ranks.rank()].clone())
                        .iter()
                        .map(|x| x.to_bits())
                        .collect();
                    tree.recycle(sum);
                }
                (bits, ranks.traffic().sent)
            };
            let (alone, _) = sum(&mediswift_ranks::Alone);
            for count in 2..=leaves {
                let shards = Threads::run(count, |ranks| sum(&*ranks));
                let bits: Vec<u32> = shards.iter().flat_map(|(bits, _)| bits.clone()).collect();
                assert!(bits == alone, "{leaves} leaves, {count} ranks");
                if leaves.is_power_of_two() && count.is_power_of_two() {
                    // Two steps, 4 bytes an element; a shard may be a block longer than an even one.
                    let sent: u64 = shards.iter().map(|(_, sent)| sent).sum();
                    assert_eq!(sent, (2 * 4 * layout.len() * (count - 1)) as u64);
                }
            }
        }
    }
}
