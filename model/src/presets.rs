//! [`PRESETS`]: model sizes with training defaults that suit them.
//!
//! `med`, `large` and `xl` are the paper's (MediSwift Table 5 and §3.2); the smaller ones are for
//! tests, laptops and small studies.

use crate::named::Named;
use serde::{Serialize, Serializer};

/// Entries of the paper's vocabulary.
pub const PAPER_VOCABULARY: usize = 42_384;

/// A model size and how to train it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Learned positions.
    pub context: usize,
    /// Sequences per optimiser step.
    pub batch: usize,
    /// Sequences per forward and backward pass.
    pub micro_batch: usize,
    /// Optimiser steps.
    pub steps: usize,
    /// Peak learning rate.
    pub lr: f64,
}

/// Every model size, smallest first.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "micro",
        layers: 2,
        d_model: 64,
        heads: 2,
        context: 64,
        batch: 8,
        micro_batch: 8,
        steps: 200,
        lr: 3e-3,
    },
    Preset {
        name: "tiny",
        layers: 4,
        d_model: 128,
        heads: 4,
        context: 128,
        batch: 16,
        micro_batch: 16,
        steps: 1_000,
        lr: 2e-3,
    },
    Preset {
        name: "mini",
        layers: 6,
        d_model: 256,
        heads: 4,
        context: 512,
        batch: 32,
        micro_batch: 8,
        steps: 2_000,
        lr: 1.5e-3,
    },
    Preset {
        name: "small",
        layers: 6,
        d_model: 384,
        heads: 6,
        context: 256,
        batch: 32,
        micro_batch: 8,
        steps: 5_000,
        lr: 1e-3,
    },
    Preset {
        name: "base",
        layers: 12,
        d_model: 768,
        heads: 12,
        context: 1024,
        batch: 128,
        micro_batch: 2,
        steps: 50_000,
        lr: 6e-4,
    },
    Preset {
        name: "med",
        layers: 24,
        d_model: 1024,
        heads: 16,
        context: 1024,
        batch: 512,
        micro_batch: 2,
        steps: 200_000,
        lr: 2e-4,
    },
    Preset {
        name: "large",
        layers: 18,
        d_model: 1536,
        heads: 12,
        context: 1024,
        batch: 512,
        micro_batch: 1,
        steps: 200_000,
        lr: 2e-4,
    },
    Preset {
        name: "xl",
        layers: 24,
        d_model: 2048,
        heads: 16,
        context: 1024,
        batch: 512,
        micro_batch: 1,
        steps: 200_000,
        lr: 2e-4,
    },
];

impl Named for &'static Preset {
    const WHAT: &'static str = "preset";

    fn all() -> impl Iterator<Item = Self> {
        PRESETS.iter()
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

/// Settings know a preset by its name.
impl Serialize for Preset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}
