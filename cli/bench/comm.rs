//! `mediswift bench comm`: what the ranks of a job tell each other, and how fast.

use mediswift_ranks::Ranks;
use mediswift_ranks::link::Link;
use mediswift_ranks::measure::{Error, Operation, Timed, measure};
use serde_json::{Value, json};

use crate::progress;
use crate::verb::{Context, Exit, Outcome, Verb};

/// Bytes of the message whose time is the latency.
const SHORT: usize = 8;

/// Bytes of the smallest buffer in the table; every next one is so many times as large.
const SMALLEST: usize = 4 << 10;
const FACTOR: usize = 4;

/// Measure what the ranks of a job tell each other: latency, bandwidth, and both sums of a step
///
/// In an exchange every rank sends to the next one and hears from the one before. A reduce-scatter sums
/// buffers of that size, and leaves every rank its share of the sums, as gradients are summed; an all-gather
/// gives everybody the shares of all, as weights are. All that arrives is checked. A time is that of the slowest
/// rank, the median of repetitions. The model is α + β × bytes for every message, fitted to the exchanges;
/// × model says how many times longer it really took.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mpirun -n 4 mediswift bench comm
  srun mediswift bench comm --largest 64 --json")]
pub struct Comm {
    /// The largest buffer, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    largest: u32,

    /// How long to repeat each operation on each size, three times at least
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    seconds: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let known = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    known.ok_or_else(|| "choose seconds from 0 to 3600".to_string())
}

impl Verb for Comm {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let ranks = &**context.ranks();
        if ranks.count() == 1 {
            let message = "one process has nobody to talk to: start several, as with \
                           'mpirun -n 2 mediswift bench comm'";
            return Err(Exit::usage(message).into());
        }
        Ok(self.measured(ranks)?.outcome(ranks.count()))
    }

    fn uses_ranks(&self) -> bool {
        true
    }
}

impl Comm {
    fn measured(&self, ranks: &dyn Ranks) -> Result<Measured, Error> {
        let largest = (self.largest as usize) << 20;
        let sizes = std::iter::successors(Some(SMALLEST), |size| Some(size * FACTOR));
        let sizes: Vec<usize> = sizes.take_while(|size| *size <= largest).collect();
        let latency = measure(ranks, Operation::Exchange, SHORT, self.seconds)?;
        let bar = progress::count((sizes.len() * Operation::ALL.len()) as u64, "measuring");
        let mut rows = Vec::new();
        for bytes in sizes {
            for operation in Operation::ALL {
                rows.push(measure(ranks, operation, bytes, self.seconds)?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(Measured { latency, rows })
    }
}

/// All that was measured.
struct Measured {
    latency: Timed,
    /// Size by size, and for each of them all operations.
    rows: Vec<Timed>,
}

impl Measured {
    fn outcome(&self, count: usize) -> Outcome {
        let cost = |timed: &Timed| timed.operation.cost(count, timed.bytes);
        let of = |operation: Operation| {
            let known = [&self.latency].into_iter().chain(&self.rows);
            let chosen = known.filter(|timed| timed.operation == operation);
            chosen.map(|timed| (cost(timed), timed.seconds)).collect::<Vec<_>>()
        };
        let exchanges = of(Operation::Exchange);
        let link = Link::fit(&exchanges).unwrap_or(Link { alpha: 0.0, beta: 0.0 });
        let off = |&(cost, seconds): &(_, f64)| (link.seconds(cost) / seconds - 1.0).abs();
        let worst = exchanges.iter().map(off).fold(0.0, f64::max);

        let mut text = format!(
            "{count} ranks; everything arrived as it was sent\nlatency {:.1} µs (exchange of {SHORT} bytes)\n\n{:<9}",
            1e6 * self.latency.seconds,
            "buffer",
        );
        for operation in Operation::ALL {
            text += &format!("{:>16} ms  Gbit/s  × model", operation.name());
        }
        text.push('\n');
        let mut rows: Vec<Value> = Vec::new();
        for size in self.rows.chunk_by(|a, b| a.bytes == b.bytes) {
            text += &format!("{:<9}", of_bytes(size[0].bytes));
            for timed in size {
                let (cost, seconds) = (cost(timed), timed.seconds);
                let speed = cost.bytes as f64 / seconds;
                let model = link.seconds(cost);
                text += &format!(
                    "{:>19.3}{:>8.2}{:>9.2}",
                    1e3 * seconds,
                    8e-9 * speed,
                    seconds / model
                );
                rows.push(json!({
                    "operation": timed.operation.name(),
                    "bytes": timed.bytes,
                    "bytes_sent": cost.bytes,
                    "messages": cost.messages,
                    "seconds": seconds,
                    "repetitions": timed.repetitions,
                    "bytes_per_second": speed,
                    "model_seconds": model,
                }));
            }
            text.push('\n');
        }
        text += &format!(
            "\nGbit/s are those that a rank sends. Model: α {:.1} µs, β {:.4} ns a byte ({:.2} Gbit/s), \
             from the exchanges, the worst of which is {:.0} % off\n\
             what it means for training: mediswift bench scaling --alpha {:.1} --gbit {:.2}\n",
            1e6 * link.alpha,
            1e9 * link.beta,
            link.gbit(),
            100.0 * worst,
            1e6 * link.alpha,
            link.gbit(),
        );
        let json = json!({
            "ranks": count,
            "latency_seconds": self.latency.seconds,
            "alpha_seconds": link.alpha,
            "beta_seconds_per_byte": link.beta,
            "gbit": link.gbit(),
            "worst_relative_error": worst,
            "rows": rows,
        });
        Outcome::new(json, text)
    }
}

/// A power of two in the largest unit that fits.
fn of_bytes(bytes: usize) -> String {
    match bytes {
        ..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
