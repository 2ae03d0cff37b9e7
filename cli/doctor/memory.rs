//! How much memory training takes, and whether this machine has it.

use mediswift_model::Config;
use mediswift_model::memory::Memory;
use mediswift_model::presets::{PRESETS, Preset};

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
        let of_preset = |preset: &'static Preset| {
            let mut config = Config::new(preset);
            let dense = Memory::of_step(&config).total();
            config.sparsity.sparsity = 0.75;
            let sparse = Memory::of_step(&config).total();
            Ok(Self { preset: preset.name, dense, sparse })
        };
        PRESETS.iter().map(of_preset).collect()
    }
}
