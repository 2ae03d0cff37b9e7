//! How much memory training takes, estimated from what the engine keeps.

use mediswift_model::Config;
use mediswift_model::presets::{PAPER_VOCABULARY, PRESETS};

/// Bytes of an `f32`.
const VALUE: u64 = 4;

/// Bytes that a non-zero takes besides its value, moments and gradients: its column (4), its place
/// in the plans of three products (3 × 6) and two packed copies (2 × 4).
const PLANS: u64 = 30;

/// Memory to train one preset.
pub struct Need {
    /// Its name.
    pub preset: &'static str,
    /// Bytes of a dense model.
    pub dense: u64,
    /// Bytes of a 75 % sparse one.
    pub sparse: u64,
}

impl Need {
    /// Of every preset, with the paper's vocabulary.
    pub fn of_presets() -> anyhow::Result<Vec<Self>> {
        let of_preset = |preset: &mediswift_model::presets::Preset| {
            let mut config = Config::from_preset(preset.name)?;
            config.model.vocabulary = PAPER_VOCABULARY;
            let dense = bytes(&config);
            config.sparsity.sparsity = 0.75;
            Ok(Self { preset: preset.name, dense, sparse: bytes(&config) })
        };
        PRESETS.iter().map(of_preset).collect()
    }
}

/// Parameters, two moments, the gradients that are summed at a time, plans, and the activations of
/// a micro-batch.
fn bytes(config: &Config) -> u64 {
    let (model, train) = (&config.model, &config.train);
    let (layers, d) = (model.layers as u64, model.d_model as u64);
    let all = 12 * layers * d * d;
    let kept = (all as f64 * (1.0 - config.sparsity.sparsity)) as u64;
    let plans = if kept < all { PLANS * kept } else { 0 };
    let embeddings = (model.vocabulary + model.context) as u64 * d;
    let parameters = kept + embeddings + 13 * layers * d;
    // One for every power of two in the number of micro-batches.
    let gradients = u64::from(config.micro_batches().ilog2()) + 1;
    // A block keeps the outputs of its ten operators: 18 d values per token. A few more are in use
    // while the gradient travels back.
    let tokens = (train.micro_batch * train.context) as u64;
    let activations = tokens * d * (18 * layers + 20);
    VALUE * (parameters * (3 + gradients) + activations) + plans
}
