//! Every kernel of the list against its naive reference: precisions × instruction sets × shapes × densities,
//! bit for bit the same on every instruction set and for every thread count.
//!
//! The reference multiplies what a kernel multiplies: operands rounded to the precision, exactly. Products of two
//! numbers of 16 bits are exact in `f32`, so what is left is the rounding of sums: in `f32` in all precisions alike,
//! but for `halves`, which sum in f16, and are held to n · 2⁻¹¹ of the sum of all magnitudes for n additions. Where
//! a machine lacks an instruction for 16 bits, an emulation of it runs, whose bits are the instruction's.

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::{
    Initial, KernelSpec, LayerPlan, LinearLayer, Product, Strategy, kernels,
};
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{CsrMatrix, InPrecision, LANES, Precision, SparsePattern};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether these tests run by `tests/aarch64.sh`, on a CPU that QEMU imitates.
const IMITATED: bool = cfg!(target_arch = "aarch64");
/// Rows, columns, tiles: single elements, ragged panels and blocks, empty extents.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (4, 3, 2),
    (7, 130, 5),
    (65, 33, 3),
    (130, 300, 9),
    (270, 520, if IMITATED { 9 } else { 17 }),
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

/// What a result has to be.
struct Want {
    sums: Vec<f64>,
    /// Sums of the magnitudes of what is added up.
    magnitudes: Vec<f64>,
}

impl Want {
    fn of(product: Product, w: &CsrMatrix, x: &[f32], dy: &[f32], tiles: usize) -> Self {
        let abs = |xs: &[f32]| -> Vec<f32> { xs.iter().map(|x| x.abs()).collect() };
        let of_w = CsrMatrix::new(w.pattern().clone(), abs(w.values())).unwrap();
        let magnitudes = product.reference(&of_w, &abs(x), &abs(dy), tiles);
        Self { sums: product.reference(w, x, dy, tiles), magnitudes }
    }
}

/// What sums of f16 may be off, as a part of the magnitudes: that of so many roundings.
fn off(additions: usize) -> f64 {
    additions as f64 / 2048.0
}

/// Additions of f16 in a sum of a kernel, at most; of the products with W, those of a K block.
fn additions(name: &str, product: Product, w: &CsrMatrix) -> usize {
    if !name.contains("halves") {
        return 0;
    }
    let k = name.split("-k").nth(1).and_then(|k| k.split('-').next()?.parse().ok());
    match product {
        Product::WeightGradient => 18,
        Product::InputGradient => k.unwrap_or(128).min(w.pattern().rows()),
        _ => k.unwrap_or(128).min(w.pattern().columns()),
    }
}

#[track_caller]
fn assert_within(found: &[f32], want: &Want, additions: usize, what: &str) {
    assert_eq!(found.len(), want.sums.len(), "{what}");
    let (mut squares, mut limit) = (0.0, 0.0);
    for (i, found) in found.iter().enumerate() {
        let (want, magnitude) = (want.sums[i], want.magnitudes[i]);
        let error = (f64::from(*found) - want).abs();
        let bound = 1e-4 + off(additions) * magnitude;
        assert!(error < bound, "{what} at {i}: {found} is not {want}");
        squares += error * error;
        limit += (1e-4 + 2.0 * off(1) * magnitude).powi(2);
    }
    // Roundings do not all go the same way.
    assert!(squares <= limit, "{what}: off by {squares} in squares, more than {limit}");
}

/// The kernels that are of use on few registers or on many.
fn all_kernels() -> Vec<KernelSpec> {
    let key = |kernel: &KernelSpec| (kernel.name.clone(), kernel.product, kernel.precision);
    let mut all = kernels(8);
    let known: Vec<_> = all.iter().map(key).collect();
    all.extend(kernels(32).into_iter().filter(|kernel| !known.contains(&key(kernel))));
    all
}

/// Whether a kernel is one of f16 that are emulated on a CPU that is imitated: those run on small shapes.
fn is_slow(name: &str) -> bool {
    IMITATED && name.contains("halves")
}

