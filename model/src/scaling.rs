//! What a training step takes on many machines, before there are any: one machine's computing, measured,
//! the bytes of the model's own layout, and links by the α–β model ([`Link`]).
//!
//! A step of M micro-batches, which sum up in L leaves of the gradient tree, on N machines of one rank each, with
//! P values in the store:
//!
//! | part | takes, on the slowest machine |
//! |---|---|
//! | computing | ⌈L / N⌉ leaves of micro-batches, forward and backward |
//! | sums | of whole gradients: leaves to nodes; of 1/N of them: all nodes to the root |
//! | update | 1/N of what one machine alone needs for the norm and AdamW |
//! | packing | of all sparse weights, everywhere |
//! | reduce-scatter | about 4 P (N − 1) / N bytes, for every node that a rank has |
//! | all-gather | about 4 P (N − 1) / N bytes |
//! | agreement | four gathers of little: weights of targets, losses, sums of the norm's blocks, outcome |
//!
//! Everything follows everything: no communication happens while something is computed. Reading data, evaluations and
//! checkpoints are not counted, nor that machines differ or switches are shared.
//!
//! With [`Reduce::Fast`] gradients are on their way during the last backward pass, which takes b = ⅔ of a micro-batch:
//! each of its products has two of the forward pass's size. With R for the reduce-scatter of all buckets and the sums
//! that its thread makes, and R₁ for the bucket of the token table, which is final only at the end, there remain
//!
//! ```text
//! max(R − b, R₁)
//! ```
//!
//! seconds in which nothing is computed. There are no other sums and no nodes but one for each rank, and one gather more:
//! before the last backward pass. That the thread takes time from those that compute is not counted.

use crate::architecture::slots;
use crate::bench::StepBench;
use crate::config::{Config, ModelConfig};
use crate::error::Error;
use crate::gradient_tree::{add, leaf, nodes};
use crate::presets::PAPER_VOCABULARY;
use crate::reduction::{Reduce, Shards, share};
use crate::sparsity::Targets;
use mediswift_engine::{Layout, Shape};
use mediswift_ranks::link::{Cost, Link};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What a step has to do, whoever does it.
#[derive(Clone, Debug)]
pub struct Work {
    layout: Arc<Layout>,
    /// Micro-batches of a step, and of every leaf but the last.
    micro_batches: usize,
    leaf: usize,
    tokens: usize,
    reduce: Reduce,
}

/// The backward pass's part of a micro-batch.
const BACKWARD: f64 = 2.0 / 3.0;

/// Seconds of one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Computing {
    /// Forward and backward pass of a micro-batch.
    pub micro_batch: f64,
    /// Norm of the gradient and AdamW, for all values.
    pub update: f64,
    /// Packing all sparse weights.
    pub packing: f64,
    /// Adding one gradient to another one.
    pub sum: f64,
}

/// Where the time of a step goes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// Forward and backward passes.
    pub computing: f64,
    /// Sums of gradients.
    pub sums: f64,
    /// Norm and AdamW.
    pub update: f64,
    /// Packing.
    pub packing: f64,
    /// Gradients on their way, while nothing is computed.
    pub reduce_scatter: f64,
    /// Weights on their way.
    pub all_gather: f64,
    /// Small messages.
    pub agreement: f64,
}

/// A step on some machines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// How many machines.
    pub machines: usize,
    /// The time it takes.
    pub step: Step,
    /// Bytes that the busiest machine sends.
    pub bytes: u64,
    /// Tokens of a second.
    pub tokens_per_second: f64,
    /// How much of the machines' time is worth what it is on one alone.
    pub efficiency: f64,
}

impl Work {
    /// A step as `config` describes it, whose gradients are added up in that way. Without a vocabulary yet, the
    /// paper's is assumed.
    pub fn new(config: &Config, reduce: Reduce) -> Self {
        let micro_batches = config.micro_batches();
        Self {
            layout: stored(config),
            micro_batches,
            leaf: leaf(micro_batches, config.train.leaves),
            tokens: config.train.batch * config.train.context,
            reduce,
        }
    }

    /// The most machines that have something to do.
    pub fn leaves(&self) -> usize {
        self.micro_batches.div_ceil(self.leaf)
    }

