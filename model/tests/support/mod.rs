//! A dataset and a configuration so small that a test trains in a moment.

use mediswift_data::{Dataset, Preparation, TokenizerSource, prepare, synth};
use mediswift_model::Config;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// A dataset of synthetic abstracts in `folder`, different for every seed.
pub fn dataset(folder: &Path, seed: u64) -> Arc<Dataset> {
    let lines: String = synth::records(seed)
        .take(5)
        .map(|record| serde_json::to_string(&record).unwrap() + "\n")
        .collect();
    let input = folder.join(format!("corpus-{seed}.jsonl"));
    std::fs::write(&input, lines).unwrap();
    let preparation = Preparation {
        tokenizer: TokenizerSource::Train {
            kind: mediswift_data::tokenizer::Kind::ByteBpe,
            vocab_size: 300,
            min_frequency: 2,
            sample: 1.0,
        },
        cleaning: mediswift_data::clean::Cleaning { near_duplicates: None, ..Default::default() },
        strict: true,
        validation_fraction: 0.4,
        shard_tokens: 10_000,
        ..Preparation::new(vec![input], folder.join(format!("data-{seed}")))
    };
    prepare(&preparation, &mut |_| ControlFlow::Continue(())).unwrap();
    Arc::new(Dataset::open(&preparation.out).unwrap())
}

/// A model of 2 × 32 that trains for 12 steps on 6 sequences of 24 tokens.
pub fn config(sparsity: f64) -> Config {
    let mut config = Config::from_preset("micro").unwrap();
    for assignment in [
        "model.d_model=32",
        "model.context=32",
        "train.steps=12",
        "train.batch=6",
        "train.micro_batch=2",
        "train.context=24",
        "eval.every=5",
        "eval.sequences=3",
        "checkpoint.every=4",
    ] {
        config.set(assignment).unwrap();
    }
    config.sparsity.sparsity = sparsity;
    config
}
