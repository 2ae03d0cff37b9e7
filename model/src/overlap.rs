//! [`while_reducing`]: gradients are added up over ranks while they are computed ([`Reduce::Fast`]).
//!
//! The backward pass comes to the tensors of a model from the last to the first, as they lie in the store. So
//! gradients are held in ranges of some MiB that cut no tensor ([`Layout::buckets`]): those behind a block's first
//! tensor are taken off when the pass leaves the block, and one thread sums them up over all ranks, bucket by bucket,
//! while the pass goes on. Of each bucket every rank owns a part ([`Shards`]), so that links carry both ways all
//! the time; a rank's part of the sum is
//!
//! ```text
//! ((g₀ + g₁) + g₂) + …   gᵣ what rank r has added up of its micro-batches, one after the other
//! ```
//!
//! in whatever order messages arrive: for as many ranks the same bits, and others for another number of them.
//! The token table, which the output head shares, is the first tensor and comes last.
//!
//! That thread alone talks to other ranks, and waits for them: a transport moves nothing in the background.
//!
//! [`Layout::buckets`]: mediswift_engine::Layout::buckets
//! [`Reduce::Fast`]: crate::reduction::Reduce::Fast

use crate::reduction::Shards;
use mediswift_engine::Gradients;
use mediswift_ranks::collectives::reduce_scatter;
use mediswift_ranks::{Lost, Ranks};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

/// Adds `gradients` of all ranks up while `work` still adds to them: it tells the function that it is given from which
/// element on they are final, and at the end all are. Of the sum, each rank gets its own shard.
/// # Errors
/// If a rank is lost. The gradients are gone then.
/// # Panics
/// If `work` tells of gradients that it adds to afterwards, or panics.
pub(crate) fn while_reducing<T>(
    ranks: &dyn Ranks,
    shards: &Shards,
    gradients: &mut Gradients,
    work: impl FnOnce(&mut Gradients, &mut dyn FnMut(usize, &mut Gradients)) -> T,
) -> Result<T, Lost> {
    thread::scope(|scope| {
        let (queue, buckets) = mpsc::channel();
        let summing = scope.spawn(move || sum(ranks, shards, buckets));
        let mut is_final = |from: usize, gradients: &mut Gradients| {
            while let Some(bucket) = gradients.take_last(from) {
                // Whoever has lost a rank takes no more, which is told at the end.
                let _ = queue.send(bucket);
            }
        };
        let done = work(gradients, &mut is_final);
        is_final(0, gradients);
        drop(queue);
        let sums = summing.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        sums.into_iter().rev().for_each(|bucket| gradients.put_back(bucket));
        Ok(done)
    })
}

