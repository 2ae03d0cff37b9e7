//! How long it takes to tell each other something, measured on a job's own ranks.
//!
//! Everybody waits for everybody before a repetition begins. It takes as long as on the slowest
//! rank, and the result of one size is the median of its repetitions. Whatever arrives is compared with what it should be.

use crate::collectives::{gather, gather_numbers, gather_shards, reduce_scatter};
use crate::link::Cost;
use crate::{Lost, Ranks};
use std::ops::Range;
use std::time::Instant;

/// Least and most repetitions of one size.
const REPETITIONS: Range<usize> = 3..100;

/// Short operations are repeated without a pause for so many seconds at least, or ranks that begin at
/// slightly different times would be all that is measured; but at most so often.
const PAUSELESS: (f64, usize) = (2e-3, 100);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Everybody sends one message to the next rank, and gets one from the rank before.
    Exchange,
    /// Sums over all ranks, of which everybody gets those of its own shard: the gradients of a step.
    ReduceScatter,
    /// Everybody gets the shards of all others: the weights of a step.
    AllGather,
}

/// One operation of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// What was done.
    pub operation: Operation,
    /// Bytes of the message, or of the whole buffer of which ranks have shards.
    pub bytes: usize,
    /// Median over repetitions of the slowest rank's time.
    pub seconds: f64,
    /// How many there were.
    pub repetitions: usize,
}

/// Why there is no measurement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rank does not answer.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Messages change on their way.
    #[error("{operation} of {bytes} bytes: rank {rank} received something else than was sent")]
    Wrong {
        /// What was done.
        operation: &'static str,
        /// Of that size.
        bytes: usize,
        /// By whom it was noticed.
        rank: usize,
    },
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exchange, Self::ReduceScatter, Self::AllGather];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::ReduceScatter => "reduce-scatter",
            Self::AllGather => "all-gather",
        }
    }

    /// What a rank of `count` sends for a buffer of so many bytes.
    pub fn cost(self, count: usize, bytes: usize) -> Cost {
        let shards = shards(bytes / size_of::<f32>(), count);
        match self {
            Self::Exchange => Cost::message(bytes),
            Self::ReduceScatter => Cost::reduce_scatter(&shards, 1),
            Self::AllGather => Cost::all_gather(&shards),
        }
    }
}

/// Measures `operation` on a buffer of `bytes`, rounded down to whole values, for about `seconds`. All ranks
/// get the same result.
/// # Errors
/// If a rank is lost, or what arrives at any of them is not right.
/// # Panics
/// If there is one rank alone.
pub fn measure(
    ranks: &dyn Ranks,
    operation: Operation,
    bytes: usize,
    seconds: f64,
) -> Result<Timed, Error> {
    assert!(ranks.count() > 1, "one rank tells nobody anything");
    let mut trial = Trial::new(ranks, operation, bytes / size_of::<f32>());
    let mut times = Vec::new();
    // The first time sets up connections, and says how often to repeat.
    trial.repetition(1)?;
    let once = trial.repetition(1)?;
    let pauseless = (PAUSELESS.0 / once).ceil().clamp(1.0, PAUSELESS.1 as f64) as usize;
    let mut spent = 0.0;
    while times.len() < REPETITIONS.start || (spent < seconds && times.len() < REPETITIONS.end) {
        let time = trial.repetition(pauseless)?;
        spent += time * pauseless as f64;
        times.push(time);
    }
    times.sort_by(f64::total_cmp);
    let (median, repetitions) = (times[times.len() / 2], times.len());
    Ok(Timed { operation, bytes, seconds: median, repetitions })
}

/// `len` values in parts, as even as can be.
fn shards(len: usize, count: usize) -> Vec<Range<usize>> {
    (0..count).map(|rank| len * rank / count..len * (rank + 1) / count).collect()
}

/// What a rank has at a place before anything is said. Sums over some thousands of ranks are exact.
fn value(rank: usize, at: usize) -> f32 {
    ((at * 31 + rank * 17) % 1009) as f32
}

