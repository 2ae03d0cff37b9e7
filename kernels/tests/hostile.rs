//! What a caller can do wrong, without a line of unsafe code: shapes that disagree, extents that
//! overflow, tile sizes at the ends of their ranges. The answer is a panic, an error or the right result.
#![forbid(unsafe_code)]

use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::ops::gemm::{Left, Out, gemm, transpose_tiles};
use mediswift_kernels::ops::{Initial, LayerPlan, LinearLayer, Product, Strategy, gemv};
use mediswift_kernels::parallel::for_each_chunk;
use mediswift_kernels::sparse::mask::{MASKS, MaskFamily, uniform_random};
use mediswift_kernels::{
    AlignedBuffer, CsrMatrix, HalfTiles, InPrecision, LANES, Lines, PatternError, Precision,
    Scratch, SparsePattern,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

#[track_caller]
fn assert_panics<T>(what: &str, work: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err(), "{what} must panic");
}

/// Every plan that runs one strategy wherever it can.
fn plans() -> Vec<LayerPlan> {
    let csr: Strategy = "csr".parse().unwrap();
    let plan = |strategy: Strategy| {
        let able = |product| if strategy.can(product) { strategy.clone() } else { csr.clone() };
        LayerPlan::new(Precision::F32, Product::TRAINING.map(able)).unwrap()
    };
    let candidates = |registers| Strategy::candidates(Precision::F32, registers);
    [candidates(8), candidates(32)].concat().into_iter().map(plan).collect()
}

/// A dense layer and sparse ones of every strategy, all 5 × 20.
fn layers() -> Vec<LinearLayer> {
    let isa = IsaKind::active().unwrap();
    let pattern = Arc::new(uniform_random(5, 20, 0.5, 1).unwrap());
    let sparse = plans().into_iter().map(|plan| LinearLayer::sparse(isa, pattern.clone(), plan));
    sparse.chain([LinearLayer::dense(isa, Precision::F32, 5, 20)]).collect()
}

#[test]
fn layers_refuse_operands_of_other_extents() {
    let zeros = |len: usize| vec![0.0f32; len];
    for mut layer in layers() {
        let (x, y, w) = (2 * 20 * LANES, 2 * 5 * LANES, layer.nnz());
        layer.refresh(&zeros(w));
        layer.forward(&zeros(w), &zeros(x), &mut zeros(y), Initial::Bias(&zeros(5)));
        layer.input_gradient(&zeros(w), &zeros(y), &mut zeros(x), Initial::Zero);
        layer.weight_gradient(&zeros(y), &zeros(x), &mut zeros(w));
        for (w_off, x_off, y_off) in [
            (-1, 0, 0),
            (1, 0, 0),
            (0, -1, 0),
            (0, LANES as isize, 0),
            (0, 20 * LANES as isize, 0),
            (0, 0, -1),
            (0, 0, LANES as isize),
            (0, 0, 5 * LANES as isize),
            (0, 0, -(y as isize)),
        ] {
            let off = |len: usize, by: isize| zeros(len.checked_add_signed(by).unwrap());
            let (w, x, mut y) = (off(w, w_off), off(x, x_off), off(y, y_off));
            let what = format!("{layer:?} with {} weights, {} and {}", w.len(), x.len(), y.len());
            assert_panics(&what, || layer.forward(&w, &x, &mut y, Initial::Zero));
            assert_panics(&what, || layer.input_gradient(&w, &y, &mut x.clone(), Initial::Held));
            assert_panics(&what, || layer.weight_gradient(&y, &x, &mut w.clone()));
            if w_off != 0 {
                assert_panics(&what, || layer.refresh(&w));
                assert_panics(&what, || layer.one_token(&w, &zeros(20), &mut zeros(5)));
            }
        }
        for len in [0, 4, 6] {
            let bias = zeros(len);
            let run = || layer.forward(&zeros(w), &zeros(x), &mut zeros(y), Initial::Bias(&bias));
            assert_panics("a bias of another length", run);
        }
        for (x, y) in [(19, 5), (21, 5), (20, 4), (20, 6), (5, 20), (0, 5)] {
            let run = || layer.one_token(&zeros(w), &zeros(x), &mut zeros(y));
            assert_panics("one token of another size", run);
        }
    }
    assert_panics("matrix and vectors disagree", || gemv(&zeros(7), &zeros(2), &mut zeros(3)));
}

#[test]
fn dense_products_fill_their_result_exactly() {
    let (a, b) = (vec![1.0f32; 6 * 7], vec![1.0f32; 7 * 4 * LANES]);
    let exact = 6 * 4 * LANES;
    for out in [Out::Tiles, Out::Rows] {
        for len in [0, LANES, exact - LANES, exact - 1, exact + 1, exact + LANES, 2 * exact] {
            let mut c = vec![0.0; len];
            let left = Left::row_major(&a, 6, 7);
            assert_panics("a result of another length", || gemm(left, &b, &mut c, out, false));
        }
        let mut c = vec![f32::NAN; exact];
        gemm(Left::row_major(&a, 6, 7), &b, &mut c, out, false);
        assert!(c.iter().all(|&c| c == 7.0));
        let left = Left::row_major(&a, 6, 7);
        assert_panics("half a line", || gemm(left, &b[..7 * LANES - 8], &mut c, out, false));
        let left = Left::row_major(&[], 6, 0);
        assert_panics("lines for no column", || gemm(left, &b, &mut c, out, false));
    }
}