    /// Values that are stored, and those between tensors.
    pub fn values(&self) -> usize {
        self.layout.len()
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// A step on so many machines of that speed, which such links join. None if there are more than leaves.
    pub fn on(&self, machines: usize, computing: &Computing, link: Link) -> Option<Prediction> {
        let (step, bytes) = self.step(machines, computing, link)?;
        let (alone, _) = self.step(1, computing, link)?;
        let seconds = step.seconds();
        Some(Prediction {
            machines,
            step,
            bytes,
            tokens_per_second: self.tokens as f64 / seconds,
            efficiency: alone.seconds() / (machines as f64 * seconds),
        })
    }

    fn step(&self, machines: usize, computing: &Computing, link: Link) -> Option<(Step, u64)> {
        let leaves = self.leaves();
        if machines == 0 || machines > leaves {
            return None;
        }
        let shares: Vec<Range<usize>> =
            (0..machines).map(|rank| share(leaves, machines, rank)).collect();
        let reduce = self.reduce.among(machines);
        let nodes: Vec<usize> = match reduce {
            Reduce::Exact => shares.iter().map(|share| nodes(share.clone()).len()).collect(),
            Reduce::Fast => vec![1; machines],
        };
        let (all, most) = (nodes.iter().sum::<usize>(), nodes.iter().copied().max().unwrap_or(0));
        let joined = shares.iter().zip(&nodes).map(|(share, nodes)| share.len() - nodes);
        let joined = joined.max().filter(|_| reduce == Reduce::Exact).unwrap_or(0);
        let of_share = |share: &Range<usize>| {
            self.micro_batches.min(share.end * self.leaf) - share.start * self.leaf
        };
        let slowest = shares.iter().map(of_share).max().unwrap_or(0);

        let shards = Shards::new(reduce, &self.layout, machines);
        let of_rank = |rank: usize| shards.of(rank).iter().map(Range::len).sum::<usize>();
        let owns: Vec<usize> = (0..machines).map(of_rank).collect();
        let largest = owns.iter().copied().max().unwrap_or(0);
        let owned = largest as f64 / self.layout.len().max(1) as f64;
        let ranges = shards.ranges().iter();
        let scattered: Vec<Cost> =
            ranges.clone().map(|parts| Cost::reduce_scatter(parts, most)).collect();
        let reduce_scatter = link.seconds(scattered.iter().copied().sum());
        let all_gather: Cost = ranges.map(|parts| Cost::all_gather(parts)).sum();
        let sums = (joined as f64 + owned * (all - 1) as f64) * computing.sum;
        let (sums, reduce_scatter) = match reduce {
            Reduce::Exact => (sums, reduce_scatter),
            Reduce::Fast => {
                let hidden = BACKWARD * computing.micro_batch;
                let last = scattered.first().map_or(0.0, |&cost| link.seconds(cost));
                (0.0, last.max(reduce_scatter + sums - hidden))
            }
        };
        let blocks = self.layout.blocks().count();
        // Each rank says in a byte whether it is well, and then its numbers.
        let said = [8 * self.micro_batches, 16 * self.micro_batches, 8 * blocks, 0];
        let before_the_last_pass = (reduce == Reduce::Fast).then_some(0);
        let said = said.into_iter().chain(before_the_last_pass).map(|numbers| machines + numbers);
        let agreement: Cost = said.map(|bytes| Cost::gather(machines, bytes)).sum();
        let step = Step {
            computing: slowest as f64 * computing.micro_batch,
            sums,
            update: owned * computing.update,
            packing: computing.packing,
            reduce_scatter,
            all_gather: link.seconds(all_gather),
            agreement: link.seconds(agreement),
        };
        let sent = |(own, nodes): (&usize, &usize)| {
            nodes * (self.layout.len() - own) + (machines - 1) * own
        };
        let sent = owns.iter().zip(&nodes).map(sent).max().unwrap_or(0);
        Some((step, (sent * size_of::<f32>()) as u64 + agreement.bytes))
    }
}

impl Step {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.parts().iter().map(|(_, seconds)| seconds).sum()
    }

    /// Names and seconds of the parts.
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        [
            ("computing", self.computing),
            ("sums", self.sums),
            ("update", self.update),
            ("packing", self.packing),
            ("reduce_scatter", self.reduce_scatter),
            ("all_gather", self.all_gather),
            ("agreement", self.agreement),
        ]
    }
}

