//! `mediswift.bench.layer`: sparse layers and dense ones in turns.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mediswift::kernels::baseline::Baseline;
use mediswift::kernels::bench::{LayerBench, Measured, PRODUCTS, Planning};
use mediswift::kernels::ops::LayerPlan;
use mediswift::{Precision, SparsePattern};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::wrong;
use crate::error::IntoException;
use crate::layer::active;
use crate::pattern::Pattern;
use crate::threads::compute_long;

/// Measures the products of every pattern on so many tokens, and of each pattern returns a list of dictionaries,
/// one per product; of a pattern without weights, an empty one.
#[pyfunction]
#[pyo3(signature = (patterns, tokens, precision, plan, products, rounds))]
pub fn bench_layer<'py>(
    py: Python<'py>,
    patterns: Vec<Py<Pattern>>,
    tokens: usize,
    precision: &str,
    plan: &str,
    products: Vec<String>,
    rounds: Option<u32>,
) -> PyResult<Vec<Vec<Bound<'py, PyDict>>>> {
    let precision: Precision = precision.parse().map_err(IntoException::into_exception)?;
    let planning = match plan {
        "auto" => Planning::Estimate,
        "tuned" => Planning::Tuned,
        name => {
            let plan = name.parse::<LayerPlan>().map_err(IntoException::into_exception)?;
            if plan.precision() != precision {
                let found = plan.precision();
                return Err(wrong("plan", format!("is of {found}, and precision is {precision}")));
            }
            Planning::Fixed(plan)
        }
    };
    let products: Vec<&'static str> = products
        .iter()
        .map(|name| {
            let known = PRODUCTS.iter().find(|known| **known == name).copied();
            known.ok_or_else(|| {
                wrong("product", format!("is '{name}', but must be one of {}", PRODUCTS.join(", ")))
            })
        })
        .collect::<PyResult<_>>()?;
    if !(1..=1 << 20).contains(&tokens) {
        return Err(wrong("tokens", format!("is {tokens}, but must be from 1 to {}", 1 << 20)));
    }
    if rounds.is_some_and(|rounds| !(1..=1000).contains(&rounds)) {
        return Err(wrong("rounds", "must be from 1 to 1000"));
    }
    let isa = active()?;
    let patterns: Vec<Arc<SparsePattern>> =
        patterns.iter().map(|pattern| Arc::clone(&pattern.get().0)).collect();
    let measured = compute_long(py, |stop| {
        let baselines = vec![Baseline::GemmCrate];
        let bench = LayerBench::new(isa, precision, tokens, &products, baselines, rounds);
        let mut flow = || match stop.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let run = |pattern| match bench.run(pattern, planning.clone(), &mut flow) {
            ControlFlow::Continue(measured) => measured,
            ControlFlow::Break(()) => Vec::new(),
        };
        patterns.iter().map(run).collect::<Vec<_>>()
    })?;
    let rows = |measured: Vec<Measured>| measured.iter().map(|row| dictionary(py, row)).collect();
    measured.into_iter().map(rows).collect()
}

fn dictionary<'py>(py: Python<'py>, row: &Measured) -> PyResult<Bound<'py, PyDict>> {
    let dictionary = PyDict::new(py);
    dictionary.set_item("rows", row.rows)?;
    dictionary.set_item("columns", row.columns)?;
    dictionary.set_item("sparsity", row.sparsity())?;
    dictionary.set_item("product", row.product)?;
    dictionary.set_item("dense_seconds", row.dense.median)?;
    dictionary.set_item("dense_kernel", &row.dense_kernel)?;
    dictionary.set_item("sparse_seconds", row.sparse.median)?;
    dictionary.set_item("kernel", &row.kernel)?;
    dictionary.set_item("fallback", row.fallback)?;
    dictionary.set_item("speedup", row.speedup())?;
    dictionary.set_item("theory", row.theory())?;
    dictionary.set_item("plan", row.plan.to_string())?;
    Ok(dictionary)
}
