//! [`Link`]: how long messages between ranks take, by the α–β model: n bytes arrive after α + β n seconds.
//!
//! What a collective costs ([`Cost`]) is what the busiest of its N ranks sends, message after message; that it
//! receives meanwhile costs nothing more, for links carry both ways at once.
//!
//! | of N ranks | messages | bytes |
//! |---|---|---|
//! | [`Cost::reduce_scatter`] of shards, n sums each | n · Σ ⌈shard / [`LARGEST_PART`]⌉, over the others' shards | n · those shards |
//! | [`Cost::all_gather`] of shards | N − 1 | (N − 1) · the largest shard |
//! | [`Cost::gather`] of b bytes in all | 2 ⌈log₂ N⌉ | (N − 1) / N · b, and 8 for the length of each |

use crate::collectives::LARGEST_PART;
use std::iter::Sum;
use std::ops::{Add, Range};

/// Bytes of a value in a store.
const VALUE: u64 = size_of::<f32>() as u64;

/// What one rank sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Messages, one after the other.
    pub messages: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A link from rank to rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// α: seconds of a message, however short.
    pub alpha: f64,
    /// β: seconds of every byte.
    pub beta: f64,
}

impl Cost {
    /// One message.
    pub fn message(bytes: usize) -> Self {
        Self { messages: 1, bytes: bytes as u64 }
    }

    /// Everybody sends its part of every other one's shard, `nodes` times: as many partial sums as it has.
    pub fn reduce_scatter(shards: &[Range<usize>], nodes: usize) -> Self {
        let of_shard = |shard: &Range<usize>| {
            let bytes = VALUE * shard.len() as u64;
            Self { messages: bytes.div_ceil(LARGEST_PART as u64), bytes }
        };
        let all: Self = shards.iter().map(of_shard).sum();
        // The busiest is who keeps least.
        let kept = shards.iter().map(of_shard).min_by_key(|cost| cost.bytes).unwrap_or_default();
        let nodes = nodes as u64;
        Self {
            messages: nodes * (all.messages - kept.messages),
            bytes: nodes * (all.bytes - kept.bytes),
        }
    }

    /// Everybody sends its own shard to every other one.
    pub fn all_gather(shards: &[Range<usize>]) -> Self {
        let largest = shards.iter().map(Range::len).max().unwrap_or(0) as u64;
        let others = shards.len().saturating_sub(1) as u64;
        Self { messages: others, bytes: others * VALUE * largest }
    }

