//! [`Threads`]: ranks that are threads of one process.

use crate::tally::Tally;
use crate::{Lost, Ranks, Traffic};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread waits for another one, unless a test wants less.
const PATIENCE: Duration = Duration::from_secs(120);

/// What goes wrong among [`Threads`].
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Messages are late by up to this, each by another time.
    pub delay: Duration,
    /// This rank stops answering before its so-manieth exchange.
    pub silent: Option<(usize, u64)>,
    /// How long ranks wait for each other; two minutes if this is zero.
    pub patience: Duration,
}

/// One rank of some that are threads. Messages are copied.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    count: usize,
    post: Arc<Post>,
    /// Exchanges begun.
    exchanges: AtomicU64,
    tally: Tally,
}

/// What is under way.
#[derive(Debug)]
struct Post {
    boxes: Mutex<Boxes>,
    arrived: Condvar,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Boxes {
    /// By sender and receiver.
    messages: HashMap<(usize, usize), VecDeque<Vec<u8>>>,
    ended: Option<Lost>,
}

impl Threads {
    /// Runs `work` on `count` ranks, and returns what each of them made.
    /// # Panics
    /// If one of them does; the others are told that the job has ended.
    pub fn run<T: Send>(count: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
        Self::run_with(count, Faults::default(), work)
    }

    /// The same where things go wrong.
    /// # Panics
    /// As for [`Threads::run`].
    pub fn run_with<T: Send>(
        count: usize,
        faults: Faults,
        work: impl Fn(Arc<dyn Ranks>) -> T + Sync,
    ) -> Vec<T> {
        let post = Arc::new(Post { boxes: Mutex::default(), arrived: Condvar::new(), faults });
        std::thread::scope(|scope| {
            let start = |rank| {
                let (post, work) = (Arc::clone(&post), &work);
                scope.spawn(move || {
                    let (exchanges, tally) = Default::default();
                    let me = Self { rank, count, post, exchanges, tally };
                    work(Arc::new(me))
                })
            };
            let threads: Vec<_> = (0..count).map(start).collect();
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn boxes(&self) -> MutexGuard<'_, Boxes> {
        // A queue is whole between two statements, whoever panicked.
        self.post.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(&self) -> Duration {
        match self.post.faults.patience {
            Duration::ZERO => PATIENCE,
            patience => patience,
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end("it panicked");
        }
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn exchange(
        &self,
        to: usize,
        message: &[u8],
        from: usize,
        into: &mut [u8],
    ) -> Result<(), Lost> {
        let others = 0..self.count;
        assert!(others.contains(&to) && to != self.rank, "rank {to} is none of the others");
        assert!(others.contains(&from) && from != self.rank, "rank {from} is none of the others");
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed);
        let Faults { delay, silent, .. } = self.post.faults;
        if silent.is_some_and(|(rank, after)| rank == self.rank && number >= after) {
            std::thread::sleep(2 * self.patience());
        }
        if !delay.is_zero() {
            // Without a pattern, and the same in every run.
            let part = (number * 7919 + self.rank as u64 * 104_729) % 97;
            std::thread::sleep(delay * part as u32 / 96);
        }
        let mut boxes = self.boxes();
        if !message.is_empty() {
            boxes.messages.entry((self.rank, to)).or_default().push_back(message.to_vec());
            self.tally.sent(message.len());
            self.post.arrived.notify_all();
        }
        if into.is_empty() {
            return boxes.ended.clone().map_or(Ok(()), Err);
        }
        let until = Instant::now() + self.patience();
        loop {
            // Also where the message has arrived: nobody goes on in a job that has ended.
            if let Some(ended) = &boxes.ended {
                return Err(ended.clone());
            }
            if let Some(arrived) =
                boxes.messages.get_mut(&(from, self.rank)).and_then(VecDeque::pop_front)
            {
                assert_eq!(arrived.len(), into.len(), "rank {from} sent another message");
                into.copy_from_slice(&arrived);
                self.tally.received(into.len());
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lost = Lost::Silent { rank: from, seconds: self.patience().as_secs() };
                boxes.ended = Some(lost.clone());
                self.post.arrived.notify_all();
                return Err(lost);
            }
            let waited = self.post.arrived.wait_timeout(boxes, left);
            boxes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self, reason: &str) {
        let ended = Lost::Ended { rank: self.rank, reason: reason.to_string() };
        self.boxes().ended.get_or_insert(ended);
        self.post.arrived.notify_all();
    }

    fn traffic(&self) -> Traffic {
        self.tally.traffic()
    }

    fn transport(&self) -> String {
        "memory of one process".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectives::gather;

    #[test]
    fn a_rank_that_does_not_answer_ends_the_job_for_all() {
        let patience = Duration::from_millis(200);
        let faults = Faults { silent: Some((1, 1)), patience, ..Faults::default() };
        let ends = Threads::run_with(3, faults, |ranks| {
            gather(&*ranks, b"first").and_then(|_| gather(&*ranks, b"second"))
        });
        for end in &ends[..1] {
            assert!(matches!(end, Err(Lost::Silent { .. })), "{end:?}");
        }
        assert!(
            ends.iter().any(|end| matches!(end, Err(Lost::Silent { rank: 1, .. }))),
            "{ends:?}"
        );
    }

    #[test]
    fn whoever_ends_the_job_says_why() {
        let ends = Threads::run(3, |ranks| {
            if ranks.rank() == 2 {
                ranks.end("it has seen enough");
            }
            gather(&*ranks, b"something").map(|_| ())
        });
        let reason = "rank 2 ended the job: it has seen enough";
        assert!(ends.iter().all(|end| end.clone().unwrap_err().to_string() == reason), "{ends:?}");
    }

    #[test]
    fn delays_change_nothing() {
        let faults = Faults { delay: Duration::from_millis(3), ..Faults::default() };
        let heard = Threads::run_with(4, faults, |ranks| {
            (0..20u8)
                .map(|n| gather(&*ranks, &[n, ranks.rank() as u8]).unwrap())
                .collect::<Vec<_>>()
        });
        assert!(heard.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(heard[0][7], [[7, 0], [7, 1], [7, 2], [7, 3]]);
    }
}
