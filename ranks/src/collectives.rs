//! What all ranks do together. Everybody calls the same function with arguments that fit.

use crate::{Lost, Ranks};
use std::ops::Range;

/// Most bytes of a message of [`reduce_scatter`]: what has arrived is added while it is in the caches, and needs
/// little room.
pub const LARGEST_PART: usize = 4 << 20;

/// What every rank has to say, in the order of ranks: `mine` is this one's share. Meant for short
/// messages of any length.
///
/// After each of ⌈log₂ n⌉ rounds (Bruck et al., 1997) a rank knows twice as many messages as before: its own and those
/// of the ranks that follow it.
/// # Errors
/// If a rank is lost.
pub fn gather(ranks: &dyn Ranks, mine: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
    let lengths = rounds(ranks, vec![(mine.len() as u64).to_le_bytes().to_vec()], |_| 8)?;
    let lengths: Vec<usize> = lengths
        .iter()
        .map(|bytes| u64::from_le_bytes(bytes[..].try_into().expect("8 bytes")) as usize)
        .collect();
    rounds(ranks, vec![mine.to_vec()], |rank| lengths[rank])
}

/// The rounds of [`gather`], where the length of every rank's message is known.
fn rounds(
    ranks: &dyn Ranks,
    mut known: Vec<Vec<u8>>,
    length: impl Fn(usize) -> usize,
) -> Result<Vec<Vec<u8>>, Lost> {
    let (rank, count) = (ranks.rank(), ranks.count());
    while known.len() < count {
        let distance = known.len();
        let more = distance.min(count - distance);
        let (to, from) = ((rank + count - distance) % count, (rank + distance) % count);
        let lengths: Vec<usize> = (0..more).map(|next| length((from + next) % count)).collect();
        let mut received = vec![0; lengths.iter().sum()];
        ranks.exchange(to, &known[..more].concat(), from, &mut received)?;
        let mut rest = &received[..];
        for length in lengths {
            known.push(rest.split_off(..length).expect("as long as announced").to_vec());
        }
    }
    known.rotate_right(rank);
    Ok(known)
}

/// What rank 0 has to say; what others have is ignored.
/// # Errors
/// If a rank is lost.
pub fn from_first(ranks: &dyn Ranks, message: &[u8]) -> Result<Vec<u8>, Lost> {
    let message = if ranks.rank() == 0 { message } else { &[] };
    Ok(gather(ranks, message)?.swap_remove(0))
}

/// Numbers of every rank, in the order of ranks, bit for bit.
/// # Errors
/// If a rank is lost.
pub fn gather_numbers(ranks: &dyn Ranks, mine: &[f64]) -> Result<Vec<Vec<f64>>, Lost> {
    let all = gather(ranks, bytemuck::cast_slice(mine))?;
    Ok(all.iter().map(|bytes| numbers(bytes)).collect())
}

/// The numbers that somebody else has sent as bytes, wherever these lie.
pub fn numbers(bytes: &[u8]) -> Vec<f64> {
    let eights = bytes.chunks_exact(8);
    eights.map(|eight| f64::from_ne_bytes(eight.try_into().expect("8 bytes"))).collect()
}

/// Fills `buffer`, of which every rank has its own shard, with those of the others.
/// # Errors
/// If a rank is lost.
/// # Panics
/// If there are not as many shards as ranks, or they overlap or end beyond the buffer.
pub fn gather_shards(
    ranks: &dyn Ranks,
    shards: &[Range<usize>],
    buffer: &mut [f32],
) -> Result<(), Lost> {
    let (rank, count) = (ranks.rank(), ranks.count());
    assert_eq!(shards.len(), count, "a shard for every rank");
    for (to, from) in partners(rank, count) {
        let both = [shards[rank].clone(), shards[from].clone()];
        let [mine, theirs] = buffer.get_disjoint_mut(both).expect("shards of their own");
        ranks.exchange(to, bytemuck::cast_slice(mine), from, bytemuck::cast_slice_mut(theirs))?;
    }
    Ok(())
}