/// The instruction sets that have code of their own for a kernel or plan: those that multiply its words by an instruction,
/// and the portable one, which imitates it; of numbers, all but those that extend another one for 16 bits. NEON with
/// BF16 runs the halves of NEON with FP16.
fn isas_of(name: &str) -> impl Iterator<Item = IsaKind> {
    let (pairs, halves) = (name.contains("pairs"), name.contains("halves"));
    IsaKind::available().into_iter().filter(move |&isa| {
        let of_pairs = isa.multiplies(Precision::Bf16);
        let of_halves = isa.multiplies(Precision::F16);
        match (pairs, halves) {
            (true, _) => of_pairs || isa == IsaKind::Scalar,
            (_, true) => of_halves && !of_pairs || isa == IsaKind::Scalar,
            _ => !(of_pairs || of_halves),
        }
    })
}

/// Numbers rounded to a precision.
fn rounded(precision: Precision, numbers: &[f32]) -> Vec<f32> {
    numbers.iter().map(|&x| precision.round(x)).collect()
}

/// A matrix whose values are rounded to a precision.
fn rounded_matrix(precision: Precision, w: &CsrMatrix) -> CsrMatrix {
    CsrMatrix::new(w.pattern().clone(), rounded(precision, w.values())).unwrap()
}

/// Runs every kernel of a precision on every instruction set.
fn check(w: &CsrMatrix, precision: Precision, tiles: usize, what: &str) {
    let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
    let x = numbers(columns * tiles * LANES, 2);
    let dy = numbers(rows * tiles * LANES, 3);
    let (exact_x, exact_dy) = (rounded(precision, &x), rounded(precision, &dy));
    let exact_w = rounded_matrix(precision, w);
    let x = InPrecision::new(precision, &x, columns);
    let dy = InPrecision::new(precision, &dy, rows);
    for product in Product::ALL {
        let want = Want::of(product, &exact_w, &exact_x, &exact_dy, tiles);
        let ours = |kernel: &&KernelSpec| {
            kernel.product == product
                && kernel.precision == precision
                && (rows * columns < 5_000 || !is_slow(&kernel.name))
        };
        for kernel in all_kernels().iter().filter(ours) {
            let mut first: Option<Vec<u32>> = None;
            for isa in isas_of(&kernel.name) {
                let what =
                    format!("{} {precision} {} on {isa}, {what}", product.name(), kernel.name);
                let mut found = vec![f32::NAN; product.output_len(w, tiles)];
                kernel.prepare(isa, w)(x.lines(), dy.lines(), &mut found);
                assert_within(&found, &want, additions(&kernel.name, product, w), &what);
                let first = first.get_or_insert_with(|| bits(&found));
                assert!(*first == bits(&found), "{what}: bits differ");
            }
        }
    }
}

#[test]
fn every_strategy_and_product_is_in_the_list() {
    let mut counts = BTreeMap::new();
    for kernel in all_kernels() {
        *counts.entry(kernel.product.name()).or_insert(0) += 1;
    }
    assert!(Product::ALL.iter().all(|product| counts[product.name()] >= 2), "{counts:?}");
    for precision in Precision::ALL {
        for strategy in Strategy::candidates(precision, IsaKind::active().unwrap().registers()) {
            let name = strategy.to_string();
            let all = all_kernels().into_iter();
            let listed = all.filter(|kernel| kernel.name == name && kernel.precision == precision);
            let products: Vec<Product> = listed.map(|kernel| kernel.product).collect();
            let able = Product::TRAINING.into_iter().filter(|&product| strategy.can(product));
            assert!(able.eq(products), "{name}");
        }
    }
}

fn check_on_all_shapes(precision: Precision) {
    for (rows, columns, tiles) in SHAPES {
        for sparsity in SPARSITIES {
            // Emulations are slow: of the largest shape, 16 bits take a part of the densities. Where the CPU is
            // imitated as well they take none of it, and one density of the next.
            let is_taken = match (rows * columns, IMITATED) {
                _ if precision == Precision::F32 => true,
                (..40_000, false) | (..30_000, true) => true,
                (_, false) => [0.5, 0.95].contains(&sparsity),
                (..40_000, true) => sparsity == 0.75,
                (_, true) => false,
            };
            if is_taken {
                let what = format!("{rows}×{columns}, sparsity {sparsity}, {tiles} tiles");
                check(&random(rows, columns, sparsity), precision, tiles, &what);
            }
        }
    }
}

#[test]
fn every_kernel_of_f32_equals_its_reference_on_every_isa() {
    check_on_all_shapes(Precision::F32);
}

#[test]
fn every_kernel_of_bf16_equals_its_reference_on_every_isa() {
    check_on_all_shapes(Precision::Bf16);
}

