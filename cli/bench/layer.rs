//! `mediswift bench layer`: realised against theoretical speedup of sparse layers.

mod report;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mediswift_kernels::baseline::{Baseline, Blas};
use mediswift_kernels::bench::{LayerBench, Measured, PRODUCTS, Planning};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::{LayerPlan, Strategy};
use mediswift_kernels::probe;
use mediswift_kernels::sparse::files::{self, FileMatrix};
use mediswift_kernels::sparse::mask::{Draw, MASKS, MaskFamily};
use mediswift_kernels::{Precision, SparsePattern};
use mediswift_model::plans;

use self::report::{Report, Title};
use crate::chart::Files;
use crate::chart::speedup::Speedups;
use crate::machine::{Load, Machine};
use crate::output;
use crate::progress;
use crate::signals::StopSignal;
use crate::verb::{Context, Exit, Outcome, Verb, refuse_to_overwrite};

/// Measure the speedup of sparse layers, against dense ones and against theory
///
/// Every product of the layer is timed in turns with the best dense code there is: the gemm crate,
/// this program's own dense product, and any BLAS named with --dense. Packing, zeroing and the
/// refresh after an optimiser step are part of the times. A step is forward + dx + dw + refresh.
///
/// Without options it takes about two minutes on two cores, with --full a quarter of an hour and more.
/// Rows appear as they are measured; after SIGINT (Ctrl-C) those that are there are summed up, drawn
/// and saved. `others` is the share of the machine's CPUs that other programs took meanwhile.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift bench layer --plot speedup.svg
  mediswift bench layer --shape 1024x1024 --sparsity 0.5,0.75,0.9
  mediswift bench layer --mask row-skewed --full
  mediswift bench layer --mask pruned.smtx --product forward
  mediswift bench layer --shape 4096x1024 --plan tuned --dense libopenblas.so.0
  mediswift --threads 1 bench layer --shape 4096x4096 --product one-token --sparsity 0.75")]
pub struct Layer {
    /// Shapes as OUTxIN, apart by commas [default: the layers of MediSwift-Med]
    #[arg(long, value_name = "OUTxIN", value_delimiter = ',', value_parser = shape)]
    shape: Vec<(usize, usize)>,

    /// Tokens that the layer works on at once
    #[arg(long, value_name = "N", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: u32,

    /// Sparsities, apart by commas; a mask from a file has its own
    /// [default: 0.25,0.5,0.75,0.9,0.95]
    #[arg(long, value_name = "S", value_delimiter = ',', value_parser = sparsity,
          allow_negative_numbers = true)]
    sparsity: Vec<f64>,

    /// By default also the shapes 4096x4096 and Figure 3's 12288x12288, and the sparsities 0 and 0.99
    #[arg(long)]
    full: bool,

    #[arg(long, value_name = "MASK", default_value = "random", help = mask_help())]
    mask: String,

    /// Products, apart by commas: forward, dx, dw, step, one-token
    #[arg(long, value_name = "P", value_delimiter = ',', value_parser = product,
          default_value = "forward,dx,dw,step")]
    product: Vec<&'static str>,

    #[arg(long, value_name = "PLAN", default_value = "estimate", help = plan_help())]
    plan: String,

    /// Write the plans that were used to a TOML file, for `pretrain --plans`
    #[arg(long, value_name = "FILE")]
    save_plans: Option<PathBuf>,

    /// What activations and weights are rounded to: f32, bf16 or f16. Of 16 bits, the dense code is of the
    /// same precision, and f32 runs beside
    #[arg(long, value_name = "P", default_value = "f32")]
    precision: Precision,

    #[arg(long, value_name = "I", help = isa_help())]
    isa: Option<String>,

    /// A BLAS to compare with as well: a shared library with cblas_sgemm. In bf16 its cblas_sbgemm or
    /// cblas_gemm_bf16bf16f32 takes part, if it has one; rounding its operands is not counted
    #[arg(long, value_name = "LIB")]
    dense: Option<PathBuf>,

    /// Turns of every contestant [default: 3 to 15, by their time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// Seed of masks
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Draw measured against theoretical speedup, as SVG and as PNG beside it
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace pictures and plans that are there already
    #[arg(long)]
    force: bool,
}

/// Outputs × inputs of MediSwift-Med's layers; then, of a full measurement alone, of a square one and
/// of the paper's Figure 3.
const SHAPES: [(usize, usize); 6] =
    [(1024, 1024), (3072, 1024), (4096, 1024), (1024, 4096), (4096, 4096), (12288, 12288)];
const QUICK_SHAPES: usize = 4;

