//! Times every kernel of the list, and the best dense library, on the layer shapes of the models.
//!
//! `cargo bench --bench kernels` runs on one thread; name a part of a benchmark's name to choose,
//! for example `cargo bench --bench kernels -- forward/1024`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::{KERNELS, Product};
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{AlignedBuffer, CsrMatrix, LANES};
use std::sync::Arc;
use std::time::Duration;

/// Output × input features.
const SHAPES: [(usize, usize); 3] = [(384, 384), (1536, 384), (1024, 1024)];
const SPARSITIES: [f64; 3] = [0.5, 0.75, 0.9];
const TOKENS: usize = 1024;

fn ramp(len: usize) -> AlignedBuffer {
    (0..len).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect()
}

/// Dense-equivalent FLOPs: what a dense product of the shape would take.
fn dense_flops(product: Product, rows: usize, columns: usize) -> u64 {
    let tokens = if product == Product::OneToken { 1 } else { TOKENS };
    2 * (rows * columns * tokens) as u64
}

fn kernels(criterion: &mut Criterion) {
    let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    for (rows, columns) in SHAPES {
        let (x, dy) = (ramp(columns * TOKENS), ramp(rows * TOKENS));
        for product in Product::ALL {
            let mut group =
                criterion.benchmark_group(format!("{}/{rows}x{columns}", product.name()));
            group.throughput(Throughput::Elements(dense_flops(product, rows, columns)));
            if product == Product::Forward {
                group.bench_function("dense library (gemm)", |bench| {
                    let w = ramp(rows * columns);
                    let mut y = AlignedBuffer::zeros(rows * TOKENS);
                    bench.iter(|| library_gemm(rows, columns, &w, &x, &mut y));
                });
            }
            for sparsity in SPARSITIES {
                let pattern = uniform_random(rows, columns, sparsity, 1).expect("a small matrix");
                let values = ramp(pattern.nnz()).to_vec();
                let w = CsrMatrix::new(Arc::new(pattern), values).expect("a value per non-zero");
                let mut out = AlignedBuffer::zeros(product.output_len(&w, TOKENS / LANES));
                for kernel in KERNELS.iter().filter(|kernel| kernel.product == product) {
                    let prepared = (kernel.prepare)(isa, &w);
                    let name = BenchmarkId::new(kernel.name, sparsity);
                    group.bench_function(name, |bench| {
                        bench.iter(|| pool.install(|| prepared(&x, &dy, &mut out)));
                    });
                }
            }
            group.finish();
        }
    }
}

/// Y = W · X with row-major operands.
fn library_gemm(rows: usize, columns: usize, w: &[f32], x: &[f32], y: &mut [f32]) {
    assert!(w.len() >= rows * columns && x.len() >= columns * TOKENS && y.len() >= rows * TOKENS);
    let tokens = TOKENS as isize;
    // SAFETY: the three matrices are row-major and as large as checked above.
    unsafe {
        gemm::gemm(
            rows,
            TOKENS,
            columns,
            y.as_mut_ptr(),
            1,
            tokens,
            false,
            w.as_ptr(),
            1,
            columns as isize,
            x.as_ptr(),
            1,
            tokens,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
