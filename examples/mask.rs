//! A mask of one's own: every linear layer of a GPT keeps a band around its diagonal, and trains.
//!
//! `cargo run --release --example mask`

use mediswift::kernels::PatternError;
use mediswift::kernels::sparse::mask::kept;
use mediswift::model::sparsity::MaskPolicy;
use mediswift::{Config, Gpt, Optimisation, SparsePattern, TokenBatch, TokenLayout};

/// The columns nearest to the place of each row, around the corner too.
struct Band;

impl MaskPolicy for Band {
    fn name(&self) -> &'static str {
        "band"
    }

    fn mask<'v>(
        &self,
        rows: usize,
        columns: usize,
        sparsity: f64,
        _seed: u64,
        _values: &dyn Fn() -> &'v [f32],
    ) -> Result<SparsePattern, PatternError> {
        let count = kept(rows * columns, sparsity);
        let (mut offsets, mut all) = (vec![0], Vec::with_capacity(count));
        for row in 0..rows {
            // As many in every row, give or take one, and `count` in all.
            let width = count * (row + 1) / rows - count * row / rows;
            let first = row * columns / rows;
            let mut of_row: Vec<u32> = (0..width).map(|k| ((first + k) % columns) as u32).collect();
            of_row.sort_unstable();
            all.extend(of_row);
            offsets.push(all.len() as u32);
        }
        // Whatever is no valid CSR structure is refused here.
        SparsePattern::new(rows, columns, offsets, all)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::from_preset("micro")?;
    config.model.vocabulary = 32;
    (config.train.steps, config.train.lr) = (30, 3e-3);
    (config.sparsity.sparsity, config.sparsity.init_method) = (0.75, &Band);
    let gpt = Gpt::new(&config)?;
    for layer in gpt.layer_sparsity(&config.sparsity).iter().take(2) {
        println!("{}: {} weights, {:.1} % left out", layer.name, layer.nnz, 100.0 * layer.actual);
    }

    let layout = TokenLayout { sequences: 4, context: 16 };
    let ids: Vec<u32> = (0..layout.tokens()).map(|at| (at * at % 32) as u32).collect();
    let targets = ids.iter().map(|id| (id + 3) % 32).collect();
    let batch = [TokenBatch { layout, ids, targets, weights: None }];
    let mut optimisation = Optimisation::new(gpt, &config)?;
    let mut losses = Vec::new();
    for _ in 0..30 {
        losses.push(optimisation.step(&batch, &mut ())?.loss.mean());
    }
    println!("{:.3} → {:.3}", losses[0], losses[29]);
    assert!(losses[29] < 0.5 * losses[0], "it learns");
    Ok(())
}