/// The first and the last are for a full measurement alone.
const SPARSITIES: [f64; 7] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];
const QUICK_SPARSITIES: Range<usize> = 1..6;

/// Weights of a layer from which on its turns take longer than they should: what a progress bar
/// needs to know.
const LARGE: u64 = 4 << 20;

fn mask_help() -> String {
    let names: Vec<&str> = MASKS.iter().map(|family| family.name).collect();
    format!("Mask: {}, or a file (.smtx, .mtx, .npz)", names.join(", "))
}

fn plan_help() -> String {
    format!(
        "Strategies: estimate (the cost model's), tuned (measured first), or forward/dx/dw by name, \
         such as csr/csr/csr, where a name is {}",
        Strategy::grammar()
    )
}

fn isa_help() -> String {
    format!("Instruction set: {} [default: the best]", IsaKind::names())
}

fn shape(text: &str) -> Result<(usize, usize), String> {
    let extent = |text: &str| text.trim().parse().ok().filter(|n| (1..=1 << 20).contains(n));
    text.split_once(['x', 'X', '×'])
        .and_then(|(rows, columns)| Some((extent(rows)?, extent(columns)?)))
        .ok_or_else(|| "write OUTxIN, such as 4096x1024, with extents from 1 to 1048576".into())
}

fn sparsity(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(sparsity) if (0.0..1.0).contains(&sparsity) => Ok(sparsity),
        _ => Err("choose a sparsity in [0, 1)".into()),
    }
}

fn product(text: &str) -> Result<&'static str, String> {
    let known = PRODUCTS.iter().find(|known| **known == text);
    known.copied().ok_or_else(|| format!("choose from {}", PRODUCTS.join(", ")))
}

/// Where the patterns come from.
enum Source {
    Drawn(Draw),
    File(Arc<SparsePattern>),
}

impl Verb for Layer {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let isa = match &self.isa {
            Some(name) => IsaKind::by_name(name).map_err(|e| Exit::usage(e.to_string()))?,
            None => IsaKind::active()?,
        };
        let plan = self.fixed_plan()?;
        let source = self.source()?;
        let mut baselines = vec![Baseline::GemmCrate];
        if let Some(path) = &self.dense {
            baselines.push(Baseline::Blas(Blas::load(path, context.threads)?));
        }
        // Better to fail now than after minutes of measuring.
        let create = |path: &PathBuf| Files::fresh(path, self.force);
        let chart = self.plot.as_ref().map(create).transpose()?;
        if let Some(path) = &self.save_plans {
            refuse_to_overwrite(path, self.force)?;
        }
        let cases = self.cases(&source);
        let machine = Machine::look()?;
        let signals = StopSignal::watch()?;
        let mut bench = LayerBench::new(
            isa,
            self.precision,
            self.tokens as usize,
            &self.product,
            baselines,
            self.rounds,
        );
        let effort = |out: usize, inputs: usize| (out as u64 * inputs as u64).max(LARGE);
        let all = cases.iter().map(|((out, inputs), _)| effort(*out, *inputs)).sum();
        let bar = progress::effort(all, "measuring");
        let title = Title {
            cpu: &machine.cpu.model,
            isa,
            precision: self.precision,
            threads: context.threads,
            tokens: self.tokens,
            mask: &self.mask,
        };
        let (rows, loads, skipped) = (Vec::new(), Vec::new(), Vec::new());
        let mut report = Report { title, rows, loads, limits: bench.limits(), skipped };
        // People see rows as they come; programs get all of them at the end.
        let show = |text: String| -> anyhow::Result<()> {
            match context.json {
                true => {
                    bar.println(text.trim_end());
                    Ok(())
                }
                false => bar.suspend(|| output::print(&text)),
            }
        };
        for ((out, inputs), sparsity) in cases {
            let need = bench.memory(out, inputs, sparsity);
            if !machine.has_room_for(need) {
                let gib = need.div_ceil(1 << 30);
                let what = format!("{out}x{inputs} at sparsity {sparsity} needs about {gib} GiB");
                if !self.shape.is_empty() || matches!(source, Source::File(_)) {
                    anyhow::bail!(
                        "{what}, more than is free; name smaller shapes or fewer --tokens"
                    );
                }
                bar.suspend(|| output::note(&format!("left out: {what}, more than is free")));
                report.skipped.push(what);
                bar.inc(effort(out, inputs));
                continue;
            }
            let pattern = match &source {
                Source::Drawn(draw) => Arc::new(draw(out, inputs, sparsity, self.seed)?),
                Source::File(pattern) => pattern.clone(),
            };
            let (load, first) = (Load::now(), report.rows.len());
            let measured = bench.run(&pattern, plan.clone(), &mut || signals.flow());
            let ControlFlow::Continue(measured) = measured else { break };
            let others = load.and_then(Load::others_since);
            // So that shares of the peak are of what the machine could do then.
            report.limits.fma_peak = probe::fma_peak(isa).max(report.limits.fma_peak);
            report.loads.extend(measured.iter().map(|_| others));
            report.rows.extend(measured);
            if report.rows.len() > first {
                let head = if first == 0 { report.head() } else { String::new() };
                show(head + &report.rows(first))?;
            }
            bar.inc(effort(out, inputs));
        }
        bar.finish_and_clear();
        if report.rows.is_empty() {
            signals.check("stopped before anything was measured")?;
            anyhow::bail!("nothing was measured: no shape fits into memory and has a weight");
        }
        bench.measure_limits();
        report.limits = bench.limits().highest(report.limits);
        if let Some(path) = &self.save_plans {
            save_plans(path, &report.rows)?;
        }
        let (json, mut text) = (report.json(), report.summary());
        if let Some(files) = chart {
            let speedups: Speedups = serde_json::from_value(json.clone())?;
            for path in files.draw(&speedups)? {
                text.push_str(&format!("wrote {}\n", path.display()));
            }
        }
        Ok(signals.partial("this is what was measured until then", Outcome::new(json, text)))
    }
}