/// One operation with its buffers.
struct Trial<'a> {
    ranks: &'a dyn Ranks,
    operation: Operation,
    shards: Vec<Range<usize>>,
    /// What this rank has to say, and where sums and what is gathered end up.
    values: Vec<f32>,
    /// Its own shard as it was before sums.
    own: Vec<f32>,
    /// The message that it hears.
    heard: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(ranks: &'a dyn Ranks, operation: Operation, len: usize) -> Self {
        let (rank, shards) = (ranks.rank(), shards(len, ranks.count()));
        let heard = if operation == Operation::Exchange { len } else { 0 };
        let values: Vec<f32> = (0..len).map(|at| value(rank, at)).collect();
        let own = values[shards[rank].clone()].to_vec();
        Self { ranks, operation, shards, values, own, heard: vec![0.0; heard] }
    }

    /// Seconds of one of `times` operations in a row on the slowest rank.
    fn repetition(&mut self, times: usize) -> Result<f64, Error> {
        self.forget();
        gather(self.ranks, &[0])?;
        let started = Instant::now();
        for _ in 0..times {
            self.once()?;
        }
        let seconds = started.elapsed().as_secs_f64() / times as f64;
        let is_right = f64::from(u8::from(self.is_right()));
        let said = gather_numbers(self.ranks, &[seconds, is_right])?;
        if let Some(rank) = said.iter().position(|said| said[1] == 0.0) {
            let (operation, bytes) = (self.operation.name(), size_of_val(&self.values[..]));
            return Err(Error::Wrong { operation, bytes, rank });
        }
        Ok(said.iter().map(|said| said[0]).fold(0.0, f64::max))
    }

    /// Makes sure that what is compared has arrived in this repetition.
    fn forget(&mut self) {
        self.heard.fill(f32::NAN);
        if self.operation == Operation::AllGather {
            let Range { start, end } = self.shards[self.ranks.rank()];
            self.values[..start].fill(f32::NAN);
            self.values[end..].fill(f32::NAN);
        }
    }

    fn once(&mut self) -> Result<(), Lost> {
        let (rank, count) = (self.ranks.rank(), self.ranks.count());
        match self.operation {
            Operation::Exchange => {
                let (next, before) = ((rank + 1) % count, (rank + count - 1) % count);
                let heard = bytemuck::cast_slice_mut(&mut self.heard);
                self.ranks.exchange(next, bytemuck::cast_slice(&self.values), before, heard)
            }
            Operation::ReduceScatter => self.reduce_scatter(),
            Operation::AllGather => gather_shards(self.ranks, &self.shards, &mut self.values),
        }
    }

    fn reduce_scatter(&mut self) -> Result<(), Lost> {
        let count = self.ranks.count();
        let own = self.shards[self.ranks.rank()].clone();
        self.values[own].copy_from_slice(&self.own);
        let merges: Vec<(usize, usize)> = (1..count).map(|from| (0, from)).collect();
        let add = |to: &mut [f32], from: &[f32]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        let (ones, mine) = (vec![1; count], &mut [&mut self.values[..]]);
        reduce_scatter(self.ranks, &self.shards, &ones, mine, &merges, add)
    }

    /// Whether this rank has what it should.
    fn is_right(&self) -> bool {
        let (rank, count) = (self.ranks.rank(), self.ranks.count());
        match self.operation {
            Operation::Exchange => {
                let before = (rank + count - 1) % count;
                self.heard.iter().enumerate().all(|(at, heard)| *heard == value(before, at))
            }
            Operation::ReduceScatter => self.shards[rank]
                .clone()
                .all(|at| self.values[at] == (0..count).map(|rank| value(rank, at)).sum::<f32>()),
            Operation::AllGather => self
                .shards
                .iter()
                .enumerate()
                .all(|(rank, shard)| shard.clone().all(|at| self.values[at] == value(rank, at))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectives::LARGEST_PART;
    use crate::{Threads, Traffic};
    use std::sync::Arc;

    /// Rank 1 of these loses a byte of every message of 64.
    #[derive(Debug)]
    struct Forgetful(Arc<dyn Ranks>);

    impl Ranks for Forgetful {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn count(&self) -> usize {
            self.0.count()
        }

        fn exchange(
            &self,
            to: usize,
            message: &[u8],
            from: usize,
            into: &mut [u8],
        ) -> Result<(), Lost> {
            self.0.exchange(to, message, from, into)?;
            if self.rank() == 1 && into.len() == 64 {
                into[40] ^= 1;
            }
            Ok(())
        }

        fn end(&self, reason: &str) {
            self.0.end(reason);
        }

        fn traffic(&self) -> Traffic {
            self.0.traffic()
        }

        fn transport(&self) -> String {
            self.0.transport()
        }
    }

    #[test]
    fn all_ranks_measure_the_same_and_everything_arrives() {
        for count in [2, 3, 5] {
            for operation in Operation::ALL {
                for bytes in [0, 4, 4096, 40_004] {
                    let all = Threads::run(count, |ranks| {
                        measure(&*ranks, operation, bytes, 0.001).unwrap()
                    });
                    assert!(all.iter().all(|timed| *timed == all[0]), "{all:?}");
                    assert!(all[0].seconds >= 0.0 && all[0].repetitions >= REPETITIONS.start);
                }
            }
        }
    }

    #[test]
    fn operations_cost_what_they_send() {
        // Large enough for several parts of a message.
        let bytes = 3 * LARGEST_PART + 40;
        for operation in Operation::ALL {
            let sent = Threads::run(2, |ranks| {
                let mut trial = Trial::new(&*ranks, operation, bytes / 4);
                trial.once().unwrap();
                ranks.traffic()
            });
            let most = sent.iter().map(|traffic| (traffic.sent, traffic.messages)).max();
            let Cost { messages, bytes } = operation.cost(2, bytes);
            assert_eq!(most, Some((bytes, messages)), "{operation:?}");
        }
    }

    #[test]
    fn whoever_hears_something_wrong_is_named_to_all() {
        let ends =
            Threads::run(3, |ranks| measure(&Forgetful(ranks), Operation::Exchange, 64, 0.001));
        let message = "exchange of 64 bytes: rank 1 received something else than was sent";
        assert!(ends.iter().all(|end| end.clone().unwrap_err().to_string() == message), "{ends:?}");
    }
}
