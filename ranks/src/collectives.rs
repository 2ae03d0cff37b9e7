//! What all ranks do together. Everybody calls the same function with arguments that fit.

use crate::{Lost, Ranks};
use std::ops::Range;

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
    let numbers = |bytes: &Vec<u8>| {
        let eights = bytes.chunks_exact(8);
        eights.map(|eight| f64::from_ne_bytes(eight.try_into().expect("8 bytes"))).collect()
    };
    Ok(all.iter().map(numbers).collect())
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
}