impl Layer {
    fn fixed_plan(&self) -> anyhow::Result<Planning> {
        Ok(match self.plan.as_str() {
            "estimate" => Planning::Estimate,
            "tuned" => Planning::Tuned,
            name => {
                let plan = name.parse::<LayerPlan>().map_err(|e| Exit::usage(e.to_string()))?;
                if plan.precision() != self.precision {
                    let (has, asked) = (plan.precision(), self.precision);
                    return Err(
                        Exit::usage(format!("plan '{name}' is of {has}, not of {asked}")).into()
                    );
                }
                Planning::Fixed(plan)
            }
        })
    }

    fn source(&self) -> anyhow::Result<Source> {
        let name = if self.mask == "skewed" { "row-skewed" } else { self.mask.as_str() };
        if let Some(MaskFamily { draw, .. }) = MASKS.iter().find(|family| family.name == name) {
            return Ok(Source::Drawn(*draw));
        }
        let path = Path::new(&self.mask);
        if path.extension().is_none() {
            let names: Vec<&str> = MASKS.iter().map(|family| family.name).collect();
            let names = names.join(", ");
            return Err(Exit::usage(format!(
                "mask '{}' is unknown: choose {names} or a .smtx, .mtx or .npz file",
                self.mask
            ))
            .into());
        }
        let FileMatrix { pattern, zeros } = files::read(path)?;
        if zeros > 0 {
            output::note(&format!(
                "note: {}: {zeros} values that it stores are zero, and count as none",
                self.mask
            ));
        }
        let pattern = Arc::new(pattern);
        let extents = (pattern.rows(), pattern.columns());
        anyhow::ensure!(
            pattern.nnz() > 0,
            "{}: {} × {} without a non-zero; there is nothing to measure",
            self.mask,
            extents.0,
            extents.1
        );
        if self.shape.iter().any(|&shape| shape != extents) {
            return Err(Exit::usage(format!(
                "{}: is {}x{}, which --shape contradicts; leave --shape out",
                self.mask, extents.0, extents.1
            ))
            .into());
        }
        Ok(Source::File(pattern))
    }

    /// Shapes and sparsities in the order of measurement.
    fn cases(&self, source: &Source) -> Vec<((usize, usize), f64)> {
        if let Source::File(pattern) = source {
            return vec![((pattern.rows(), pattern.columns()), 1.0 - pattern.density())];
        }
        let shapes = match (self.shape.is_empty(), self.full) {
            (false, _) => &self.shape[..],
            (true, false) => &SHAPES[..QUICK_SHAPES],
            (true, true) => &SHAPES[..],
        };
        let sparsities = match (self.sparsity.is_empty(), self.full) {
            (false, _) => &self.sparsity[..],
            (true, false) => &SPARSITIES[QUICK_SPARSITIES],
            (true, true) => &SPARSITIES[..],
        };
        let of = |&shape| sparsities.iter().map(move |&sparsity| (shape, sparsity));
        shapes.iter().flat_map(of).collect()
    }
}

/// Writes the plan of every layer that was measured.
fn save_plans(path: &Path, rows: &[Measured]) -> anyhow::Result<()> {
    let key = |row: &Measured| LayerPlan::key(row.rows, row.columns, row.nnz);
    let plans = rows.iter().map(|row| (key(row), row.plan.to_string())).collect();
    Ok(plans::write(path, &plans)?)
}
