//! Every sparse kernel against its naive reference: instruction sets × shapes × densities × tile
//! sizes, and bitwise equality between instruction sets and thread counts.

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::plan::Blocking;
use mediswift_kernels::ops::sddmm::StripBlocking;
use mediswift_kernels::ops::spmm::{self, Start};
use mediswift_kernels::ops::{SparseLayer, sddmm, spmv};
use mediswift_kernels::sparse::mask::uniform_random;
use mediswift_kernels::{CsrMatrix, LANES, SparsePattern};
use std::sync::Arc;

/// Rows, columns, tiles: single elements, ragged panels and blocks, empty extents.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (4, 3, 2), (7, 130, 5), (65, 33, 3), (130, 300, 9), (3, 0, 1), (0, 5, 2)];
const SPARSITIES: [f64; 6] = [0.0, 0.3, 0.5, 0.75, 0.95, 1.0];

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// `[tile][feature][lane]` as a `[feature][token]` matrix in f64.
fn matrix(tiles: &[f32], features: usize) -> Vec<f64> {
    let count = tiles.len() / (features * LANES).max(1);
    let at = |feature: usize, token: usize| {
        ((token / LANES) * features + feature) * LANES + token % LANES
    };
    (0..features)
        .flat_map(|f| (0..count * LANES).map(move |t| f64::from(tiles[at(f, t)])))
        .collect()
}

struct Products {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    y1: Vec<f32>,
}

impl Products {
    fn bits(&self) -> Vec<u32> {
        [&self.y, &self.dx, &self.dw, &self.y1].into_iter().flatten().map(|x| x.to_bits()).collect()
    }
}

/// All four products of a layer.
fn products(layer: &SparseLayer, isa: IsaKind, w: &CsrMatrix, tiles: usize) -> Products {
    let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
    let x = numbers(columns * tiles * LANES, 2);
    let dy = numbers(rows * tiles * LANES, 3);
    let mut y = vec![f32::NAN; rows * tiles * LANES];
    layer.forward(&x, &mut y, Start::Bias(&numbers(rows, 4)));
    let mut dx = vec![1.0; columns * tiles * LANES];
    layer.input_gradient(&dy, &mut dx, Start::Accumulate);
    let mut dw = vec![1.0; w.pattern().nnz()];
    layer.weight_gradient(&dy, &x, &mut dw);
    let mut y1 = vec![f32::NAN; rows];
    spmv::spmv_on(isa, w.pattern(), w.values(), &x[..columns], &mut y1);
    Products { y, dx, dw, y1 }
}

fn close(got: f32, want: f64, what: &str) {
    assert!((f64::from(got) - want).abs() < 1e-4, "{what}: {got} is not {want}");
}

/// Compares all products with the naive references.
fn check(found: &Products, w: &CsrMatrix, tiles: usize, what: &str) {
    let (rows, columns) = (w.pattern().rows(), w.pattern().columns());
    let tokens = tiles * LANES;
    let x = numbers(columns * tokens, 2);
    let bias = numbers(rows, 4);
    let x_matrix = matrix(&x, columns);
    let dy_matrix = matrix(&numbers(rows * tokens, 3), rows);

    let want = spmm::naive(w, &x_matrix, tokens);
    for (i, got) in matrix(&found.y, rows).iter().enumerate() {
        close(*got as f32, want[i] + f64::from(bias[i / tokens]), &format!("{what} forward {i}"));
    }
    let transposed = CsrMatrix::from_sprs(&w.to_sprs().transpose_into().to_csr()).unwrap();
    let want = spmm::naive(&transposed, &dy_matrix, tokens);
    for (i, got) in matrix(&found.dx, columns).iter().enumerate() {
        close(*got as f32, want[i] + 1.0, &format!("{what} input gradient {i}"));
    }
    let want = sddmm::naive(w.pattern(), &dy_matrix, &x_matrix, tokens);
    for (i, got) in found.dw.iter().enumerate() {
        close(*got, want[i] + 1.0, &format!("{what} weight gradient {i}"));
    }
    let x1: Vec<f64> = x[..columns].iter().map(|&x| f64::from(x)).collect();
    for (i, want) in spmv::naive(w, &x1).into_iter().enumerate() {
        close(found.y1[i], want, &format!("{what} one token {i}"));
    }
}

fn blockings() -> Vec<(Blocking, StripBlocking)> {
    let mut all = Vec::new();
    for panel_rows in [1, 2, 4] {
        for vectors in [1, 2, 4] {
            let panels = Blocking { panel_rows, vectors, k_block: 64, row_block: 48 };
            let strips = StripBlocking { vectors: 2 * vectors, column_block: 50, row_block: 40 };
            all.push((panels, strips));
        }
    }
    all
}

fn random(rows: usize, columns: usize, sparsity: f64) -> CsrMatrix {
    let pattern = Arc::new(uniform_random(rows, columns, sparsity, 7).unwrap());
    let values = numbers(pattern.nnz(), 1);
    CsrMatrix::new(pattern, values).unwrap()
}

#[test]
fn every_isa_equals_the_references_and_each_other_bit_for_bit() {
    for (rows, columns, tiles) in SHAPES {
        for sparsity in SPARSITIES {
            let w = random(rows, columns, sparsity);
            for (panels, strips) in blockings() {
                let mut first: Option<Vec<u32>> = None;
                for isa in IsaKind::available() {
                    let mut layer =
                        SparseLayer::with_blocking(isa, w.pattern().clone(), panels, strips);
                    layer.refresh(w.values());
                    let found = products(&layer, isa, &w, tiles);
                    let what = format!("{isa} {rows}×{columns} {sparsity} {panels:?}");
                    match &first {
                        None => {
                            check(&found, &w, tiles, &what);
                            first = Some(found.bits());
                        }
                        Some(bits) => assert!(found.bits() == *bits, "{what}: bits differ"),
                    }
                }
            }
        }
    }
}

#[test]
fn thread_counts_do_not_change_a_bit() {
    let isa = IsaKind::active().unwrap();
    let w = random(300, 500, 0.75);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut layer = SparseLayer::new(w.pattern().clone());
            layer.refresh(w.values());
            products(&layer, isa, &w, 37).bits()
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn uneven_and_empty_rows_are_planned() {
    // Row r has 3·r mod 41 non-zeros at a row-dependent offset; every fifth row is empty.
    let (rows, columns) = (90, 120);
    let (mut offsets, mut indices) = (vec![0u32], Vec::new());
    for row in 0..rows {
        let count = if row % 5 == 0 { 0 } else { 3 * row % 41 };
        indices.extend((0..count).map(|i| (row % 30 + 2 * i) as u32));
        offsets.push(indices.len() as u32);
    }
    let pattern = Arc::new(SparsePattern::new(rows, columns, offsets, indices).unwrap());
    let values = numbers(pattern.nnz(), 5);
    let w = CsrMatrix::new(pattern, values).unwrap();
    let isa = IsaKind::active().unwrap();
    for (panels, strips) in blockings() {
        let mut layer = SparseLayer::with_blocking(isa, w.pattern().clone(), panels, strips);
        layer.refresh(w.values());
        check(&products(&layer, isa, &w, 6), &w, 6, &format!("{panels:?}"));
    }
}