/// The sums of buckets, which come from the last one to the first.
fn sum(
    ranks: &dyn Ranks,
    shards: &Shards,
    buckets: mpsc::Receiver<Gradients>,
) -> Result<Vec<Gradients>, Lost> {
    let counts = vec![1; ranks.count()];
    let merges: Vec<(usize, usize)> = (1..ranks.count()).map(|rank| (0, rank)).collect();
    let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
    let mut sums = Vec::new();
    for (mut bucket, shards) in buckets.into_iter().zip(shards.ranges().iter().rev()) {
        let [held] = &bucket.held()[..] else { unreachable!("a bucket is one range") };
        let within = |shard: &Range<usize>| shard.start - held.start..shard.end - held.start;
        let shards: Vec<_> = shards.iter().map(within).collect();
        let mut values = [bucket.range_mut(held.clone())];
        reduce_scatter(ranks, &shards, &counts, &mut values, &merges, add)?;
        sums.push(bucket);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduction::Reduce;
    use mediswift_engine::{BLOCK, Layout, Shape};
    use mediswift_ranks::{Faults, Threads};
    use std::sync::Arc;
    use std::time::Duration;

    /// Five tensors in four buckets: the second one is too short for one of its own.
    fn layout() -> Arc<Layout> {
        let lens = [140 * BLOCK + 5, 3 * BLOCK, 130 * BLOCK + 77, 128 * BLOCK, 129 * BLOCK];
        Layout::new(lens.iter().enumerate().map(|(at, &len)| (at.to_string(), Shape::Vector(len))))
    }

    /// What a rank has at a place: numbers whose sums round differently in other orders.
    fn value(rank: usize, at: usize) -> f32 {
        ((at % 1013 * 31 + rank * 17) as f32 * 0.618).sin() * 10f32.powi((rank * 5 % 7) as i32 - 3)
    }

    /// Fills tensors from the last to the first, and tells of each; this rank's shard of the sum.
    fn reduce(ranks: &dyn Ranks, layout: &Arc<Layout>) -> Result<Vec<f32>, Lost> {
        let shards = Shards::new(Reduce::Fast, layout, ranks.count());
        let mut gradients = Gradients::shard(layout, &shards.wholes());
        while_reducing(ranks, &shards, &mut gradients, |gradients, is_final| {
            for (id, place) in layout.iter().collect::<Vec<_>>().into_iter().rev() {
                let at = place.range.start..;
                at.zip(&mut gradients[id]).for_each(|(at, g)| *g = value(ranks.rank(), at));
                is_final(place.range.start, gradients);
            }
        })?;
        assert_eq!(gradients.held(), shards.wholes());
        let own = shards.of(ranks.rank()).into_iter();
        Ok(own.flat_map(|range| gradients.range(range).to_vec()).collect())
    }

    #[test]
    fn sums_have_the_order_of_ranks_however_late_messages_are() {
        let layout = layout();
        assert_eq!(layout.buckets(128 * BLOCK).len(), 4);
        for count in [2, 3, 4] {
            let shards = Shards::new(Reduce::Fast, &layout, count);
            let late = Faults { delay: Duration::from_millis(3), ..Faults::default() };
            for faults in [Faults::default(), late] {
                let sums =
                    Threads::run_with(count, faults, |ranks| reduce(&*ranks, &layout).unwrap());
                for (rank, sum) in sums.iter().enumerate() {
                    let places = shards.of(rank).into_iter().flatten();
                    let is_right = places.zip(sum).all(|(at, sum)| {
                        let inside = layout.iter().any(|(_, place)| place.range.contains(&at));
                        let mut expected = if inside { value(0, at) } else { 0.0 };
                        (1..count)
                            .for_each(|r| expected += if inside { value(r, at) } else { 0.0 });
                        expected.to_bits() == sum.to_bits()
                    });
                    assert!(is_right, "rank {rank} of {count}");
                }
            }
        }
    }

    #[test]
    fn buckets_are_shared_evenly() {
        let layout = layout();
        for count in [2, 3, 4, 7] {
            let shards = Shards::new(Reduce::Fast, &layout, count);
            for parts in shards.ranges() {
                let lens = parts.iter().map(|part| part.len());
                // Borders are those of blocks, and tensors begin at lines.
                assert!(lens.clone().max().unwrap() - lens.min().unwrap() < 2 * BLOCK, "{parts:?}");
            }
        }
        assert_eq!(Shards::new(Reduce::Fast, &layout, 1).ranges(), [layout.shards(1)]);
    }

    #[test]
    fn a_rank_that_is_lost_or_panics_during_a_bucket_ends_the_job_for_all() {
        let layout = layout();
        let patience = Duration::from_millis(300);
        for after in [0, 1, 3, 5] {
            let faults = Faults { silent: Some((1, after)), patience, ..Faults::default() };
            let ends = Threads::run_with(3, faults, |ranks| reduce(&*ranks, &layout).map(drop));
            assert!(ends.iter().all(Result::is_err), "{after}: {ends:?}");
        }
        let ends = std::sync::Mutex::new(Vec::new());
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Threads::run(3, |ranks| {
                if ranks.rank() == 2 {
                    let shards = Shards::new(Reduce::Fast, &layout, 3);
                    let mut gradients = Gradients::shard(&layout, &shards.wholes());
                    let _ = while_reducing(&*ranks, &shards, &mut gradients, |all, is_final| {
                        is_final(shards.wholes()[2].start, all);
                        panic!("it is broken");
                    });
                }
                let end = reduce(&*ranks, &layout).map(drop);
                ends.lock().unwrap().push(end);
            })
        }));
        assert!(ran.is_err());
        let ends = ends.into_inner().unwrap();
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|end| matches!(end, Err(Lost::Ended { rank: 2, .. }))), "{ends:?}");
    }

    #[test]
    #[should_panic(expected = "a shard does not hold other shards")]
    fn what_was_said_to_be_final_cannot_change() {
        let layout = layout();
        Threads::run(2, |ranks| {
            let shards = Shards::new(Reduce::Fast, &layout, 2);
            let mut gradients = Gradients::shard(&layout, &shards.wholes());
            let last = layout.find("4").unwrap();
            let _ = while_reducing(&*ranks, &shards, &mut gradients, |gradients, is_final| {
                is_final(layout.place(last).range.start, gradients);
                gradients[last][0] = 1.0;
            });
        });
    }
}