/// Adds buffers of all ranks up, of which every rank gets the sum of its own shard: it is then in that shard of the
/// first of `mine`. Rank r has `counts[r]` buffers, at least one. `merges` says in which order sums are made: all
/// buffers, rank after rank, have a number, and of every pair the second is `add`ed to the first, the last time
/// to number 0.
///
/// Of each of its buffers a rank sends every other one the part that is that rank's shard, in messages of
/// at most [`LARGEST_PART`] bytes. With one buffer each that is (n − 1) / n of a buffer, the least there is.
/// # Errors
/// If a rank is lost.
/// # Panics
/// If shards, counts and buffers do not fit each other.
pub fn reduce_scatter(
    ranks: &dyn Ranks,
    shards: &[Range<usize>],
    counts: &[usize],
    mine: &mut [&mut [f32]],
    merges: &[(usize, usize)],
    add: impl Fn(&mut [f32], &[f32]),
) -> Result<(), Lost> {
    let rank = ranks.rank();
    assert_eq!((shards.len(), counts.len()), (ranks.count(), ranks.count()), "one for every rank");
    assert_eq!(mine.len(), counts[rank], "the buffers of this rank");
    let before = |rank: usize| counts[..rank].iter().sum::<usize>();
    let longest = shards.iter().map(Range::len).max().unwrap_or(0);
    let most = longest.min(LARGEST_PART / size_of::<f32>());
    let mut parts: Vec<Vec<f32>> = (0..before(counts.len())).map(|_| vec![0.0; most]).collect();
    for first in (0..longest).step_by(most.max(1)) {
        let part = |shard: &Range<usize>| {
            let start = shard.end.min(shard.start + first);
            start..shard.end.min(start + most)
        };
        let own = part(&shards[rank]);
        for (to, from) in partners(rank, shards.len()) {
            let theirs = part(&shards[to]);
            for at in 0..mine.len().max(counts[from]) {
                let message = mine.get(at).map_or(&[][..], |buffer| &buffer[theirs.clone()]);
                let into = match at < counts[from] {
                    true => &mut parts[before(from) + at][..own.len()],
                    false => &mut [],
                };
                let into = bytemuck::cast_slice_mut(into);
                ranks.exchange(to, bytemuck::cast_slice(message), from, into)?;
            }
        }
        for (buffer, part) in mine.iter().zip(&mut parts[before(rank)..]) {
            part[..own.len()].copy_from_slice(&buffer[own.clone()]);
        }
        for &(to, from) in merges {
            let [to, from] = parts.get_disjoint_mut([to, from]).expect("two buffers");
            add(&mut to[..own.len()], &from[..own.len()]);
        }
        // Nobody else needs these elements of it.
        mine[0][own.clone()].copy_from_slice(&parts[0][..own.len()]);
    }
    Ok(())
}

/// The rounds in which a rank talks to every other one once, in both directions: whom it sends to, and
/// whom it hears from.
pub fn partners(rank: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..count).map(move |distance| ((rank + distance) % count, (rank + count - distance) % count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;

    #[test]
    fn everybody_hears_everybody_in_order() {
        for count in 1..=9 {
            let said = |rank: usize| vec![rank as u8; rank * 7 % 5];
            let expected: Vec<_> = (0..count).map(said).collect();
            let heard = Threads::run(count, |ranks| gather(&*ranks, &said(ranks.rank())).unwrap());
            assert!(heard.iter().all(|all| *all == expected), "{count} ranks");
            let first = Threads::run(count, |ranks| {
                from_first(&*ranks, &[ranks.rank() as u8 + 5]).unwrap()
            });
            assert!(first.iter().all(|said| said == &[5]));
            let numbers = Threads::run(count, |ranks| {
                gather_numbers(&*ranks, &vec![ranks.rank() as f64 / 3.0; ranks.rank()]).unwrap()
            });
            assert!(
                numbers
                    .iter()
                    .all(|all| all.iter().enumerate().all(|(r, n)| *n == vec![r as f64 / 3.0; r]))
            );
        }
    }

    #[test]
    fn shards_come_together() {
        for count in 1..=8 {
            // Uneven, and one of them empty.
            let border = |rank: usize| rank * rank * 3 / 2;
            let shards: Vec<_> = (0..count).map(|rank| border(rank)..border(rank + 1)).collect();
            let whole: Vec<f32> = (0..border(count)).map(|i| i as f32).collect();
            let buffers = Threads::run(count, |ranks| {
                let mut buffer = vec![-1.0; whole.len()];
                let mine = shards[ranks.rank()].clone();
                buffer[mine.clone()].copy_from_slice(&whole[mine]);
                gather_shards(&*ranks, &shards, &mut buffer).unwrap();
                buffer
            });
            assert!(buffers.iter().all(|buffer| *buffer == whole));
        }
    }

    #[test]
    fn sums_have_the_order_that_is_asked_for() {
        // One to three buffers a rank, shards that are uneven or empty, and one of several parts.
        let counts = [2, 1, 3];
        let part = LARGEST_PART / size_of::<f32>();
        let shards = [0..5, 5..5, 5..5 + 2 * part + 7];
        let merges = [(4, 5), (1, 2), (0, 1), (3, 4), (0, 3)];
        let value = |buffer: usize, at: usize| {
            (at as f32 * 0.618).sin() * 10f32.powi((buffer * 5 % 7) as i32 - 3)
        };
        let len = shards[2].end;
        let sums = Threads::run(3, |ranks| {
            let rank = ranks.rank();
            let first: usize = counts[..rank].iter().sum();
            let buffer = |number| (0..len).map(|at| value(number, at)).collect::<Vec<f32>>();
            let mut mine: Vec<_> = (first..first + counts[rank]).map(buffer).collect();
            let mut mine: Vec<_> = mine.iter_mut().map(|buffer| &mut buffer[..]).collect();
            let add = |to: &mut [f32], from: &[f32]| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            };
            reduce_scatter(&*ranks, &shards, &counts, &mut mine, &merges, add).unwrap();
            mine[0][shards[rank].clone()].to_vec()
        });
        for (at, sum) in sums.concat().into_iter().enumerate() {
            let v = |buffer| value(buffer, at);
            let expected = (v(0) + (v(1) + v(2))) + (v(3) + (v(4) + v(5)));
            assert_eq!(sum.to_bits(), expected.to_bits(), "element {at}");
        }
    }
}