/// Layers of 16 bits, of every strategy and dense, 5 × 20.
fn half_layers() -> Vec<LinearLayer> {
    let isa = IsaKind::active().unwrap();
    let pattern = Arc::new(uniform_random(5, 20, 0.5, 1).unwrap());
    let mut layers = Vec::new();
    for precision in [Precision::Bf16, Precision::F16] {
        layers.push(LinearLayer::dense(isa, precision, 5, 20));
        for strategy in Strategy::candidates(precision, 32) {
            let plan = LayerPlan::new(precision, Product::TRAINING.map(|_| strategy.clone()));
            layers.push(LinearLayer::sparse(isa, pattern.clone(), plan.unwrap()));
        }
    }
    layers
}

#[test]
fn layers_of_16_bits_refuse_operands_of_other_extents_and_precisions() {
    for mut layer in half_layers() {
        let precision = layer.plan().precision();
        let of = |precision, tiles: usize, features| {
            HalfTiles::rounded(precision, &vec![0.0; tiles * features * LANES], features)
        };
        let w = vec![0.0; layer.nnz()];
        layer.refresh(&w);
        // Three tiles make two pairs.
        let (x, dy) = (of(precision, 3, 20), of(precision, 3, 5));
        let (mut y, mut dx) = (vec![0.0; 3 * 5 * LANES], vec![0.0; 3 * 20 * LANES]);
        layer.forward(&w, &x, &mut y, Initial::Zero);
        layer.input_gradient(&w, &dy, &mut dx, Initial::Zero);
        layer.weight_gradient(&dy, &x, &mut w.clone());
        let other = if precision == Precision::F16 { Precision::Bf16 } else { Precision::F16 };
        for (tiles, in_x, in_dy, precision) in
            [(1, 20, 5, precision), (5, 20, 5, precision), (3, 19, 4, precision), (3, 20, 5, other)]
        {
            let (bad_x, bad_dy) = (of(precision, tiles, in_x), of(precision, tiles, in_dy));
            let what = format!("{layer:?} with {tiles} {precision} tiles of {in_x} and {in_dy}");
            assert_panics(&what, || layer.forward(&w, &bad_x, &mut y, Initial::Zero));
            assert_panics(&what, || layer.input_gradient(&w, &bad_dy, &mut dx, Initial::Zero));
            assert_panics(&what, || layer.weight_gradient(&bad_dy, &x, &mut w.clone()));
            assert_panics(&what, || layer.weight_gradient(&dy, &bad_x, &mut w.clone()));
        }
        let wide = Lines::F32(&dx);
        assert_panics("f32 lines", || layer.forward(&w, wide, &mut y, Initial::Zero));
        assert_panics("other tiles", || of(precision, 2, 5).round(&dx, 20));
        assert_panics("f32 of 16 bits", || HalfTiles::rounded(Precision::F32, &dx, 20));
    }
}

#[test]
fn numbers_without_end_reach_the_results_of_16_bits() {
    for mut layer in half_layers() {
        let w = vec![1.0; layer.nnz()];
        layer.refresh(&w);
        for bad in [f32::NAN, f32::INFINITY, 1e39f64 as f32, 3e38] {
            // One token of one feature; in f16 the largest number is infinite as well.
            let mut x = vec![1.0; 2 * 20 * LANES];
            x[3 * LANES + 5] = bad;
            let x = HalfTiles::rounded(layer.plan().precision(), &x, 20);
            let mut y = vec![0.0; 2 * 5 * LANES];
            layer.forward(&w, &x, &mut y, Initial::Zero);
            let is_fine = |y: f32| y.abs() < 1e30;
            let hit = |y: &[f32], token: usize| !(0..5).all(|row| is_fine(y[row * LANES + token]));
            assert!(hit(&y, 5), "{layer:?}: {bad} is lost");
            assert!(
                (0..LANES).all(|token| token == 5 || !hit(&y, token)),
                "{layer:?}: {bad} spreads"
            );
        }
    }
}

