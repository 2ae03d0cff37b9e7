//! Training on token ids of one's own: a sparse GPT learns to count, without files, tokenizer or folder.
//!
//! `cargo run --release --example train_tokens`

use mediswift::engine::TokenLayout;
use mediswift::{Config, Gpt, Optimisation, TokenBatch};

/// Tokens count from 0 to here and start again.
const NUMBERS: u32 = 24;

/// Sequences that start at different numbers.
fn batch(step: u32) -> TokenBatch {
    let layout = TokenLayout { sequences: 8, context: 32 };
    let token = |at: usize| {
        let (sequence, position) = (at / layout.context, at % layout.context);
        (7 * sequence as u32 + 5 * step + position as u32) % NUMBERS
    };
    let ids: Vec<u32> = (0..layout.tokens()).map(token).collect();
    let targets = ids.iter().map(|id| (id + 1) % NUMBERS).collect();
    TokenBatch { layout, ids, targets, weights: None }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::from_preset("micro")?;
    config.model.vocabulary = NUMBERS as usize;
    config.sparsity.sparsity = 0.75;
    config.set("train.steps=60")?;
    config.set("train.lr=3e-3")?;
    let mut optimisation = Optimisation::new(Gpt::new(&config)?, &config)?;
    let mut losses = Vec::new();
    for step in 0..60 {
        // A step may have several micro-batches, and a watch that stops it; `()` never does.
        let done = optimisation.step(&[batch(step)], &mut ())?;
        losses.push(done.loss.mean());
        if step % 20 == 0 {
            println!(
                "step {step}: loss {:.3}, learning rate {:.1e}",
                losses[losses.len() - 1],
                done.lr
            );
        }
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    println!("{first:.3} → {last:.3}");
    assert!(last < 0.5 * first, "it learns");
    Ok(())
}
