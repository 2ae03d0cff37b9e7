//! What the server has to answer with.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mediswift_model::Gpt;
use serde_json::{Value, json};

/// What every answer says of the model.
pub const NOTICE: &str = "For research only. Not for clinical use.";

/// What answers requests.
pub struct Service {
    pub name: String,
    pub started: u64,
    pub gpt: Gpt,
    pub tokenizer: mediswift_data::Tokenizer,
    /// Held by the one request that computes.
    pub turn: Mutex<()>,
    /// Requests under way.
    pub active: AtomicUsize,
}

impl Service {
    /// Waits until no other request computes.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        // It guards no data that a panic could have left half-changed.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model as `/v1/models` lists it.
    pub fn model(&self) -> Value {
        json!({
            "id": self.name,
            "object": "model",
            "created": self.started,
            "owned_by": "mediswift",
            "max_model_len": self.gpt.size().context,
            "notice": NOTICE,
        })
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