/// The places of what a model stores: lengths as with masks, which need not be drawn for that.
fn stored(config: &Config) -> Arc<Layout> {
    let vocabulary = match config.model.vocabulary {
        0 => PAPER_VOCABULARY,
        vocabulary => vocabulary,
    };
    let slots = slots(&ModelConfig { vocabulary, ..config.model.clone() }, 0);
    let targets = Targets::new(&config.sparsity, &config.model);
    Layout::new(slots.iter().map(|slot| {
        let kept = slot.linear_weight().map(|weight| weight.kept(targets.of(&weight)));
        (&*slot.name, Shape::Vector(kept.unwrap_or_else(|| slot.len())))
    }))
}

/// Layers of the models that are measured in place of larger ones. Every further layer adds the same.
pub const MEASURED_LAYERS: [usize; 2] = [1, 3];

/// Steps that [`Computing::measure`] takes with each model, of which the first only warms up.
pub fn steps_to_measure(config: &Config, steps: usize) -> usize {
    measured_models(config).len() * (steps + 1)
}

/// What [`Computing::measure`] builds: the model itself if it has few layers, or else two with fewer.
pub fn measured_models(config: &Config) -> Vec<Config> {
    let [_, most] = MEASURED_LAYERS;
    let of_layers = |layers: usize| {
        let mut config = config.clone();
        config.model.layers = layers;
        config.train.batch = config.train.micro_batch;
        config
    };
    match config.model.layers {
        layers if layers <= most => vec![of_layers(layers)],
        _ => MEASURED_LAYERS.map(of_layers).to_vec(),
    }
}

impl Computing {
    /// Measures this machine, with all threads: medians of `steps` steps, after one to warm up, of one micro-batch. Of a
    /// model with many layers two with fewer are measured, and the line through both is followed to
    /// all of its layers. `tick` is called after each of [`steps_to_measure`] steps.
    /// # Errors
    /// If the settings make no model.
    pub fn measure(config: &Config, steps: usize, mut tick: impl FnMut()) -> Result<Self, Error> {
        let mut points = Vec::new();
        for small in measured_models(config) {
            let mut bench = StepBench::new(&small)?;
            for _ in 0..=steps {
                bench.step()?;
                tick();
            }
            points.push((small.model.layers as f64, Self::of_bench(&mut bench)));
        }
        let layers = config.model.layers as f64;
        let line = |part: fn(&Self) -> f64| match &points[..] {
            [(_, only)] => part(only),
            [(few, first), (more, second), ..] => {
                // No layer takes less than no time, however disturbed a measurement of small models is.
                let each = (part(second) - part(first)).max(0.0) / (more - few);
                part(first) + each * (layers - few)
            }
            [] => unreachable!("at least one model is measured"),
        };
        Ok(Self {
            micro_batch: line(|at| at.micro_batch),
            update: line(|at| at.update),
            packing: line(|at| at.packing),
            sum: seconds_per_sum() * stored(config).len() as f64,
        })
    }

    fn of_bench(bench: &mut StepBench) -> Self {
        let times = bench.times();
        let all: f64 = times.parts.iter().map(|part| part.seconds).sum();
        // Parts are known as means, and a whole step as a median.
        let of = |names: &[&str]| {
            let parts = times.parts.iter().filter(|part| names.contains(&&*part.name));
            times.seconds * parts.map(|part| part.seconds).sum::<f64>() / all
        };
        let (update, packing) = (of(&["gradient norm", "AdamW"]), of(&["packing"]));
        Self { micro_batch: times.seconds - update - packing, update, packing, sum: 0.0 }
    }
}

