//! What `bench layer` says: JSON, a table, and the lines of its chart.

use mediswift_kernels::Precision;
use mediswift_kernels::bench::{self, Mean, Measured, Times};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::probe::Limits;
use serde_json::{Value, json};

use crate::machine::DISTURBED;

/// On what the measurement ran.
pub struct Title<'a> {
    pub cpu: &'a str,
    pub isa: IsaKind,
    pub precision: Precision,
    pub threads: usize,
    pub tokens: u32,
    pub mask: &'a str,
}

/// What was measured so far.
pub struct Report<'a> {
    pub title: Title<'a>,
    pub rows: Vec<Measured>,
    /// For every row, the share of the machine's CPUs that others took meanwhile.
    pub loads: Vec<Option<f64>>,
    pub limits: Limits,
    /// What did not fit into memory.
    pub skipped: Vec<String>,
}

impl Report<'_> {
    /// One line about machine and work.
    fn subtitle(&self) -> String {
        let Title { cpu, isa, precision, threads, tokens, mask } = &self.title;
        let threads = match threads {
            1 => "1 thread".into(),
            n => format!("{n} threads"),
        };
        let isa = isa.name().to_uppercase();
        let precision = precision.name();
        format!("{cpu}, {isa}, {precision}, {threads}, {tokens} tokens, {mask} mask")
    }

    pub fn json(&self) -> Value {
        let Title { cpu, isa, precision, threads, tokens, mask } = &self.title;
        let means = self.means();
        let break_even = bench::break_even(&means);
        let spread = |times: &Times| json!({ "least": times.least, "most": times.most });
        let rows: Vec<Value> = self
            .rows
            .iter()
            .zip(&self.loads)
            .map(|(row, load)| {
                json!({
                    "shape": format!("{}x{}", row.rows, row.columns),
                    "sparsity": row.sparsity(),
                    "product": row.product,
                    "dense_seconds": row.dense.median,
                    "dense_spread": spread(&row.dense),
                    "dense_kernel": row.dense_kernel,
                    "sparse_seconds": row.sparse.median,
                    "sparse_spread": spread(&row.sparse),
                    "kernel": row.kernel,
                    "fallback": row.fallback,
                    "realised_speedup": row.speedup(),
                    "theoretical_speedup": row.theory(),
                    "ceiling_speedup": row.ceiling(&self.limits),
                    "fraction_of_peak": row.fraction_of_peak(&self.limits),
                    "f32": row.f32.as_ref().map(|f32| json!({
                        "dense_seconds": f32.dense.median,
                        "dense_spread": spread(&f32.dense),
                        "dense_kernel": f32.dense_kernel,
                        "sparse_seconds": f32.sparse.median,
                        "sparse_spread": spread(&f32.sparse),
                        "speedup_over_dense": row.speedup_over_f32(),
                        "speedup_over_sparse": row.gain(),
                    })),
                    "load": load,
                })
            })
            .collect();
        let means: Vec<Value> = means
            .iter()
            .map(|mean| {
                json!({
                    "product": mean.product,
                    "sparsity": mean.sparsity,
                    "shapes": mean.shapes,
                    "realised_speedup": mean.realised,
                    "theoretical_speedup": mean.theoretical,
                    "ceiling_speedup": mean.ceiling,
                    "speedup_over_f32_dense": mean.over_f32.map(|over| over.dense),
                    "speedup_over_f32_sparse": mean.over_f32.map(|over| over.sparse),
                })
            })
            .collect();
        json!({
            "cpu": cpu,
            "isa": isa.name(),
            "precision": precision.name(),
            "threads": threads,
            "tokens": tokens,
            "mask": mask,
            "fma_peak_gflops": self.limits.fma_peak / 1e9,
            "bandwidth_gbytes": {
                "l1": self.limits.l1 / 1e9,
                "l2": self.limits.l2 / 1e9,
                "dram": self.limits.dram / 1e9,
            },
            "rows": rows,
            "geometric_means": means,
            "break_even_sparsity": break_even,
            "left_out": self.skipped,
            "load": self.load(),
        })
    }

    /// Whether `f32` ran beside.
    fn is_half(&self) -> bool {
        self.title.precision != Precision::F32
    }

    fn means(&self) -> Vec<Mean> {
        bench::means(&self.rows, &self.limits)
    }

    /// The largest share of the CPUs that others took.
    fn load(&self) -> Option<f64> {
        self.loads.iter().flatten().copied().reduce(f64::max)
    }

    /// What stands above the rows.
    pub fn head(&self) -> String {
        format!(
            "{}\n{}\n\nshape        sparsity product      dense ms  sparse ms    spread  speedup  theory  \
             peak  others  {}kernel\n",
            self.subtitle(),
            limits(&self.limits),
            if self.is_half() { OVER_F32 } else { "" },
        )
    }

    /// The rows from number `first` on.
    pub fn rows(&self, first: usize) -> String {
        let mut text = String::new();
        for (row, load) in self.rows.iter().zip(&self.loads).skip(first) {
            let spread = 100.0 * (row.sparse.most - row.sparse.least) / row.sparse.median;
            let peak = row.fraction_of_peak(&self.limits);
            let is_disturbed = load.is_some_and(|load| load > DISTURBED);
            text.push_str(&format!(
                "{:<12} {:>7.1}% {:<10} {:>10.3} {:>10.3} {:>8.0}% {:>7.2}x {:>6.2}x {:>4.0}% {:>6}{} {}{}{}\n",
                format!("{}x{}", row.rows, row.columns),
                100.0 * row.sparsity(),
                row.product,
                1e3 * row.dense.median,
                1e3 * row.sparse.median,
                spread,
                row.speedup(),
                row.theory(),
                100.0 * peak,
                load.map_or("–".into(), |load| format!("{:.0}%", 100.0 * load)),
                if is_disturbed { "!" } else { " " },
                row.gain().map_or(String::new(), |gain| over_f32(row.speedup_over_f32(), gain)),
                row.kernel,
                if row.fallback { " (dense fallback)" } else { "" },
            ));
        }
        text
    }

    /// What stands below the rows.
    pub fn summary(&self) -> String {
        let mut text = "\ngeometric mean over shapes\n".to_string();
        text.push_str("sparsity product    shapes  speedup  theory  ceiling");
        text.push_str(if self.is_half() { "  " } else { "" });
        text.push_str(if self.is_half() { OVER_F32.trim_end() } else { "" });
        text.push('\n');
        let means = self.means();
        for mean in &means {
            text.push_str(&format!(
                "{:>7.1}% {:<10} {:>6} {:>7.2}x {:>6.2}x {:>7.2}x  {}\n",
                100.0 * mean.sparsity,
                mean.product,
                mean.shapes,
                mean.realised,
                mean.theoretical,
                mean.ceiling,
                mean.over_f32
                    .map_or(String::new(), |over| over_f32(over.dense, over.sparse))
                    .trim_end(),
            ));
        }
        if let Some(sparsity) = bench::break_even(&means) {
            let least = self.rows.iter().map(Measured::sparsity).fold(1.0, f64::min);
            let found = if sparsity <= least + 1e-3 { "or below " } else { "" };
            text.push_str(&format!(
                "\nthe step breaks even with the dense one at {found}{:.0} % sparsity\n",
                100.0 * sparsity
            ));
        }
        text.push_str(&format!("\nat the end: {}\n", limits(&self.limits)));
        if let Some(load) = self.load().filter(|load| *load > DISTURBED) {
            text.push_str(&format!(
                "rows with ! are not to be trusted: others took up to {:.0} % of the CPUs meanwhile\n",
                100.0 * load
            ));
        }
        let is_above = |row: &&Measured| row.fraction_of_peak(&self.limits) > 1.0;
        if self.rows.iter().any(|row| is_above(&row)) {
            text.push_str(
                "a share of the peak above 100 % means that the machine was slower while its peak was \
                 measured\n",
            );
        }
        for what in &self.skipped {
            text.push_str(&format!("left out: {what}\n"));
        }
        text
    }
}

/// How a table of 16 bits goes on.
const OVER_F32: &str = "÷ f32 dense  ÷ f32 sparse  ";

/// What stands below it: speedups over dense and sparse `f32` code.
fn over_f32(dense: f64, sparse: f64) -> String {
    format!("{dense:>10.2}x {sparse:>12.2}x  ")
}

fn limits(Limits { fma_peak, l1, l2, dram }: &Limits) -> String {
    format!(
        "FMA peak {:.0} GFLOP/s; reads from L1 {:.0}, L2 {:.0}, memory {:.0} GB/s",
        fma_peak / 1e9,
        l1 / 1e9,
        l2 / 1e9,
        dram / 1e9
    )
}
