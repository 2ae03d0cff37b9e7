//! One layer, sparse and dense in turns: realised against theoretical speedup.
//!
//! Every product is timed in turns with the best dense code there is: the [baselines](crate::baseline)
//! asked for and this crate's own dense product. Packing, zeroing and the refresh after an optimiser
//! step are part of the times. A step is forward + dx + dw + refresh. At 16 bits, the dense product is one of
//! the same precision, our own or of a library that has one, and `f32` runs beside. Rounding X and dY is part of our
//! forward and dx; a library's operands are rounded before.

mod contestants;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use self::contestants::{Contestant, Data, numbers, time};
use crate::baseline::Baseline;
use crate::isa::IsaKind;
use crate::ops::{LayerPlan, LinearLayer, Product, Strategy};
use crate::probe::{self, Limits};
use crate::{AlignedBuffer, LANES, Precision, SparsePattern};

/// What can be measured, by the names of reports and in their order.
pub const PRODUCTS: [&str; 5] = {
    let [forward, dx, dw] = Product::TRAINING;
    [forward.name(), dx.name(), dw.name(), STEP, Product::OneToken.name()]
};

/// The name of a whole step.
const STEP: &str = "step";

/// Where the strategies come from.
#[derive(Clone, Debug)]
pub enum Planning {
    /// The cost model.
    Estimate,
    /// The autotuner, for every layer.
    Tuned,
    /// These.
    Fixed(LayerPlan),
}

/// Tokens on which the autotuner measures.
const TUNING_TOKENS: usize = 512;

/// The name of this crate's own dense product in reports.
const OWN: &str = "own gemm";

/// Seconds that the turns of one layer should take, if the number of turns is not given.
const SECONDS: f64 = 4.0;

/// What is measured, on what.
pub struct LayerBench {
    isa: IsaKind,
    precision: Precision,
    tokens: usize,
    products: Vec<&'static str>,
    baselines: Vec<Baseline>,
    rounds: Option<u32>,
    limits: Limits,
}

/// Times of some turns, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The time in the middle.
    pub median: f64,
    /// The shortest time.
    pub least: f64,
    /// The longest time.
    pub most: f64,
}

/// One product of one layer.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Outputs of the layer.
    pub rows: usize,
    /// Inputs of the layer.
    pub columns: usize,
    /// Weights that the sparse layer has.
    pub nnz: usize,
    /// One of [`PRODUCTS`].
    pub product: &'static str,
    /// Times of the best dense code.
    pub dense: Times,
    /// What that code is.
    pub dense_kernel: String,
    /// Times of the sparse layer.
    pub sparse: Times,
    /// The strategy that the sparse layer takes, or all of a step.
    pub kernel: String,
    /// The strategies of all products.
    pub plan: LayerPlan,
    /// Whether the sparse layer computes this product densely.
    pub fallback: bool,
    /// Executed FLOPs of the sparse product.
    pub flops: f64,
    /// The same in FLOPs of FMAs that take as long at best: half, where pairs are multiplied at once.
    pub fma_flops: f64,
    /// What it asks of the machine at least; of a step, product by product.
    pub demands: Vec<Demand>,
    /// The same in `f32`, if this is of 16 bits.
    pub f32: Option<Beside>,
}

/// What `f32` took in the same turns.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Times of the best dense code.
    pub dense: Times,
    /// What that code is.
    pub dense_kernel: String,
    /// Times of the sparse layer.
    pub sparse: Times,
}

/// What a product asks of the ports of a machine at least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read from L1.
    pub l1: f64,
    /// Bytes read from memory.
    pub dram: f64,
}

impl Demand {
    /// Seconds in which a machine with these limits could do it, all else free.
    fn seconds(&self, limits: &Limits) -> f64 {
        let Self { flops, l1, dram } = self;
        (flops / limits.fma_peak).max(l1 / limits.l1).max(dram / limits.dram)
    }
}

impl Measured {
    /// The fraction of weights that the layer lacks.
    pub fn sparsity(&self) -> f64 {
        1.0 - self.nnz as f64 / (self.rows * self.columns) as f64
    }

    /// Realised speedup, by medians.
    pub fn speedup(&self) -> f64 {
        self.dense.median / self.sparse.median
    }