#[test]
fn extents_that_overflow_are_refused() {
    let huge = [1 << 60, (1 << 60) + 1, 1 << 63, usize::MAX, usize::MAX - 15];
    for n in huge {
        assert_panics("row-major", || Left::row_major(&[], n, 16));
        assert_panics("row-major", || Left::row_major(&[], 16, n));
        assert_panics("transposed", || Left::transposed(&[], n, 16));
        assert_panics("tiles", || Left::tiles(&[0.0; LANES], n));
        assert_panics("transposed tiles", || transpose_tiles(&[0.0; LANES], n));
        assert_panics("a layer", || LinearLayer::dense(IsaKind::Scalar, Precision::F32, n, 16));
        assert_panics("a buffer", || AlignedBuffer::<f32>::zeros(n));
        assert_panics("scratch", || Scratch::take(n));
        let error = SparsePattern::full(n, 0).unwrap_err();
        assert!(matches!(error, PatternError::TooLarge { .. }), "{error}");
        assert!(SparsePattern::full(n, 16).is_err());
        assert!(SparsePattern::new(n, 1, vec![0], vec![]).is_err());
        for MaskFamily { name, draw } in MASKS {
            assert!(draw(n, 16, 0.5, 1).is_err() && draw(16, n, 0.5, 1).is_err(), "{name}");
        }
    }
    assert_panics("no features", || Left::tiles(&[], 0));
    assert_panics("no features", || transpose_tiles(&[], 0));
    assert_panics("chunks of nothing", || for_each_chunk(&mut [1.0], 0, |_, _| {}));
    // More non-zeros than 32 bits can name, in extents that they can.
    for MaskFamily { name, draw } in MASKS {
        let error = draw(1 << 20, 1 << 20, 0.5, 1).unwrap_err();
        assert!(matches!(error, PatternError::TooLarge { what: "nnz", .. }), "{name}: {error}");
    }
}

#[test]
fn tile_sizes_at_the_ends_of_their_ranges_give_right_products() {
    let max = usize::MAX;
    for (name, columns) in [
        // A block of 65,536 columns, all with the same row set: its count needs seventeen bits.
        (format!("panels-r4-v1-u1-k65536-m{max}-p{max}"), 1 << 16),
        (format!("panels-r1-v2-u2-k65536-m{max}-p1"), 1 << 16),
        (format!("panels-r2-v8-u1-k65536-m1-p{max}"), 70),
        ("panels-r4-v4-u1-k1-m1-p1".into(), 70),
        (format!("pairs-r4-v4-k65536-m{max}-p{max}"), 1 << 16),
        ("pairs-r2-v2-k1-m1-p1".into(), 70),
    ] {
        let rows = 4;
        let pattern = Arc::new(SparsePattern::full(rows, columns).unwrap());
        let values: Vec<f32> = (0..pattern.nnz()).map(|i| (i % 7) as f32 - 3.0).collect();
        let w = CsrMatrix::new(pattern.clone(), values.clone()).unwrap();
        let x: Vec<f32> = (0..columns * LANES).map(|i| (i % 5) as f32 - 2.0).collect();
        let dy: Vec<f32> = (0..rows * LANES).map(|i| (i % 3) as f32 - 1.0).collect();
        // Putting 65,536 rows together takes long; the product with Wᵀ has no such blocks.
        let dx = if columns == 70 { &name } else { "dense" };
        let precision = if name.starts_with("pairs") { Precision::Bf16 } else { Precision::F32 };
        let prefix = if precision == Precision::F32 { "" } else { "bf16:" };
        let plan: LayerPlan = format!("{prefix}{name}/{dx}/{name}").parse().unwrap();
        // Small whole numbers, which no precision rounds.
        let (lines_x, lines_dy) =
            (InPrecision::new(precision, &x, columns), InPrecision::new(precision, &dy, rows));
        for isa in IsaKind::available() {
            let mut layer = LinearLayer::sparse(isa, pattern.clone(), plan.clone());
            layer.refresh(&values);
            let mut y = vec![f32::NAN; rows * LANES];
            layer.forward(&values, lines_x.lines(), &mut y, Initial::Zero);
            let mut dx = vec![f32::NAN; x.len()];
            layer.input_gradient(&values, lines_dy.lines(), &mut dx, Initial::Zero);
            let mut dw = vec![0.0; values.len()];
            layer.weight_gradient(lines_dy.lines(), lines_x.lines(), &mut dw);
            let found = [y, dx, dw].into_iter().zip(Product::TRAINING);
            for (found, product) in found {
                let want = product.reference(&w, &x, &dy, 1);
                let close = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() < 1.0;
                let right = found.iter().zip(&want).all(close);
                assert!(right, "{name} on {isa}: {}", product.name());
            }
        }
    }
}

#[test]
fn a_plan_asks_no_strategy_for_what_it_declines() {
    for strategy in Strategy::candidates(Precision::F32, 32) {
        for (at, product) in Product::TRAINING.into_iter().enumerate() {
            let mut strategies: [Strategy; 3] = std::array::from_fn(|_| "csr".parse().unwrap());
            strategies[at] = strategy.clone();
            let name = strategies.each_ref().map(ToString::to_string).join("/");
            assert_eq!(
                LayerPlan::new(Precision::F32, strategies).is_ok(),
                strategy.can(product),
                "{name}"
            );
            assert_eq!(name.parse::<LayerPlan>().is_ok(), strategy.can(product), "{name}");
        }
    }
}