/// Seconds per value of adding one gradient to another: the median of a few tries with values that no cache holds.
fn seconds_per_sum() -> f64 {
    const VALUES: usize = 1 << 24;
    let (mut left, right) = (vec![0f32; VALUES], vec![1f32; VALUES]);
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let started = Instant::now();
            add(&mut left, &right);
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] / VALUES as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::{Gpt, TokenBatch};
    use crate::optimisation::Optimisation;
    use mediswift_engine::TokenLayout;
    use mediswift_ranks::Threads;

    fn micro(sparsity: f64) -> Config {
        let mut config = Config::from_preset("micro").unwrap();
        (config.model.vocabulary, config.sparsity.sparsity) = (700, sparsity);
        (config.train.batch, config.train.micro_batch) = (16, 1);
        config
    }

    #[test]
    fn layouts_are_those_of_models() {
        for sparsity in [0.0, 0.3, 0.75] {
            let mut config = micro(sparsity);
            config.set("sparsity.groups=[{param_filter=['*.mlp.up.*'], sparsity=0.9}]").unwrap();
            let gpt = Gpt::new(&config).unwrap();
            let (known, real) = (stored(&config), gpt.parameters().layout());
            let places =
                |layout: &Layout| layout.iter().map(|(_, p)| p.range.clone()).collect::<Vec<_>>();
            assert_eq!(places(&known), places(real), "{sparsity}");
            assert_eq!(known.shards(5), real.shards(5));
        }
    }

    #[test]
    fn predictions_are_those_computed_by_hand() {
        let computing = Computing { micro_batch: 0.5, update: 0.08, packing: 0.02, sum: 0.004 };
        let link = Link { alpha: 1e-3, beta: 1e-6 };
        let work = Work::new(&micro(0.75), Reduce::Exact);
        assert_eq!((work.leaves(), work.leaf, work.tokens()), (8, 2, 16 * 64));
        let alone = work.on(1, &computing, link).unwrap();
        // All micro-batches, seven sums of eight leaves, the update and the packing.
        assert!((alone.step.seconds() - (16.0 * 0.5 + 7.0 * 0.004 + 0.08 + 0.02)).abs() < 1e-12);
        assert_eq!((alone.bytes, alone.efficiency), (0, 1.0));

        let four = work.on(4, &computing, link).unwrap();
        let shards = work.layout.shards(4);
        let (least, most) = (
            shards.iter().map(Range::len).min().unwrap() as f64,
            shards.iter().map(Range::len).max().unwrap() as f64,
        );
        let (values, owned) = (work.values() as f64, most / work.values() as f64);
        assert_eq!(four.step.computing, 2.0);
        assert!((four.step.sums - (1.0 + owned * 3.0) * 0.004).abs() < 1e-12);
        assert!((four.step.update - owned * 0.08).abs() < 1e-12 && four.step.packing == 0.02);
        let reduced = 3e-3 + 4e-6 * (values - least);
        assert!((four.step.reduce_scatter - reduced).abs() < 1e-9, "{four:?} {reduced}");
        assert!((four.step.all_gather - (3e-3 + 3.0 * 4e-6 * most)).abs() < 1e-9);
        // Four gathers of two times two messages; of what is said, three quarters are heard.
        let blocks = work.layout.blocks().count() as f64;
        let heard = 0.75 * (4.0 * 4.0 + 8.0 * (3.0 * 16.0 + blocks)) + 4.0 * 24.0;
        assert!((four.step.agreement - (16e-3 + 1e-6 * heard)).abs() < 5e-6, "{four:?}");
        let expected = alone.step.seconds() / (4.0 * four.step.seconds());
        assert!((four.efficiency - expected).abs() < 1e-12 && four.efficiency < 1.0);

        // Leaves 2 … 4 of three machines are two nodes, and so are sent twice.
        let three = work.on(3, &computing, link).unwrap();
        assert_eq!(three.step.computing, 3.0);
        let twice = Cost::reduce_scatter(&work.layout.shards(3), 2);
        assert_eq!(three.step.reduce_scatter, link.seconds(twice));
        assert_eq!(work.on(9, &computing, link), None);
        assert_eq!(work.on(0, &computing, link), None);

        // Faster: one bucket, so all of it waits for the token table.
        let fast = Work::new(&micro(0.75), Reduce::Fast);
        assert_eq!(fast.on(1, &computing, link), Some(alone));
        let same = fast.on(4, &computing, link).unwrap();
        assert_eq!((same.step.computing, same.step.sums), (2.0, 0.0));
        assert!((same.step.reduce_scatter - reduced).abs() < 1e-9 && same.bytes > four.bytes);
        assert!((same.step.agreement - four.step.agreement - 4e-3).abs() < 1e-4);
        // Several: what the backward pass does not hide, or the first of them.
        let mut large = Config::from_preset("small").unwrap();
        (large.train.batch, large.train.micro_batch) = (16, 1);
        let work = Work::new(&large, Reduce::Fast);
        let ranges = Shards::new(Reduce::Fast, &work.layout, 4).ranges().to_vec();
        assert!(ranges.len() > 3);
        let costs = ranges.iter().map(|parts| link.seconds(Cost::reduce_scatter(parts, 1)));
        let (all, first) = (costs.clone().sum::<f64>(), costs.clone().next().unwrap());
        let exposed = |micro_batch| {
            let computing = Computing { micro_batch, ..Computing::default() };
            work.on(4, &computing, link).unwrap().step.reduce_scatter
        };
        assert!((exposed(0.3) - (all - 0.2)).abs() < 1e-9);
        assert_eq!(exposed(3.0 * all), first);
    }

    #[test]
    fn bytes_are_those_that_ranks_send() {
        let config = micro(0.75);
        for (reduce, count) in [Reduce::Exact, Reduce::Fast]
            .into_iter()
            .flat_map(|reduce| [2, 3, 4, 8].map(|count| (reduce, count)))
        {
            let work = Work::new(&config, reduce);
            let sent = Threads::run(count, |ranks| {
                let gpt = Gpt::new(&config).unwrap();
                let moments = Optimisation::zero_moments(&*ranks, reduce, &gpt);
                let mut optimisation =
                    Optimisation::among(ranks.clone(), reduce, gpt, moments, 0, 0, &config)
                        .unwrap();
                let mine = optimisation.share(16).unwrap();
                let layout = TokenLayout { sequences: 1, context: 8 };
                let ids = vec![1; layout.tokens()];
                let batch = TokenBatch { layout, targets: ids.clone(), ids, weights: None };
                optimisation.step_of(16, Ok(&vec![batch; mine.len()]), &mut ()).unwrap();
                ranks.traffic().sent
            });
            let most = sent.into_iter().max().unwrap() as f64;
            let known = work.on(count, &Computing::default(), Link::new(1.0, 0.0)).unwrap().bytes;
            assert!(
                (most / known as f64 - 1.0).abs() < 0.005,
                "{reduce:?}, {count} ranks: {most}, not {known}"
            );
        }
    }

    #[test]
    fn sparse_models_send_less_and_more_machines_take_less_time() {
        let computing = Computing { micro_batch: 1.0, ..Computing::default() };
        let link = Link::new(10.0, 2e-5);
        let work = |sparsity: f64| {
            let mut config = Config::from_preset("med").unwrap();
            config.sparsity.sparsity = sparsity;
            (config.train.micro_batch, config.train.leaves) = (1, 512);
            Work::new(&config, Reduce::Exact)
        };
        let (dense, sparse) = (work(0.0), work(0.75));
        assert_eq!(dense.leaves(), 512);
        let ratio = |machines| {
            let bytes = |work: &Work| work.on(machines, &computing, link).unwrap().bytes as f64;
            bytes(&sparse) / bytes(&dense)
        };
        assert!(
            (0.3..0.36).contains(&ratio(2)) && (0.3..0.36).contains(&ratio(512)),
            "{}",
            ratio(2)
        );
        let mut last = f64::INFINITY;
        for machines in (0..=9).map(|power| 1 << power) {
            let seconds = dense.on(machines, &computing, link).unwrap().step.seconds();
            assert!(seconds < last, "{machines}");
            last = seconds;
        }
    }

    #[test]
    fn this_machine_is_measured_on_models_of_fewer_layers() {
        let mut config = micro(0.75);
        config.model.layers = 6;
        let layers = |config: &Config| {
            measured_models(config).iter().map(|c| c.model.layers).collect::<Vec<_>>()
        };
        assert_eq!(layers(&config), [1, 3]);
        let mut ticks = 0;
        let computing = Computing::measure(&config, 2, || ticks += 1).unwrap();
        assert_eq!(ticks, steps_to_measure(&config, 2));
        assert!(computing.micro_batch > 0.0 && computing.update >= 0.0 && computing.sum > 0.0);
        config.model.layers = 2;
        assert_eq!(layers(&config), [2]);
    }
}
