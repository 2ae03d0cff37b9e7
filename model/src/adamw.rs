//! [`AdamW`]: Adam with decoupled weight decay (Loshchilov & Hutter, 2019), in one pass over memory.
//!
//! For every weight w with gradient g, in update t (from 1) with learning rate η:
//!
//! ```text
//! g ← scale · g                         gradient clipping, fused in
//! m ← β₁ m + (1 − β₁) g
//! v ← β₂ v + (1 − β₂) g²
//! w ← w − η λ w                         where decay applies
//! w ← w − η / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! λ does not apply to biases and LayerNorm gains ([`crate::architecture`]). A sparse weight has moments for its non-zeros
//! alone. Work is split into fixed blocks, and the gradient norm sums block by block in order, so
//! results do not depend on the number of threads. Every block knows at its end whether all that it wrote is
//! finite: the numbers are in registers then, and nothing is read for it.
//!
//! An optimiser that has the moments of a shard updates that shard and no more: of several ranks, each holds
//! and updates its own (ZeRO-1: Rajbhandari et al., 2020).

use crate::config::OptimiserConfig;
use crate::error::Error;
use crate::finite::{check_finite, check_finite_in};
use mediswift_engine::{BLOCK, Flat, Gradients, Layout, ParamId, Parameters};
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, Kernel, dispatch};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// What AdamW remembers of all gradients so far.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moments m: of the gradients.
    pub first: Flat,
    /// Second moments v: of their squares.
    pub second: Flat,
}

impl Moments {
    /// Those before the first update: zeros.
    pub fn zeros(layout: &Arc<Layout>) -> Self {
        Self { first: Flat::zeros(layout), second: Flat::zeros(layout) }
    }

    /// Those of some ranges of the layout alone.
    /// # Panics
    /// As for [`Flat::shard`].
    #[track_caller]
    pub fn shard(layout: &Arc<Layout>, ranges: &[Range<usize>]) -> Self {
        Self { first: Flat::shard(layout, ranges), second: Flat::shard(layout, ranges) }
    }

    /// The same in another layout ([`Flat::remapped`]): what is new there has seen no gradient.
    /// # Panics
    /// If a tensor of one name has other extents there.
    #[track_caller]
    pub fn remapped(&self, layout: &Arc<Layout>) -> Self {
        Self { first: self.first.remapped(layout), second: self.second.remapped(layout) }
    }
}

/// The optimiser: its settings and its moments. Which update it makes, it is told.
#[derive(Clone, Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    moments: Moments,
    /// Whether weight decay applies, tensor by tensor.
    decays: Vec<bool>,
    /// What the learning rate of each tensor is multiplied with; 1 beyond the end.
    factors: Vec<f64>,
}

impl AdamW {
    /// An optimiser that goes on from `moments`; `decays` says of each tensor whether weight decay
    /// applies.
    /// # Panics
    /// If `decays` says it of more or fewer tensors than there are.
    #[track_caller]
    pub fn new(config: &OptimiserConfig, moments: Moments, decays: Vec<bool>) -> Self {
        let tensors = moments.first.layout().iter().len();
        assert_eq!(decays.len(), tensors, "weight decay is a matter of every tensor");
        let &OptimiserConfig { beta1, beta2, epsilon, weight_decay, .. } = config;
        Self { beta1, beta2, epsilon, weight_decay, moments, decays, factors: Vec::new() }
    }

    /// Multiplies the learning rate of each tensor, in order; tensors with 0 are frozen.
    pub fn with_factors(self, factors: Vec<f64>) -> Self {
        Self { factors, ..self }
    }

    /// Learning rates of the tensors relative to the schedule's.
    pub fn factors(&self) -> impl Iterator<Item = f64> {
        self.factors.iter().copied().chain(std::iter::repeat(1.0))
    }

    /// The moments after the last update.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// The moments, for whoever carries them over to other masks of the same tensors.
    pub(crate) fn moments_mut(&mut self) -> &mut Moments {
        &mut self.moments
    }