    /// Realised speedup over the best dense `f32` code, by medians.
    pub fn speedup_over_f32(&self) -> f64 {
        self.f32.as_ref().map_or(self.speedup(), |f32| f32.dense.median / self.sparse.median)
    }

    /// How much faster than the sparse layer in `f32`, by medians; none if this is `f32`.
    pub fn gain(&self) -> Option<f64> {
        Some(self.f32.as_ref()?.sparse.median / self.sparse.median)
    }

    /// Executed FLOPs over the time of the sparse product and the peak of FMAs, or of pairs.
    pub fn fraction_of_peak(&self, limits: &Limits) -> f64 {
        self.fma_flops / self.sparse.median / limits.fma_peak
    }

    /// Speedup that ports and L1, or for one token the memory, would allow.
    pub fn ceiling(&self, limits: &Limits) -> f64 {
        let seconds: f64 = self.demands.iter().map(|demand| demand.seconds(limits)).sum();
        self.dense.median / seconds
    }

    /// Theoretical speedup: weights of the dense layer for each of the sparse one.
    pub fn theory(&self) -> f64 {
        (self.rows * self.columns) as f64 / self.nnz as f64
    }
}

impl Times {
    fn of(mut turns: Vec<f64>) -> Self {
        turns.sort_by(f64::total_cmp);
        Self { median: turns[turns.len() / 2], least: turns[0], most: turns[turns.len() - 1] }
    }
}

