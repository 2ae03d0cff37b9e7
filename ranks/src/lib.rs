//! Ranks: processes that compute one thing together, and what they tell each other.
//!
//! * [`Ranks`]: who one is among how many, and one way to talk: two messages at once, one to a rank and one
//!   from a rank. What many do together is built from it, in orders of its own and the same for every
//!   transport ([`collectives`]), so that results do not depend on what MPI's library does inside.
//! * [`Alone`]: one rank, nobody to talk to.
//! * [`Threads`]: ranks that are threads of one process: the test bed, with delays and failures.
//! * `Mpi` (feature `mpi`): ranks that are processes of an MPI job.
//! * [`link`](mod@link): what messages cost, by a model; [`measure`](mod@measure): how long they take.
//!
//! A rank that does not answer must not be waited for for ever. Every wait has a bound, after which the
//! job ends: nobody can go on without a rank.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod alone;
pub mod collectives;
pub mod link;
pub mod measure;
#[cfg(feature = "mpi")]
mod mpi;
mod tally;
mod threads;

pub use alone::Alone;
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, StartError};
pub use threads::{Faults, Threads};

use std::fmt::Debug;

/// One rank of some, as it sees itself and the others.
pub trait Ranks: Send + Sync + Debug {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Sends `message` to one rank while receiving from another one, which must send as many bytes as
    /// `into` has. An empty message is not sent, and nothing is received into no bytes. Messages
    /// between two ranks arrive in their order.
    /// # Errors
    /// If one of both does not answer, or has ended. An MPI job is ended instead.
    /// # Panics
    /// If a rank is not one of the others.
    fn exchange(&self, to: usize, message: &[u8], from: usize, into: &mut [u8])
    -> Result<(), Lost>;

    /// Ends the whole job, all ranks, at once: for whoever cannot go on, and cannot tell the others by the
    /// usual way. Where a rank is a process, it does not return.
    fn end(&self, reason: &str);

    /// What this rank has sent and received so far.
    fn traffic(&self) -> Traffic;

    /// What carries the messages, for people.
    fn transport(&self) -> String;

    /// Leaves the job, after which there is nobody to talk to. All ranks must, or the others wait.
    fn leave(&self) {}
}

/// Bytes and messages of one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Messages sent.
    pub messages: u64,
}

/// Why a rank cannot be talked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It did not answer in time.
    #[error(
        "rank {rank} did not answer for {seconds} seconds: its process may be stopped or its network cut"
    )]
    Silent {
        /// Which one.
        rank: usize,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The job was ended.
    #[error("rank {rank} ended the job: {reason}")]
    Ended {
        /// By whom.
        rank: usize,
        /// Why.
        reason: String,
    },
}
