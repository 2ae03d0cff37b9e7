//! [`Timing`]: at which steps masks move, and how much.

use super::schedule::DropShape;
use crate::config::{DropFractionConfig, SparsityConfig, UpdateConfig};

/// The updates of a run, and what it is that they are planned by. Steps count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// The step of the first update.
    pub first: usize,
    /// Steps from one to the next, at least 1.
    pub freq: usize,
    /// The step before which they end.
    pub stop: usize,
}

impl Timing {
    /// Those of a run of so many steps; none where masks stay.
    pub fn new(config: &SparsityConfig, steps: usize) -> Self {
        let UpdateConfig { start, freq, stop } = config.update;
        let freq = freq.max(1);
        let first = if start == 0 { freq } else { start };
        let stop = match (config.algorithm.moves(), config.algorithm.is_once(), stop) {
            (false, ..) => 0,
            (true, true, _) => first.saturating_add(1),
            (true, false, 0) => (3 * (steps as u128) / 4) as usize,
            (true, false, stop) => stop,
        };
        Self { first, freq, stop }
    }

    /// How many updates there are at the steps up to this one.
    pub fn updates_until(&self, step: usize) -> usize {
        match step.min(self.stop.saturating_sub(1)).checked_sub(self.first) {
            Some(after) => after / self.freq + 1,
            None => 0,
        }
    }

    /// How many there are.
    pub fn updates(&self) -> usize {
        self.updates_until(usize::MAX)
    }

    /// The step of an update, from 1.
    pub fn step_of(&self, update: usize) -> usize {
        self.first + (update - 1) * self.freq
    }

    /// The fraction of a mask's weights that an update at that step drops.
    pub fn drop_fraction(&self, config: &DropFractionConfig, step: usize) -> f64 {
        let &DropFractionConfig { r#type, init, half_period } = config;
        let half_period = if half_period == 0 { self.stop } else { half_period };
        match r#type {
            DropShape::Constant => init,
            DropShape::Cosine if step >= half_period => 0.0,
            DropShape::Cosine => {
                let angle = std::f64::consts::PI * step as f64 / half_period as f64;
                init / 2.0 * (1.0 + angle.cos())
            }
        }
    }
}