impl LayerBench {
    /// A bench for layers that work on `tokens` tokens at once, rounded up to whole tiles. `rounds` is
    /// the number of turns of every contestant; without it, their time decides: 3 to 15. Measures the
    /// machine's limits, which takes about a second.
    /// # Panics
    /// If the machine lacks `isa`.
    pub fn new(
        isa: IsaKind,
        precision: Precision,
        tokens: usize,
        products: &[&'static str],
        baselines: Vec<Baseline>,
        rounds: Option<u32>,
    ) -> Self {
        let tokens = tokens.next_multiple_of(LANES);
        let limits = probe::measure(isa);
        Self { isa, precision, tokens, products: products.to_vec(), baselines, rounds, limits }
    }

    /// What the machine can do at best, as far as it has shown.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Measures the limits once more, and keeps the higher ones: a machine that others use shows less
    /// than it can.
    pub fn measure_limits(&mut self) {
        self.limits = self.limits.highest(probe::measure(self.isa));
    }

    /// About how many bytes a layer needs: four dense matrices, activations, 64 bytes per non-zero.
    pub fn memory(&self, rows: usize, columns: usize, sparsity: f64) -> u64 {
        let (rows, columns) = (rows as f64, columns as f64);
        let (weights, activations) = (rows * columns, self.tokens as f64 * (rows + columns));
        (weights * (16.0 + 64.0 * (1.0 - sparsity)) + 20.0 * activations) as u64
    }

    /// Measures the products of one layer, in the order of [`PRODUCTS`]; nothing of a layer without a
    /// weight, nor if `flow`, which is asked again and again, says to stop.
    pub fn run(
        &self,
        pattern: &Arc<SparsePattern>,
        planning: Planning,
        flow: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<(), Vec<Measured>> {
        flow()?;
        if pattern.nnz() == 0 {
            return ControlFlow::Continue(Vec::new());
        }
        let plan = match planning {
            Planning::Estimate => LayerPlan::of(self.precision, pattern.density(), self.isa),
            Planning::Tuned => {
                LayerPlan::measured(self.precision, self.isa, pattern, TUNING_TOKENS)
            }
            Planning::Fixed(plan) => plan,
        };
        let mut rows = Vec::new();
        if self.products.iter().any(|product| *product != Product::OneToken.name()) {
            rows.extend(self.layer(pattern, plan.clone(), flow)?);
        }
        if self.products.contains(&Product::OneToken.name()) {
            rows.push(self.one_token(pattern, plan));
        }
        ControlFlow::Continue(rows)
    }

    /// How many turns of that many seconds.
    fn turns(&self, seconds: f64) -> usize {
        self.rounds.map_or((SECONDS / seconds).clamp(3.0, 15.0) as usize, |rounds| rounds as usize)
    }

    fn layer(
        &self,
        pattern: &Arc<SparsePattern>,
        plan: LayerPlan,
        flow: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<(), Vec<Measured>> {
        let (rows, columns, tokens) = (pattern.rows(), pattern.columns(), self.tokens);
        let (isa, half) = (self.isa, self.precision != Precision::F32);
        let mut contestants: Vec<Contestant<'_>> =
            self.baselines.iter().map(Contestant::Library).chain([Contestant::Own]).collect();
        let dense_f32 = 0..contestants.len();
        let mut half_names = Vec::new();
        if half {
            let dense = LinearLayer::dense(isa, self.precision, rows, columns);
            contestants.push(Contestant::Layer(dense));
            half_names.push(format!("own {} gemm", self.precision));
            if self.precision == Precision::Bf16 {
                for library in self.baselines.iter().filter(|library| library.multiplies_bf16()) {
                    contestants.push(Contestant::HalfLibrary(library));
                    half_names.push(format!("{} bf16", library.name()));
                }
            }
            let plan = LayerPlan::of(Precision::F32, pattern.density(), isa);
            contestants.push(Contestant::Layer(LinearLayer::sparse(isa, pattern.clone(), plan)));
        }
        contestants.push(Contestant::Layer(LinearLayer::sparse(
            isa,
            pattern.clone(),
            plan.clone(),
        )));
        let mut data = Data::new(self.precision, rows, columns, tokens);
        if half_names.len() > 1 {
            data.round_matrices();
        }
        // [contestant][forward, dx, dw, refresh] turns.
        let mut times = vec![vec![Vec::new(); 4]; contestants.len()];
        let (mut turn, mut turns) = (0, 1);
        while turn <= turns {
            let start = Instant::now();
            for (contestant, times) in contestants.iter_mut().zip(&mut times) {
                flow()?;
                let parts = match contestant {
                    Contestant::Library(baseline) => data.library(isa, baseline),
                    Contestant::HalfLibrary(baseline) => data.half_library(baseline),
                    Contestant::Own => data.own(isa),
                    Contestant::Layer(layer) => data.layer(layer),
                };
                // The first turn warms up, and says how many more there is time for.
                if turn > 0 {
                    times.iter_mut().zip(parts).for_each(|(times, part)| times.push(part));
                }
            }
            if turn == 0 {
                turns = self.turns(start.elapsed().as_secs_f64());
            }
            turn += 1;
        }
        let names: Vec<String> =
            self.baselines.iter().map(Baseline::name).chain([OWN.to_string()]).collect();
        let sparse = times.pop().expect("the sparse times");
        let sparse_f32 = half.then(|| times.pop().expect("those of f32"));
        let dense_half = times.split_off(dense_f32.end);
        let best_f32 = Best::of(&times, &names);
        let (best, f32) = match sparse_f32 {
            Some(sparse) => (Best::of(&dense_half, &half_names), Some((best_f32, sparse))),
            None => (best_f32, None),
        };
        ControlFlow::Continue(self.rows(pattern, plan, best, sparse, f32))
    }

    /// The report of [`Self::layer`]'s times.
    fn rows(
        &self,
        pattern: &SparsePattern,
        plan: LayerPlan,
        best: Best,
        sparse: Vec<Vec<f64>>,
        f32: Option<(Best, Vec<Vec<f64>>)>,
    ) -> Vec<Measured> {
        let weights = (pattern.rows() * pattern.columns()) as f64;
        let work = |dense: bool| if dense { weights } else { pattern.nnz() as f64 };
        let flops = 2.0 * self.tokens as f64;
        let parts = || Product::TRAINING.into_iter().zip(plan.strategies());
        // Two multiplications at once take half the FMAs, and half the loads.
        let halved =
            |strategy: &Strategy| if strategy.multiplies(Precision::F32) { 1.0 } else { 0.5 };
        let demands: Vec<Demand> = parts()
            .map(|(product, strategy)| {
                let all = demand(product, pattern.density(), pattern.nnz(), self.tokens);
                let part = halved(strategy);
                Demand { flops: part * all.flops, l1: part * all.l1, ..all }
            })
            .collect();
        // Of product `at`, or of the step.
        let row = |at: Option<usize>, product, kernel, demands| {
            let of = |(which, _): &(usize, _)| at.is_none_or(|at| at == *which);
            let strategies = plan.strategies().iter().enumerate().filter(of).map(|(_, s)| s);
            let executed = |s: &Strategy| flops * work(s.is_dense());
            let (dense, dense_kernel) = best.times(at);
            Measured {
                rows: pattern.rows(),
                columns: pattern.columns(),
                nnz: pattern.nnz(),
                product,
                dense,
                dense_kernel,
                sparse: times_of(&sparse, at),
                kernel,
                plan: plan.clone(),
                fallback: strategies.clone().any(Strategy::is_dense),
                flops: strategies.clone().map(executed).sum(),
                fma_flops: strategies.map(|s| halved(s) * executed(s)).sum(),
                demands,
                f32: f32.as_ref().map(|(best, sparse)| {
                    let (dense, dense_kernel) = best.times(at);
                    Beside { dense, dense_kernel, sparse: times_of(sparse, at) }
                }),
            }
        };
        let mut rows: Vec<Measured> = parts()
            .enumerate()
            .map(|(at, (product, strategy))| {
                row(Some(at), product.name(), strategy.to_string(), vec![demands[at]])
            })
            .collect();
        rows.push(row(None, STEP, plan.to_string(), demands.clone()));
        rows.retain(|row| self.products.contains(&row.product));
        rows
    }

    /// y = W · x for one token: bound by the bytes of W.
    fn one_token(&self, pattern: &Arc<SparsePattern>, plan: LayerPlan) -> Measured {
        let (rows, columns) = (pattern.rows(), pattern.columns());
        let (w, values, x) = (numbers(rows * columns), numbers(pattern.nnz()), numbers(columns));
        let sparse_layer = LinearLayer::sparse(self.isa, pattern.clone(), plan.clone());
        let dense_layer = LinearLayer::dense(self.isa, Precision::F32, rows, columns);
        let mut y = AlignedBuffer::zeros(rows);
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        let mut turns = self.rounds.map_or(101, |rounds| rounds as usize);
        let mut warm = false;
        while turns > 0 {
            let a = time(|| dense_layer.one_token(&w, &x, &mut y));
            let b = time(|| sparse_layer.one_token(&values, &x, &mut y));
            if warm {
                dense.push(a);
                sparse.push(b);
                turns -= 1;
            }
            warm = true;
        }
        let (dense, sparse) = (Times::of(dense), Times::of(sparse));
        let bytes = (8 * pattern.nnz() + 4 * rows) as f64;
        Measured {
            rows,
            columns,
            nnz: pattern.nnz(),
            product: Product::OneToken.name(),
            dense,
            dense_kernel: "own gemv".into(),
            sparse,
            kernel: "spmv".into(),
            plan,
            fallback: false,
            flops: 2.0 * pattern.nnz() as f64,
            fma_flops: 2.0 * pattern.nnz() as f64,
            demands: vec![Demand { dram: bytes, ..Demand::default() }],
            f32: None,
        }
    }
}

/// The best dense code of each product on its own, and the refresh: its name, and its turns.
struct Best([(String, Vec<f64>); 4]);

impl Best {
    /// Of `[contestant][part]` turns.
    fn of(times: &[Vec<Vec<f64>>], names: &[String]) -> Self {
        Self(std::array::from_fn(|product| {
            let median = |at: usize| Times::of(times[at][product].clone()).median;
            let all = 0..times.len();
            let best = all.min_by(|&a, &b| median(a).total_cmp(&median(b)));
            let best = best.expect("a dense product");
            (names[best].clone(), times[best][product].clone())
        }))
    }

    /// Times of a product, or of a step, and what took them.
    fn times(&self, product: Option<usize>) -> (Times, String) {
        if let Some(product) = product {
            let (name, times) = &self.0[product];
            return (Times::of(times.clone()), name.clone());
        }
        let mut names: Vec<String> = self.0[..3].iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        let parts = self.0.each_ref().map(|(_, times)| times.clone());
        (times_of(&parts, None), names.join(" + "))
    }
}

/// Times of one part, or of the sum of all.
fn times_of(parts: &[Vec<f64>], part: Option<usize>) -> Times {
    Times::of(match part {
        Some(part) => parts[part].clone(),
        None => {
            let turns = 0..parts[0].len();
            turns.map(|turn| parts.iter().map(|part| part[turn]).sum()).collect()
        }
    })
}

/// Speedups of one product at one sparsity, over the shapes.
#[derive(Clone, Copy, Debug)]
pub struct Mean {
    /// One of [`PRODUCTS`].
    pub product: &'static str,
    /// Mean sparsity.
    pub sparsity: f64,
    /// Shapes measured.
    pub shapes: usize,
    /// Geometric mean of realised speedups.
    pub realised: f64,
    /// Geometric mean of theoretical speedups.
    pub theoretical: f64,
    /// Geometric mean of what ports and L1 would allow.
    pub ceiling: f64,
    /// Those over `f32` code, if this is of 16 bits.
    pub over_f32: Option<OverF32>,
}

/// Geometric means of speedups over `f32` code.
#[derive(Clone, Copy, Debug)]
pub struct OverF32 {
    /// Over the best dense one.
    pub dense: f64,
    /// Over the sparse layer's.
    pub sparse: f64,
}

/// Geometric means over shapes, in the order of products and sparsities, on a machine with these
/// limits.
pub fn means(measured: &[Measured], limits: &Limits) -> Vec<Mean> {
    let mut means = Vec::new();
    for product in PRODUCTS {
        let mut of: Vec<&Measured> = measured.iter().filter(|r| r.product == product).collect();
        of.sort_by(|a, b| a.sparsity().total_cmp(&b.sparsity()));
        // Rounding the number of non-zeros makes sparsities differ in the last digits.
        for rows in of.chunk_by(|a, b| (a.sparsity() - b.sparsity()).abs() < 1e-3) {
            let mean = |value: &dyn Fn(&Measured) -> f64| {
                let logs: f64 = rows.iter().map(|row| value(row).ln()).sum();
                (logs / rows.len() as f64).exp()
            };
            means.push(Mean {
                product,
                sparsity: rows.iter().map(|row| row.sparsity()).sum::<f64>() / rows.len() as f64,
                shapes: rows.len(),
                realised: mean(&Measured::speedup),
                theoretical: mean(&Measured::theory),
                ceiling: mean(&|row| row.ceiling(limits)),
                over_f32: rows.iter().all(|row| row.f32.is_some()).then(|| OverF32 {
                    dense: mean(&Measured::speedup_over_f32),
                    sparse: mean(&|row| row.gain().unwrap_or(1.0)),
                }),
            });
        }
    }
    means
}

/// The sparsity from which the step is faster than the dense one, by linear interpolation; the
/// least measured one if it is faster already there.
pub fn break_even(means: &[Mean]) -> Option<f64> {
    let steps: Vec<(f64, f64)> = means
        .iter()
        .filter(|mean| mean.product == STEP)
        .map(|mean| (mean.sparsity, mean.realised))
        .collect();
    let crossing = steps.windows(2).find(|pair| pair[0].1 < 1.0 && pair[1].1 >= 1.0);
    match (crossing, steps.first()) {
        (Some(pair), _) => {
            let ((s0, v0), (s1, v1)) = (pair[0], pair[1]);
            Some(s0 + (s1 - s0) * (1.0 - v0) / (v1 - v0))
        }
        (None, Some(&(sparsity, speedup))) if speedup >= 1.0 => Some(sparsity),
        _ => None,
    }
}

/// What a product asks of the ports of the machine.
///
/// A fused multiply-add of 16 lanes needs its share of the FMA peak. It also needs loads from L1: a
/// weight once per V tiles, and a line of X once per non-zero that shares it. In a panel of R = 4 rows
/// a column that is not empty has p = 4d / (1 − (1 − d)⁴) non-zeros at density d, so with V = 4 an FMA
/// takes 1/p + 1/V loads. In a weight gradient each FMA loads its own line. Whichever takes longer
/// is the limit.
fn demand(product: Product, density: f64, nnz: usize, tokens: usize) -> Demand {
    const R: i32 = 4;
    const V: f64 = 4.0;
    let fmas = nnz as f64 * tokens as f64 / LANES as f64;
    let loads = if product == Product::WeightGradient {
        1.0
    } else {
        let shared = f64::from(R) * density / (1.0 - (1.0 - density).powi(R));
        1.0 / shared + 1.0 / V
    };
    let line = (LANES * 4) as f64;
    let flops = (LANES * 2) as f64;
    Demand { flops: fmas * flops, l1: fmas * loads * line, dram: 0.0 }
}