    /// Makes update `t`, counted from 1, from `scale · gradients`, of the elements whose moments are here.
    /// `updated` is told of every tensor that has some while its new values are still in the caches, once for each
    /// of the ranges that are here.
    /// # Errors
    /// If a new weight or moment is not finite. The update is then made in part: neither parameters nor
    /// moments are good for anything any more.
    /// # Panics
    /// If parameters, gradients and moments are not of one layout.
    #[track_caller]
    pub fn update(
        &mut self,
        t: u64,
        parameters: &mut Parameters,
        gradients: &Gradients,
        learning_rate: f64,
        scale: f64,
        mut updated: impl FnMut(ParamId, &[f32]),
    ) -> Result<(), Error> {
        let Moments { first, second } = &mut self.moments;
        let layout = Arc::clone(parameters.layout());
        let agree = [gradients.layout(), first.layout(), second.layout()].map(|l| *l == layout);
        assert!(agree.iter().all(|&agrees| agrees), "parameters, gradients and moments disagree");
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        let rates = |factor: f64, decay: f64| Rates {
            scale: scale as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            gain1: (1.0 - self.beta1) as f32,
            gain2: (1.0 - self.beta2) as f32,
            step: (factor * learning_rate / correction(self.beta1)) as f32,
            root: (1.0 / correction(self.beta2).sqrt()) as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - factor * learning_rate * decay) as f32,
        };
        let (held, factors) = (first.held(), &self.factors);
        for (id, piece) in held.iter().flat_map(|range| layout.pieces(range.clone())) {
            let factor = factors.get(id.index()).copied().unwrap_or(1.0);
            if factor == 0.0 {
                continue;
            }
            let decay = if self.decays[id.index()] { self.weight_decay } else { 0.0 };
            let rates = rates(factor, decay);
            let start = layout.place(id).range.start;
            let at = start + piece.start..start + piece.end;
            let w = parameters.range_mut(at.clone()).par_chunks_mut(BLOCK);
            let g = gradients.range(at.clone()).par_chunks(BLOCK);
            let m = first.range_mut(at.clone()).par_chunks_mut(BLOCK);
            let v = second.range_mut(at).par_chunks_mut(BLOCK);
            let is_finite = w
                .zip(g)
                .zip(m.zip(v))
                .map(|((w, g), (m, v))| dispatch(Update { rates, w, g, m, v }))
                .reduce(|| true, |a, b| a & b);
            if !is_finite {
                check_finite_in("new weight", parameters, &held)?;
                check_finite("new moment", first)?;
                check_finite("new moment", second)?;
            }
            updated(id, &parameters[id]);
        }
        Ok(())
    }
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Rates {
    scale: f32,
    beta1: f32,
    beta2: f32,
    /// 1 − β₁.
    gain1: f32,
    /// 1 − β₂.
    gain2: f32,
    /// η / (1 − β₁ᵗ).
    step: f32,
    /// 1 / √(1 − β₂ᵗ).
    root: f32,
    epsilon: f32,
    /// 1 − η λ.
    keep: f32,
}

/// One block of an update; whether all its results are finite.
struct Update<'a> {
    rates: Rates,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> bool {
        update(self.rates, self.w, self.g, self.m, self.v)
    }
}

/// Plain loops, which the compiler turns into vectors of the instruction set it is inlined for.
#[inline(always)]
fn update(r: Rates, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) -> bool {
    // As integers, magnitudes have the order that they have as numbers, NaN above infinity; and the
    // largest of integers may be found in any order, so in vectors.
    let magnitude = |x: f32| x.to_bits() & (u32::MAX >> 1);
    let mut largest = 0;
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = r.scale * g;
        *m = r.beta1 * *m + r.gain1 * g;
        *v = r.beta2 * *v + r.gain2 * (g * g);
        *w = r.keep * *w - r.step * (*m / (v.sqrt() * r.root + r.epsilon));
        largest = largest.max(magnitude(*w)).max(magnitude(*m)).max(magnitude(*v));
    }
    largest < f32::INFINITY.to_bits()
}

