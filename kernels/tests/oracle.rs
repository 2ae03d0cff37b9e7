//! Every kernel of the list against its naive reference: instruction sets × shapes × densities,
//! bit for bit the same on every instruction set and for every thread count.

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::plan::Blocking;
use mediswift_kernels::ops::spmm::Start;
use mediswift_kernels::ops::{KERNELS, LayerPlan, Product, SparseLayer, Strategy};
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{CsrMatrix, LANES, SparsePattern};
use std::sync::Arc;

/// Rows, columns, tiles: single elements, ragged panels and blocks, empty extents.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (4, 3, 2),
    (7, 130, 5),
    (65, 33, 3),
    (130, 300, 9),
    (270, 520, 17),
    (3, 0, 1),
    (0, 5, 2),
];
const SPARSITIES: [f64; 7] = [0.0, 0.3, 0.5, 0.75, 0.95, 0.999, 1.0];

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn random(rows: usize, columns: usize, sparsity: f64) -> CsrMatrix {
    let pattern = Arc::new(uniform_random(rows, columns, sparsity, 7).unwrap());
    let values = numbers(pattern.nnz(), 1);
    CsrMatrix::new(pattern, values).unwrap()
}

/// Row r has 3·r mod 41 non-zeros at a row-dependent offset; every fifth row is empty.
fn uneven() -> CsrMatrix {
    let (rows, columns) = (90, 120);
    let (mut offsets, mut indices) = (vec![0u32], Vec::new());
    for row in 0..rows {
        let count = if row % 5 == 0 { 0 } else { 3 * row % 41 };
        indices.extend((0..count).map(|i| (row % 30 + 2 * i) as u32));
        offsets.push(indices.len() as u32);
    }
    let pattern = Arc::new(SparsePattern::new(rows, columns, offsets, indices).unwrap());
    let values = numbers(pattern.nnz(), 5);
    CsrMatrix::new(pattern, values).unwrap()
}

fn bits(xs: &[f32]) -> Vec<u32> {
    xs.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn assert_close(found: &[f32], want: &[f64], what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    for (i, (found, want)) in found.iter().zip(want).enumerate() {
        assert!((f64::from(*found) - want).abs() < 1e-4, "{what} at {i}: {found} is not {want}");
    }
}

/// Runs every kernel on every instruction set.
fn check(w: &CsrMatrix, tiles: usize, what: &str) {
    let x = numbers(w.pattern().columns() * tiles * LANES, 2);
    let dy = numbers(w.pattern().rows() * tiles * LANES, 3);
    for product in Product::ALL {
        let want = product.reference(w, &x, &dy, tiles);
        for kernel in KERNELS.iter().filter(|kernel| kernel.product == product) {
            let mut first: Option<Vec<u32>> = None;
            for isa in IsaKind::available() {
                let what = format!("{} {} on {isa}, {what}", product.name(), kernel.name);
                let mut found = vec![f32::NAN; product.output_len(w, tiles)];
                // Plans of a kernel differ between register counts, and with them the order of
                // the sums; equal plans must give equal bits.
                (kernel.prepare)(isa, w)(&x, &dy, &mut found);
                assert_close(&found, &want, &what);
                if isa.registers() == 8 {
                    let first = first.get_or_insert_with(|| bits(&found));
                    assert!(*first == bits(&found), "{what}: bits differ");
                }
            }
        }
    }
}

#[test]
fn every_kernel_equals_its_reference_on_every_isa() {
    for (rows, columns, tiles) in SHAPES {
        for sparsity in SPARSITIES {
            let what = format!("{rows}×{columns}, sparsity {sparsity}, {tiles} tiles");
            check(&random(rows, columns, sparsity), tiles, &what);
        }
    }
}

#[test]
fn uneven_and_empty_rows() {
    check(&uneven(), 6, "uneven rows");
}

/// The three products of a layer: biased forward, accumulating backward.
fn layer_products(layer: &SparseLayer, tiles: usize) -> Vec<f32> {
    let (rows, columns) = (layer.pattern().rows(), layer.pattern().columns());
    let x = numbers(columns * tiles * LANES, 2);
    let dy = numbers(rows * tiles * LANES, 3);
    let mut y = vec![f32::NAN; rows * tiles * LANES];
    layer.forward(&x, &mut y, Start::Bias(&numbers(rows, 4)));
    let mut dx = vec![1.0; columns * tiles * LANES];
    layer.input_gradient(&dy, &mut dx, Start::Accumulate);
    let mut dw = vec![1.0; layer.pattern().nnz()];
    layer.weight_gradient(&dy, &x, &mut dw);
    [y, dx, dw].concat()
}

#[test]
fn layers_start_from_bias_and_accumulate_for_all_tile_sizes() {
    let w = random(130, 300, 0.7);
    let tiles = 9;
    let x = numbers(300 * tiles * LANES, 2);
    let dy = numbers(130 * tiles * LANES, 3);
    let bias = numbers(130, 4);
    let mut want = Product::Forward.reference(&w, &x, &dy, tiles);
    for (i, want) in want.iter_mut().enumerate() {
        *want += f64::from(bias[i / LANES % 130]);
    }
    for product in [Product::InputGradient, Product::WeightGradient] {
        want.extend(product.reference(&w, &x, &dy, tiles).iter().map(|x| x + 1.0));
    }
    let mut plans = vec![LayerPlan::CSR, "dense/dense/dense".parse().unwrap()];
    for panel_rows in [1, 2, 4] {
        for vectors in [1, 2, 4, 8].into_iter().filter(|v| panel_rows < 4 || *v < 8) {
            for k_pass in [1, 3] {
                let unroll = if panel_rows * vectors <= 4 { 2 } else { 1 };
                let (k_block, row_block) = (64, 48);
                let forward = Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass };
                let input_gradient = Blocking { unroll: 1, ..forward };
                // Once the plan of the forward product, once its own.
                let weight_gradient =
                    if k_pass == 1 { forward } else { Blocking { k_block: 50, ..forward } };
                plans.push(LayerPlan {
                    forward: Strategy::Panels(forward),
                    input_gradient: Strategy::Panels(input_gradient),
                    weight_gradient: Strategy::Panels(weight_gradient),
                });
            }
        }
    }
    for plan in plans {
        let mut first = None;
        for isa in IsaKind::available() {
            let mut layer = SparseLayer::with_plan(isa, w.pattern().clone(), plan);
            layer.refresh(w.values());
            let found = layer_products(&layer, tiles);
            assert_close(&found, &want, &format!("{isa} {plan}"));
            let first = first.get_or_insert_with(|| bits(&found));
            assert!(*first == bits(&found), "{isa} {plan}: bits differ");
        }
    }
}

#[test]
fn thread_counts_do_not_change_a_bit() {
    let uniform = random(300, 500, 0.75);
    let plans = ["csr/csr/csr", "dense/dense/dense"].map(|plan| plan.parse().unwrap());
    for w in [&uniform, &uneven()] {
        for plan in plans.into_iter().chain([LayerPlan::estimate(0.25, 32, 48 << 10)]) {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let isa = IsaKind::active().unwrap();
                    let mut layer = SparseLayer::with_plan(isa, w.pattern().clone(), plan);
                    layer.refresh(w.values());
                    bits(&layer_products(&layer, 37))
                })
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert!(run(threads) == one, "{plan}, {threads} threads");
            }
        }
    }
}
