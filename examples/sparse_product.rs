//! A sparse product in ten lines: Y = W · X for a weight W that lacks three elements in four.
//!
//! `cargo run --release --example sparse_product`

use mediswift::kernels::isa::IsaKind;
use mediswift::kernels::ops::{Initial, LayerPlan};
use mediswift::kernels::sparse::mask::uniform_random;
use mediswift::{CsrMatrix, LANES, LinearLayer, Precision};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (rows, columns, tiles) = (512, 256, 8);
    let isa = IsaKind::active()?;
    let pattern = std::sync::Arc::new(uniform_random(rows, columns, 0.75, 1)?);
    let values = (0..pattern.nnz()).map(|at| (at % 7) as f32 - 3.0).collect();
    let w = CsrMatrix::new(pattern.clone(), values)?;
    let mut layer = LinearLayer::sparse(isa, pattern, LayerPlan::of(Precision::F32, 0.25, isa));
    layer.refresh(w.values());
    // Activations are tiles of sixteen tokens, `[tile][feature][token]`.
    let x: Vec<f32> = (0..tiles * columns * LANES).map(|at| (at % 5) as f32).collect();
    let mut y = vec![0.0; tiles * rows * LANES];
    layer.forward(w.values(), &x, &mut y, Initial::Zero);

    // The same by definition, for one feature of one token: small whole numbers, so to the bit.
    let (tile, row, token) = (5, 300, 11);
    let dense = w.to_dense();
    let expected: f32 = (0..columns)
        .map(|column| dense[row * columns + column] * x[(tile * columns + column) * LANES + token])
        .sum();
    let found = y[(tile * rows + row) * LANES + token];
    assert_eq!(found, expected);
    println!("{} of {} weights, strategies {}: {found}", layer.nnz(), rows * columns, layer.plan());
    Ok(())
}
