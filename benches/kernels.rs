//! Times every kernel of the list, and the best dense library, on the layer shapes of the models.
//!
//! `cargo bench --bench kernels` runs on one thread; name a part of a benchmark's name to choose,
//! for example `cargo bench --bench kernels -- forward/1024`. `mediswift bench layer` measures in
//! turns and judges; this is for watching one kernel while working on it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mediswift_kernels::baseline::{Baseline, Matrix};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::{KernelSpec, Product, kernels};
use mediswift_kernels::sparse::mask::{MASKS, MaskFamily};
use mediswift_kernels::{AlignedBuffer, CsrMatrix, InPrecision, LANES, Precision};
use std::sync::Arc;
use std::time::Duration;

/// Output × input features.
const SHAPES: [(usize, usize); 3] = [(384, 384), (1536, 384), (1024, 1024)];
/// Sparsities of random masks, and other masks with theirs.
const SPARSITIES: [f64; 3] = [0.5, 0.75, 0.9];
const OTHER_MASKS: [&str; 4] = ["row-skewed", "column-skewed", "block", "4x4"];
const OTHER_SPARSITY: f64 = 0.75;
const TOKENS: usize = 1024;

fn ramp(len: usize) -> AlignedBuffer {
    (0..len).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect()
}

/// Dense-equivalent FLOPs: what a dense product of the shape would take.
fn dense_flops(product: Product, rows: usize, columns: usize) -> u64 {
    let tokens = if product == Product::OneToken { 1 } else { TOKENS };
    2 * (rows * columns * tokens) as u64
}

fn products(criterion: &mut Criterion) {
    let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
    // Emulated instructions would take for ever.
    let emulated = |name: &str| name.contains("pairs") || name.contains("halves");
    let is_fast = |kernel: &KernelSpec| isa.multiplies(kernel.precision) || !emulated(&kernel.name);
    let list: Vec<KernelSpec> = kernels(isa.registers()).into_iter().filter(is_fast).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    for (rows, columns) in SHAPES {
        let (x, dy) = (ramp(columns * TOKENS), ramp(rows * TOKENS));
        let operands = Precision::ALL.map(|precision| {
            let x = InPrecision::new(precision, &x, columns);
            (precision, x, InPrecision::new(precision, &dy, rows))
        });
        for product in Product::ALL {
            let mut group =
                criterion.benchmark_group(format!("{}/{rows}x{columns}", product.name()));
            group.throughput(Throughput::Elements(dense_flops(product, rows, columns)));
            let weights = ramp(rows * columns);
            let w = Matrix::new(&weights, rows, columns);
            let (wide, tall) = (Matrix::new(&x, columns, TOKENS), Matrix::new(&dy, rows, TOKENS));
            let (left, right) = match product {
                Product::Forward => (w, wide),
                Product::InputGradient => (w.transposed(), tall),
                Product::WeightGradient => (tall, wide.transposed()),
                Product::OneToken => (w, Matrix::new(&x[..columns], columns, 1)),
            };
            let len = match product {
                Product::Forward => rows * TOKENS,
                Product::InputGradient => columns * TOKENS,
                Product::WeightGradient => rows * columns,
                Product::OneToken => rows,
            };
            let mut out = AlignedBuffer::zeros(len);
            group.bench_function("dense library (gemm)", |bench| {
                bench.iter(|| {
                    pool.install(|| Baseline::GemmCrate.multiply(isa, left, right, &mut out));
                });
            });
            for MaskFamily { name: mask, draw } in MASKS {
                for sparsity in SPARSITIES {
                    let is_wanted = match *mask {
                        "random" => true,
                        other => OTHER_MASKS.contains(&other) && sparsity == OTHER_SPARSITY,
                    };
                    if !is_wanted {
                        continue;
                    }
                    let pattern = draw(rows, columns, sparsity, 1).expect("a small matrix");
                    let values = ramp(pattern.nnz()).to_vec();
                    let w =
                        CsrMatrix::new(Arc::new(pattern), values).expect("a value per non-zero");
                    let mut out = AlignedBuffer::zeros(product.output_len(&w, TOKENS / LANES));
                    for kernel in list.iter().filter(|kernel| kernel.product == product) {
                        let mut all = operands.iter();
                        let of = all.find(|(precision, ..)| *precision == kernel.precision);
                        let (precision, x, dy) = of.expect("every precision");
                        let prepared = kernel.prepare(isa, &w);
                        let name = match precision {
                            Precision::F32 => kernel.name.clone(),
                            _ => format!("{precision} {}", kernel.name),
                        };
                        let name = BenchmarkId::new(name, format!("{mask} {sparsity}"));
                        group.bench_function(name, |bench| {
                            bench.iter(|| {
                                pool.install(|| prepared(x.lines(), dy.lines(), &mut out));
                            });
                        });
                    }
                }
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = products
}
criterion_main!(benches);
