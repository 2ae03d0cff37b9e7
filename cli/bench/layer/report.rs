//! What `bench layer` says: JSON, a table, and the lines of its chart.

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::probe::Limits;
use serde_json::{Value, json};

use super::measure::{Row, Times};
use super::{Layer, PRODUCTS};
use crate::doctor::machine::Machine;
use crate::verb::Context;

/// On what the measurement ran.
pub struct Title<'a> {
    pub machine: &'a Machine,
    pub isa: IsaKind,
    pub context: &'a Context,
    pub layer: &'a Layer,
}

/// A finished measurement.
pub struct Report<'a> {
    pub title: Title<'a>,
    pub rows: Vec<Row>,
    limits: Limits,
    skipped: Vec<String>,
}

/// Speedups of one product at one sparsity, over the shapes.
pub struct Mean {
    pub product: &'static str,
    pub sparsity: f64,
    pub shapes: usize,
    /// Geometric means.
    pub realised: f64,
    pub theoretical: f64,
    pub ceiling: f64,
}

impl<'a> Report<'a> {
    pub fn new(title: Title<'a>, limits: Limits, rows: Vec<Row>, skipped: Vec<String>) -> Self {
        Self { title, rows, limits, skipped }
    }

    /// One line about machine and work.
    pub fn subtitle(&self) -> String {
        let Title { machine, isa, context, layer } = &self.title;
        let threads = match context.threads {
            1 => "1 thread".into(),
            n => format!("{n} threads"),
        };
        format!(
            "{}, {}, {threads}, {} tokens, {} mask",
            machine.cpu.model,
            isa.name().to_uppercase(),
            layer.tokens,
            layer.mask
        )
    }

    /// Geometric means over shapes, in the order of products and sparsities.
    pub fn means(&self) -> Vec<Mean> {
        let mut means = Vec::new();
        for product in PRODUCTS {
            let mut of: Vec<&Row> = self.rows.iter().filter(|r| r.product == product).collect();
            of.sort_by(|a, b| a.sparsity().total_cmp(&b.sparsity()));
            // Rounding the number of non-zeros makes sparsities differ in the last digits.
            for rows in of.chunk_by(|a, b| (a.sparsity() - b.sparsity()).abs() < 1e-3) {
                let mean = |value: fn(&Row) -> f64| {
                    let logs: f64 = rows.iter().map(|row| value(row).ln()).sum();
                    (logs / rows.len() as f64).exp()
                };
                means.push(Mean {
                    product,
                    sparsity: rows.iter().map(|row| row.sparsity()).sum::<f64>()
                        / rows.len() as f64,
                    shapes: rows.len(),
                    realised: mean(Row::speedup),
                    theoretical: mean(Row::theory),
                    ceiling: mean(|row| row.ceiling),
                });
            }
        }
        means
    }

    /// The sparsity from which the step is faster than the dense one, by linear interpolation; the
    /// least measured one if it is faster already there.
    fn break_even(&self) -> Option<f64> {
        let steps: Vec<(f64, f64)> = self
            .means()
            .iter()
            .filter(|mean| mean.product == "step")
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

    pub fn json(&self) -> Value {
        let Title { machine, isa, context, layer } = &self.title;
        let spread = |times: &Times| json!({ "least": times.least, "most": times.most });
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
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
                    "ceiling_speedup": row.ceiling,
                    "fraction_of_peak": row.fraction_of_peak,
                })
            })
            .collect();
        let means: Vec<Value> = self
            .means()
            .iter()
            .map(|mean| {
                json!({
                    "product": mean.product,
                    "sparsity": mean.sparsity,
                    "shapes": mean.shapes,
                    "realised_speedup": mean.realised,
                    "theoretical_speedup": mean.theoretical,
                    "ceiling_speedup": mean.ceiling,
                })
            })
            .collect();
        json!({
            "cpu": machine.cpu.model,
            "isa": isa.name(),
            "threads": context.threads,
            "tokens": layer.tokens,
            "mask": layer.mask,
            "fma_peak_gflops": self.limits.fma_peak / 1e9,
            "bandwidth_gbytes": {
                "l1": self.limits.l1 / 1e9,
                "l2": self.limits.l2 / 1e9,
                "dram": self.limits.dram / 1e9,
            },
            "rows": rows,
            "geometric_means": means,
            "break_even_sparsity": self.break_even(),
            "left_out": self.skipped,
        })
    }

    pub fn text(&self) -> String {
        let Limits { fma_peak, l1, l2, dram } = self.limits;
        let mut text = format!(
            "{}\nFMA peak {:.0} GFLOP/s; reads from L1 {:.0}, L2 {:.0}, memory {:.0} GB/s\n\n",
            self.subtitle(),
            fma_peak / 1e9,
            l1 / 1e9,
            l2 / 1e9,
            dram / 1e9
        );
        text.push_str(
            "shape        sparsity product      dense ms  sparse ms    spread  speedup  theory  \
             peak  kernel\n",
        );
        for row in &self.rows {
            let spread = 100.0 * (row.sparse.most - row.sparse.least) / row.sparse.median;
            text.push_str(&format!(
                "{:<12} {:>7.1}% {:<10} {:>10.3} {:>10.3} {:>8.0}% {:>7.2}x {:>6.2}x {:>4.0}%  {}{}\n",
                format!("{}x{}", row.rows, row.columns),
                100.0 * row.sparsity(),
                row.product,
                1e3 * row.dense.median,
                1e3 * row.sparse.median,
                spread,
                row.speedup(),
                row.theory(),
                100.0 * row.fraction_of_peak,
                row.kernel,
                if row.fallback { " (dense fallback)" } else { "" },
            ));
        }
        text.push_str("\ngeometric mean over shapes\n");
        text.push_str("sparsity product    shapes  speedup  theory  ceiling\n");
        for mean in self.means() {
            text.push_str(&format!(
                "{:>7.1}% {:<10} {:>6} {:>7.2}x {:>6.2}x {:>7.2}x\n",
                100.0 * mean.sparsity,
                mean.product,
                mean.shapes,
                mean.realised,
                mean.theoretical,
                mean.ceiling
            ));
        }
        if let Some(sparsity) = self.break_even() {
            let least = self.rows.iter().map(Row::sparsity).fold(1.0, f64::min);
            let found = if sparsity <= least + 1e-3 { "or below " } else { "" };
            text.push_str(&format!(
                "\nthe step breaks even with the dense one at {found}{:.0} % sparsity\n",
                100.0 * sparsity
            ));
        }
        for what in &self.skipped {
            text.push_str(&format!("left out: {what}\n"));
        }
        text
    }
}