/// Sums of the squares of some ranges of gradients, which are in order, block by block: what the norm of all is
/// made of. A block that a range cuts is in none.
pub fn sums_of_squares(gradients: &Gradients, ranges: &[Range<usize>]) -> Vec<f64> {
    let is_inside = |block: &Range<usize>| {
        let after = ranges.partition_point(|range| range.start <= block.start);
        after.checked_sub(1).is_some_and(|at| block.end <= ranges[at].end)
    };
    let blocks = gradients.layout().blocks().filter(is_inside);
    let blocks: Vec<&[f32]> = blocks.map(|block| gradients.range(block)).collect();
    blocks.into_par_iter().with_max_len(1).map(|block| dispatch(SumOfSquares(block))).collect()
}

/// The Euclidean norm of all gradients together, from the sums of all blocks in order. It is finite if all
/// gradients are: squares of f32 cannot overflow in f64.
pub fn norm<'a>(sums: impl IntoIterator<Item = &'a f64>) -> f64 {
    sums.into_iter().sum::<f64>().sqrt()
}

/// Factor that brings gradients of norm `norm` down to norm `clip`; 1 if they are there.
pub fn clip_scale(norm: f64, clip: f64) -> f64 {
    // As PyTorch's clip_grad_norm_ has it.
    (clip / (norm + 1e-6)).min(1.0)
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> f64 {
        let mut sums = [0.0; LANES];
        let lines = self.0.chunks_exact(LANES);
        let rest: f64 = lines.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for line in lines {
            for (sum, &x) in sums.iter_mut().zip(line) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        sums.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use mediswift_engine::Shape;
    use mediswift_kernels::AlignedBuffer;
    use mediswift_kernels::isa::IsaKind;

    /// Numbers between −1 and 1 without a pattern.
    fn noise(len: usize, seed: usize) -> AlignedBuffer {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin()).collect()
    }

    /// A matrix and a vector, neither a whole number of blocks or lines.
    fn model() -> (Parameters, Gradients) {
        let rows = 2 * BLOCK / 100 + 3;
        let parameters = Parameters::from_tensors([
            ("w", Shape::Matrix(rows, 101), noise(rows * 101, 1)),
            ("b", Shape::Vector(37), noise(37, 2)),
        ]);
        let mut gradients = Gradients::zeros(parameters.layout());
        for (seed, (_, g)) in gradients.iter_mut().enumerate() {
            g.copy_from_slice(&noise(g.len(), seed + 3));
        }
        (parameters, gradients)
    }

    fn global_norm(gradients: &Gradients) -> f64 {
        norm(&sums_of_squares(gradients, &gradients.held()))
    }

    fn config() -> OptimiserConfig {
        Config::from_preset("tiny").unwrap().optimiser
    }

    #[test]
    fn updates_agree_with_the_definition() {
        let (mut parameters, gradients) = model();
        let before = parameters.clone();
        let config = config();
        let mut adamw = AdamW::new(&config, Moments::zeros(parameters.layout()), vec![true, false]);
        let (rates, scale) = ([1e-2, 3e-3, 1e-2], 0.7);
        for (t, rate) in (1..).zip(rates) {
            adamw.update(t, &mut parameters, &gradients, rate, scale, |_, _| {}).unwrap();
        }
        for (id, parameter) in before.iter() {
            let decay = if parameter.shape.is_matrix() { config.weight_decay } else { 0.0 };
            for (i, &start) in parameter.values.iter().enumerate() {
                let g = scale * f64::from(gradients[id][i]);
                let (mut w, mut m, mut v) = (f64::from(start), 0.0, 0.0);
                for (t, rate) in (1..).zip(rates) {
                    m = config.beta1 * m + (1.0 - config.beta1) * g;
                    v = config.beta2 * v + (1.0 - config.beta2) * g * g;
                    w -= rate * decay * w;
                    let (m, v): (f64, f64) =
                        (m / (1.0 - config.beta1.powi(t)), v / (1.0 - config.beta2.powi(t)));
                    w -= rate * m / (v.sqrt() + config.epsilon);
                }
                let found = f64::from(parameters[id][i]);
                assert!((found - w).abs() < 1e-6, "{}[{i}]: {found}, not {w}", parameter.name);
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (w, g, m) = (noise(1003, 1), noise(1003, 2), noise(1003, 3));
        let v: AlignedBuffer = noise(1003, 4).iter().map(|x| x * x).collect();
        let rates = Rates {
            scale: 0.3,
            beta1: 0.9,
            beta2: 0.95,
            gain1: 0.1,
            gain2: 0.05,
            step: 0.01,
            root: 3.0,
            epsilon: 1e-8,
            keep: 0.999,
        };
        let results = IsaKind::available().into_iter().map(|isa| {
            let (mut w, mut m, mut v) = (w.clone(), m.clone(), v.clone());
            assert!(isa.run(Update { rates, w: &mut w, g: &g, m: &mut m, v: &mut v }));
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (bits(&w), bits(&m), bits(&v), isa.run(SumOfSquares(&g)).to_bits())
        });
        let results: Vec<_> = results.collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }

    /// What an update of 2 · `BLOCK` weights says that has `broken` as the last of its weights, gradients,
    /// or first or second moments.
    fn told_of(broken: [f32; 4], epsilon: f64) -> Result<(), String> {
        let len = 2 * BLOCK;
        let start =
            |values: AlignedBuffer| Parameters::from_tensors([("w", Shape::Vector(len), values)]);
        let mut parameters = start(noise(len, 1));
        let mut gradients = Gradients::zeros(parameters.layout());
        let mut moments = Moments::zeros(parameters.layout());
        let id = parameters.find("w").unwrap();
        let [w, g, m, v] = broken;
        let stores = [&mut parameters, &mut gradients, &mut moments.first, &mut moments.second];
        for (store, value) in stores.into_iter().zip([w, g, m, v]) {
            store[id][len - 1] = value;
        }
        let config = OptimiserConfig { epsilon, ..config() };
        let mut adamw = AdamW::new(&config, moments, vec![true]);
        let told = adamw.update(1, &mut parameters, &gradients, 1e-3, 1.0, |_, _| {});
        told.map_err(|error| error.to_string())
    }

    #[test]
    fn a_result_that_is_not_finite_is_named() {
        const INF: f32 = f32::INFINITY;
        for (broken, epsilon, expected) in [
            ([0.1, 0.1, 0.1, 0.1], 1e-8, None),
            ([f32::MAX, 1e19, 0.1, 0.1], 1e-8, None),
            ([0.1, 0.1, 0.1, f32::MAX], 1e-8, None),
            // A gradient whose square is 0 or infinite, and the least epsilon.
            ([0.1, 1e-30, 0.1, 0.0], 1e-45, Some("new weight 'w' is -inf")),
            ([0.1, 1e20, 0.1, 0.1], 1e-8, Some("new moment 'w' is inf")),
            ([INF, 0.1, 0.1, 0.1], 1e-8, Some("new weight 'w' is inf")),
            ([-INF, 0.1, 0.1, 0.1], 1e-8, Some("new weight 'w' is -inf")),
            ([f32::NAN, 0.1, 0.1, 0.1], 1e-8, Some("new weight 'w' is NaN")),
            ([0.1, 0.1, -INF, 0.1], 1e-8, Some("new weight 'w' is inf")),
            ([0.1, 0.1, 0.1, INF], 1e-8, Some("new moment 'w' is inf")),
            ([0.1, 0.1, 0.1, -1.0], 1e-8, Some("new weight 'w' is NaN")),
        ] {
            let told = told_of(broken, epsilon);
            match expected {
                None => assert_eq!(told, Ok(()), "{broken:?}"),
                Some(expected) => {
                    let message = told.expect_err("it is not finite");
                    let place = format!("{expected} at element {}", 2 * BLOCK - 1);
                    assert!(message.contains(&place), "{broken:?}: {message}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut parameters, gradients) = model();
                let norm = global_norm(&gradients);
                let mut adamw =
                    AdamW::new(&config(), Moments::zeros(parameters.layout()), vec![true, false]);
                let scale = clip_scale(norm, 1.0);
                adamw.update(1, &mut parameters, &gradients, 1e-2, scale, |_, _| {}).unwrap();
                let bits =
                    parameters.iter().flat_map(|(_, p)| p.values.iter().map(|x| x.to_bits()));
                (norm.to_bits(), bits.collect::<Vec<_>>())
            })
        };
        let one = run(1);
        assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
    }

    #[test]
    fn the_norm_is_exact_and_clips_like_pytorch() {
        let (_, gradients) = model();
        let squares: f64 =
            gradients.iter().flat_map(|(_, g)| g.values).map(|&x| f64::from(x).powi(2)).sum();
        let norm = global_norm(&gradients);
        assert!((norm - squares.sqrt()).abs() < 1e-12 * norm);
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(3.0, 1.0), 1.0 / (3.0 + 1e-6));
        assert_eq!(clip_scale(3.0, f64::INFINITY), 1.0);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let (parameters, mut gradients) = model();
        let id = parameters.find("b").unwrap();
        gradients[id][36] = f32::NEG_INFINITY;
        gradients[id][35] = f32::NAN;
        assert!(!global_norm(&gradients).is_finite());
        let error = check_finite("gradient", &gradients).unwrap_err().to_string();
        assert!(error.contains("gradient 'b' is NaN at element 35"), "{error}");
        gradients[id].fill(f32::MAX);
        assert!(global_norm(&gradients).is_finite());
    }

    #[test]
    fn shards_updated_apart_are_the_whole_updated_at_once() {
        let (start, gradients) = model();
        let layout = start.layout();
        let bits = |flat: &Flat| {
            flat.range(0..layout.len()).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let factors = vec![0.5, 2.0];
        let adamw = |moments| {
            AdamW::new(&config(), moments, vec![true, false]).with_factors(factors.clone())
        };
        let mut whole = start.clone();
        let mut one = adamw(Moments::zeros(layout));
        for t in 1..4 {
            one.update(t, &mut whole, &gradients, 1e-2, 0.5, |_, _| {}).unwrap();
        }
        for count in [2, 3, 5] {
            let (mut parameters, mut sums) = (start.clone(), Vec::new());
            let (mut first, mut second) = (Flat::zeros(layout), Flat::zeros(layout));
            for shard in layout.shards(count) {
                let ranges = std::slice::from_ref(&shard);
                let mut adamw = adamw(Moments::shard(layout, ranges));
                for t in 1..4 {
                    adamw.update(t, &mut parameters, &gradients, 1e-2, 0.5, |_, _| {}).unwrap();
                }
                sums.extend(sums_of_squares(&gradients, ranges));
                let Moments { first: m, second: v } = adamw.moments();
                first.whole_mut()[shard.clone()].copy_from_slice(m.range(shard.clone()));
                second.whole_mut()[shard.clone()].copy_from_slice(v.range(shard.clone()));
            }
            assert_eq!(bits(&parameters), bits(&whole), "{count} shards");
            assert_eq!(bits(&first), bits(&one.moments().first));
            assert_eq!(bits(&second), bits(&one.moments().second));
            assert_eq!(norm(&sums).to_bits(), global_norm(&gradients).to_bits());
        }
    }
}