#[test]
fn every_kernel_of_f16_equals_its_reference_on_every_isa() {
    check_on_all_shapes(Precision::F16);
}

#[test]
fn uneven_and_empty_rows() {
    for precision in Precision::ALL {
        check(&uneven(), precision, 6, "uneven rows");
    }
}

/// The three products of a layer: biased forward, accumulating backward.
fn layer_products(layer: &LinearLayer, values: &[f32], tiles: usize) -> Vec<f32> {
    let (rows, columns) = (layer.rows(), layer.columns());
    let (x, dy) = (numbers(columns * tiles * LANES, 2), numbers(rows * tiles * LANES, 3));
    let precision = layer.plan().precision();
    let x = InPrecision::new(precision, &x, columns);
    let dy = InPrecision::new(precision, &dy, rows);
    let mut y = vec![f32::NAN; rows * tiles * LANES];
    layer.forward(values, x.lines(), &mut y, Initial::Bias(&numbers(rows, 4)));
    let mut dx = vec![1.0; columns * tiles * LANES];
    layer.input_gradient(values, dy.lines(), &mut dx, Initial::Held);
    let mut dw = vec![1.0; layer.nnz()];
    layer.weight_gradient(dy.lines(), x.lines(), &mut dw);
    [y, dx, dw].concat()
}

/// The strategies of a precision for few registers and for many.
fn strategies(precision: Precision) -> Vec<Strategy> {
    [8, 32].map(|registers| Strategy::candidates(precision, registers)).concat()
}

/// Plans that run one strategy wherever it can, and `dense` for the other products.
fn plans_of_each() -> impl Iterator<Item = LayerPlan> {
    let all = Precision::ALL.into_iter();
    all.flat_map(|precision| {
        strategies(precision).into_iter().map(move |strategy| {
            let dense: Strategy = "dense".parse().unwrap();
            let able =
                |product| if strategy.can(product) { strategy.clone() } else { dense.clone() };
            LayerPlan::new(precision, Product::TRAINING.map(able)).unwrap()
        })
    })
}

#[test]
fn layers_start_from_bias_and_accumulate_for_all_tile_sizes() {
    let w = random(130, 300, 0.7);
    let tiles = 9;
    let x = numbers(300 * tiles * LANES, 2);
    let dy = numbers(130 * tiles * LANES, 3);
    let bias = numbers(130, 4);
    let want = Precision::ALL.map(|precision| {
        let (x, dy) = (rounded(precision, &x), rounded(precision, &dy));
        let w = rounded_matrix(precision, &w);
        let mut want = Want::of(Product::Forward, &w, &x, &dy, tiles);
        for (i, want) in want.sums.iter_mut().enumerate() {
            *want += f64::from(bias[i / LANES % 130]);
        }
        for product in [Product::InputGradient, Product::WeightGradient] {
            let other = Want::of(product, &w, &x, &dy, tiles);
            want.sums.extend(other.sums.iter().map(|x| x + 1.0));
            want.magnitudes.extend(other.magnitudes);
        }
        want
    });
    let mut plans: Vec<LayerPlan> = plans_of_each().collect();
    for panel_rows in [1, 2, 4] {
        for vectors in [1, 2, 4, 8].into_iter().filter(|v| panel_rows < 4 || *v < 8) {
            for k_pass in [1, 3] {
                let unroll = if panel_rows * vectors <= 4 { 2 } else { 1 };
                let panels = |unroll: usize, k_block: usize| {
                    format!("panels-r{panel_rows}-v{vectors}-u{unroll}-k{k_block}-m48-p{k_pass}")
                };
                let (forward, dx) = (panels(unroll, 64), panels(1, 64));
                // Once the plan of the forward product, once its own.
                let dw = if k_pass == 1 { forward.clone() } else { panels(unroll, 50) };
                let precisions = ["", "bf16:", "f16:"];
                for precision in &precisions[..if IMITATED { 2 } else { 3 }] {
                    plans.push(format!("{precision}{forward}/{dx}/{dw}").parse().unwrap());
                }
                if vectors > 1 {
                    let pairs = |k_block: usize| {
                        format!("pairs-r{panel_rows}-v{vectors}-k{k_block}-m48-p{k_pass}")
                    };
                    let plan = format!("bf16:{}/{}/{}", pairs(64), pairs(63), pairs(50));
                    plans.push(plan.parse().unwrap());
                }
                if is_slow("halves") && k_pass > 1 {
                    continue;
                }
                let halves = |k_block: usize| {
                    format!("halves-r{panel_rows}-v{vectors}-k{k_block}-m48-p{k_pass}")
                };
                let plan = format!("f16:{}/{}/{}", halves(64), halves(63), halves(50));
                plans.push(plan.parse().unwrap());
            }
        }
    }
    for plan in plans {
        let mut first = None;
        for isa in isas_of(&plan.to_string()) {
            let mut layer = LinearLayer::sparse(isa, w.pattern().clone(), plan.clone());
            layer.refresh(w.values());
            let found = layer_products(&layer, w.values(), tiles);
            let want = &want[plan.precision() as usize];
            let name = plan.to_string();
            let additions = additions(&name, Product::Forward, &w);
            assert_within(&found, want, additions, &format!("{isa} {plan}"));
            let first = first.get_or_insert_with(|| bits(&found));
            assert!(*first == bits(&found), "{isa} {plan}: bits differ");
        }
    }
}

