//! A mask of one's own: every linear layer of a GPT keeps a band around its diagonal, and trains.
//!
//! `cargo run --release --example mask`

use std::collections::BTreeSet;
use std::sync::Arc;

use mediswift::engine::{Layout, Shape};
use mediswift::kernels::PatternError;
use mediswift::{Config, Gpt, Optimisation, SparsePattern, TokenBatch, TokenLayout};

/// Keeps a quarter of the columns around the place of each row, around the corner too.
fn band(rows: usize, columns: usize) -> Result<SparsePattern, PatternError> {
    let width = columns / 4;
    let (mut offsets, mut kept) = (vec![0], Vec::new());
    for row in 0..rows {
        let first = row * columns / rows;
        let mut of_row: Vec<u32> = (0..width).map(|at| ((first + at) % columns) as u32).collect();
        of_row.sort_unstable();
        kept.extend(of_row);
        offsets.push(kept.len() as u32);
    }
    // Whatever is no valid CSR structure is refused here.
    SparsePattern::new(rows, columns, offsets, kept)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::from_preset("micro")?;
    config.model.vocabulary = 32;
    config.set("train.steps=30")?;
    config.set("train.lr=3e-3")?;
    // The dense model, its tensors with other shapes, and what these keep of the values.
    let dense = Gpt::new(&config)?;
    let linear: BTreeSet<&str> = dense.linear_weights().map(|weight| weight.name).collect();
    let tensors = dense.parameters().iter().map(|(_, tensor)| {
        let shape = match tensor.shape {
            &Shape::Matrix(rows, columns) if linear.contains(tensor.name) => {
                Shape::Sparse(Arc::new(band(rows, columns)?))
            }
            shape => shape.clone(),
        };
        Ok((tensor.name, shape))
    });
    let layout = Layout::new(tensors.collect::<Result<Vec<_>, PatternError>>()?);
    config.sparsity.sparsity = 0.75;
    let gpt = Gpt::from_parameters(&config, dense.parameters().remapped(&layout))?;
    println!("{} of {} parameters", gpt.parameters().count(), dense.parameters().count());

    let layout = TokenLayout { sequences: 4, context: 16 };
    let ids: Vec<u32> = (0..layout.tokens()).map(|at| (at * at % 32) as u32).collect();
    let targets = ids.iter().map(|id| (id + 3) % 32).collect();
    let batch = TokenBatch { layout, ids, targets, weights: None };
    let mut optimisation = Optimisation::new(gpt, &config)?;
    let mut loss = || {
        Ok::<f64, Box<dyn std::error::Error>>(
            optimisation.step(std::slice::from_ref(&batch), &mut ())?.loss.mean(),
        )
    };
    let first = loss()?;
    let last = (1..30).map(|_| loss()).last().expect("steps")?;
    println!("{first:.3} → {last:.3}");
    assert!(last < 0.5 * first, "it learns");
    Ok(())
}
