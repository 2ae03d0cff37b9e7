//! Times whole optimiser steps of dense and sparse twins, step by step in turn, so that all see the
//! same machine, and prints medians with realised and theoretical speedups.
//!
//! `cargo bench --bench step` uses all cores; `RAYON_NUM_THREADS=1` chooses the number.

use mediswift_engine::TokenLayout;
use mediswift_kernels::isa::IsaKind;
use mediswift_model::{Config, Error, Gpt, Optimisation, TokenBatch};
use std::time::Instant;

const SPARSITIES: [f64; 4] = [0.0, 0.5, 0.75, 0.9];
/// Preset, vocabulary, sequences per step, timed steps.
const CASES: [(&str, usize, usize, usize); 3] =
    [("small", 8_192, 8, 9), ("base", 8_192, 2, 5), ("med", 42_384, 1, 3)];

fn main() -> Result<(), Error> {
    let isa = IsaKind::active().unwrap_or_else(|error| panic!("{error}"));
    println!("{isa}, {} threads; medians of interleaved steps", rayon::current_num_threads());
    // Cargo passes options of its own; what is left chooses presets.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (preset, vocabulary, batch, steps) in CASES {
        if chosen.is_empty() || chosen.iter().any(|name| name == preset) {
            compare(preset, vocabulary, batch, steps)?;
        }
    }
    Ok(())
}

struct Twin {
    config: Config,
    optimisation: Optimisation,
    seconds: Vec<f64>,
}

fn compare(preset: &str, vocabulary: usize, batch: usize, steps: usize) -> Result<(), Error> {
    let twin = |sparsity| -> Result<Twin, Error> {
        let mut config = Config::from_preset(preset)?;
        config.model.vocabulary = vocabulary;
        config.sparsity.sparsity = sparsity;
        (config.train.batch, config.train.micro_batch) = (batch, batch);
        let optimisation = Optimisation::new(Gpt::new(&config)?, &config);
        Ok(Twin { config, optimisation, seconds: Vec::new() })
    };
    let mut twins = SPARSITIES.into_iter().map(twin).collect::<Result<Vec<_>, _>>()?;
    for step in 0..=steps {
        for twin in &mut twins {
            let batch = random_batch(&twin.config, step);
            let started = Instant::now();
            twin.optimisation.step(std::slice::from_ref(&batch))?;
            // The first step allocates what the others reuse.
            if step > 0 {
                twin.seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    let context = twins[0].config.train.context;
    println!("\n{preset}, {batch} × {context} tokens a step, vocabulary {vocabulary}");
    println!("sparsity  tokens/s  GFLOP/s  realised  theoretical");
    let (dense, dense_flops) = (median(&twins[0].seconds), flops(&twins[0]));
    for (twin, sparsity) in twins.iter().zip(SPARSITIES) {
        let (seconds, flops) = (median(&twin.seconds), flops(twin));
        println!(
            "{:7.0}%  {:8.0}  {:7.0}  {:7.2}×  {:10.2}×",
            sparsity * 100.0,
            (batch * context) as f64 / seconds,
            flops / seconds / 1e9,
            dense / seconds,
            dense_flops / flops,
        );
    }
    Ok(())
}

/// Work of one step.
fn flops(twin: &Twin) -> f64 {
    let train = &twin.config.train;
    let layout = TokenLayout { sequences: train.batch, context: train.context };
    let cost = twin.optimisation.gpt().cost(layout);
    (cost.forward_flops + cost.backward_flops) as f64
}

fn random_batch(config: &Config, step: usize) -> TokenBatch {
    let layout = TokenLayout { sequences: config.train.batch, context: config.train.context };
    let token = |i: usize| ((i + 31 * step) as u32).wrapping_mul(2_654_435_761) >> 7;
    let ids: Vec<u32> =
        (0..=layout.tokens()).map(|i| token(i) % config.model.vocabulary as u32).collect();
    TokenBatch {
        layout,
        targets: ids[1..].to_vec(),
        ids: ids[..layout.tokens()].to_vec(),
        weights: None,
    }
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