/// A dense layer against the sparse one whose pattern has no zero; both again after a refresh.
#[test]
fn dense_layers_equal_full_sparse_ones_and_follow_their_values() {
    for (rows, columns) in [(1, 1), (13, 37), (48, 64), (130, 300)] {
        let pattern = Arc::new(SparsePattern::full(rows, columns).unwrap());
        let all = IsaKind::available().into_iter();
        for (isa, precision) in all.flat_map(|isa| Precision::ALL.map(|precision| (isa, precision)))
        {
            let panels = "panels-r2-v2-u1-k64-m32-p2".parse::<Strategy>().unwrap();
            let plan =
                LayerPlan::new(precision, Product::TRAINING.map(|_| panels.clone())).unwrap();
            let mut layers = [
                LinearLayer::dense(isa, precision, rows, columns),
                LinearLayer::sparse(isa, pattern.clone(), plan),
            ];
            for seed in [5, 6] {
                let values = numbers(rows * columns, seed);
                let [dense, sparse] = layers.each_mut().map(|layer| {
                    layer.refresh(&values);
                    let mut all = layer_products(layer, &values, 3);
                    let mut y = vec![f32::NAN; rows];
                    layer.one_token(&values, &numbers(columns, 7), &mut y);
                    all.extend(y);
                    all
                });
                let sums: Vec<f64> = sparse.iter().map(|&x| f64::from(x)).collect();
                // No number is above one, so no magnitude is above the number of terms.
                let magnitudes = vec![rows.max(columns).max(3 * LANES) as f64; sums.len()];
                let want = Want { sums, magnitudes };
                let additions =
                    if isa.multiplies(precision) && precision == Precision::F16 { 18 } else { 0 };
                assert_within(
                    &dense,
                    &want,
                    additions,
                    &format!("{rows}×{columns} {precision} on {isa}"),
                );
            }
        }
    }
}

/// Checks that the products of a layer are the same on any number of threads.
fn check_threads(what: &str, tiles: usize, layer: impl Fn() -> (LinearLayer, Vec<f32>) + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut layer, values) = layer();
            layer.refresh(&values);
            bits(&layer_products(&layer, &values, tiles))
        })
    };
    let one = on(1);
    for &threads in if IMITATED { &[3][..] } else { &[2, 3, 8] } {
        assert!(on(threads) == one, "{what}, {threads} threads");
    }
}

#[test]
fn thread_counts_do_not_change_a_bit() {
    let isa = IsaKind::active().unwrap();
    // Emulations are slow, and thirteen tiles are shared out as well.
    let tiles = |name: &str, precision| {
        let of_words = ["pairs", "halves"].iter().any(|words| name.contains(words));
        let is_emulated = of_words && !isa.multiplies(precision);
        if is_emulated || IMITATED { 13 } else { 37 }
    };
    for w in [&random(300, 500, 0.75), &uneven()] {
        for plan in plans_of_each().filter(|plan| !is_slow(&plan.to_string())) {
            let name = plan.to_string();
            check_threads(&name, tiles(&name, plan.precision()), || {
                let layer = LinearLayer::sparse(isa, w.pattern().clone(), plan.clone());
                (layer, w.values().to_vec())
            });
        }
        let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
        for precision in Precision::ALL {
            check_threads(&format!("dense {precision}"), tiles("dense", precision), || {
                (LinearLayer::dense(isa, precision, rows, columns), w.to_dense())
            });
        }
    }
}