    /// [`crate::collectives::gather`] where `ranks` ranks have `bytes` to say, all together and evenly.
    pub fn gather(ranks: usize, bytes: usize) -> Self {
        let rounds = ranks.max(1).next_power_of_two().ilog2();
        let (ranks, bytes) = (ranks as u64, bytes as u64);
        let heard = (ranks.saturating_sub(1) * bytes).div_ceil(ranks.max(1));
        Self { messages: 2 * u64::from(rounds), bytes: heard + 8 * ranks.saturating_sub(1) }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

impl Link {
    /// A link of so many Gbit/s, on which a message takes at least `alpha` seconds.
    pub fn new(gbit: f64, alpha: f64) -> Self {
        Self { alpha, beta: 8e-9 / gbit }
    }

    /// The link whose times are closest to the measured ones: least squares of relative errors, so that
    /// a microsecond counts as much among short messages as a second among long ones. Neither α nor β is negative.
    /// None without a measurement.
    pub fn fit(measured: &[(Cost, f64)]) -> Option<Self> {
        let (mut xx, mut xy, mut yy, mut x, mut y) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(cost, seconds) in measured.iter().filter(|(_, seconds)| *seconds > 0.0) {
            let (a, b) = (cost.messages as f64 / seconds, cost.bytes as f64 / seconds);
            xx += a * a;
            xy += a * b;
            yy += b * b;
            x += a;
            y += b;
        }
        let determinant = xx * yy - xy * xy;
        let (alpha, beta) = ((x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant);
        let link = match (alpha >= 0.0, beta >= 0.0) {
            (true, true) => Self { alpha, beta },
            (true, false) => Self { alpha: x / xx, beta: 0.0 },
            _ => Self { alpha: 0.0, beta: y / yy },
        };
        (link.alpha.is_finite() && link.beta.is_finite()).then_some(link)
    }

    /// How long it takes.
    pub fn seconds(&self, cost: Cost) -> f64 {
        self.alpha * cost.messages as f64 + self.beta * cost.bytes as f64
    }

    /// 10⁹ bits per second.
    pub fn gbit(&self) -> f64 {
        8e-9 / self.beta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::collectives::{gather, gather_shards};

    fn even(len: usize, count: usize) -> Vec<Range<usize>> {
        (0..count).map(|rank| len * rank / count..len * (rank + 1) / count).collect()
    }

    #[test]
    fn seconds_are_those_computed_by_hand() {
        let link = Link::new(10.0, 20e-6);
        assert_eq!(link.gbit(), 10.0);
        // 1.25 GB/s: a gigabyte takes 0.8 s, and 20 µs to begin with.
        assert!((link.seconds(Cost::message(1_000_000_000)) - 0.80002).abs() < 1e-9);
        // Four ranks share 3 · 2²⁰ values: 3 MiB each, so one message to each of the three others.
        let shards = even(3 << 20, 4);
        let cost = Cost::reduce_scatter(&shards, 1);
        assert_eq!(cost, Cost { messages: 3, bytes: 9 << 20 });
        assert_eq!(Cost::all_gather(&shards), cost);
        assert_eq!(Cost::reduce_scatter(&shards, 2), Cost { messages: 6, bytes: 18 << 20 });
        // 9 MiB are three parts.
        let large = Cost::reduce_scatter(&even(9 << 19, 2), 1);
        assert_eq!(large, Cost { messages: 3, bytes: 9 << 20 });
        assert_eq!(Cost::gather(5, 100), Cost { messages: 6, bytes: 80 + 32 });
        for alone in [
            Cost::reduce_scatter(&even(50, 1), 1),
            Cost::all_gather(&even(50, 1)),
            Cost::gather(1, 9),
        ] {
            assert_eq!(alone, Cost::default());
        }
    }

    #[test]
    fn costs_are_what_the_busiest_rank_sends() {
        for count in 2..=9 {
            let shards = even(1000 * count + 7, count);
            let traffic = Threads::run(count, |ranks| {
                gather_shards(&*ranks, &shards, &mut vec![0.0; shards[count - 1].end]).unwrap();
                let shared = ranks.traffic();
                gather(&*ranks, &[0; 24]).unwrap();
                (shared, ranks.traffic())
            });
            let most = |of: &dyn Fn(&(crate::Traffic, crate::Traffic)) -> Cost| {
                traffic.iter().map(of).max_by_key(|cost| cost.bytes).unwrap()
            };
            let shared =
                most(&|(shared, _)| Cost { messages: shared.messages, bytes: shared.sent });
            assert_eq!(shared, Cost::all_gather(&shards), "{count}");
            let gathered = most(&|(shared, all)| Cost {
                messages: all.messages - shared.messages,
                bytes: all.sent - shared.sent,
            });
            assert_eq!(gathered, Cost::gather(count, 24 * count), "{count}");
        }
    }

    #[test]
    fn fits_find_the_link_and_are_never_negative() {
        let link = Link { alpha: 3e-5, beta: 2e-9 };
        let sizes = (0..9).map(|power| Cost::message(4096 << (2 * power)));
        let exact: Vec<_> = sizes.clone().map(|cost| (cost, link.seconds(cost))).collect();
        let found = Link::fit(&exact).unwrap();
        assert!((found.alpha / link.alpha - 1.0).abs() < 1e-6, "{found:?}");
        assert!((found.beta / link.beta - 1.0).abs() < 1e-6, "{found:?}");
        // Longer messages are quicker per byte than a line through nothing allows.
        let bent: Vec<_> = sizes.map(|cost| (cost, 1e-9 * (cost.bytes as f64).powf(1.1))).collect();
        let found = Link::fit(&bent).unwrap();
        assert!(found.alpha == 0.0 && found.beta > 0.0, "{found:?}");
        assert!(Link::fit(&[]).is_none());
    }
}
