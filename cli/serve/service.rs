//! What the server has to answer with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{SystemTime, UNIX_EPOCH};

use mediswift_data::Tokenizer;
use mediswift_model::Gpt;
use serde_json::{Value, json};

use super::guard::Guard;
use super::queue::Queue;

/// What every answer says of the model.
pub const NOTICE: &str = "For research only. Not for clinical use.";

/// What answers requests.
pub struct Service {
    pub name: String,
    pub started: u64,
    pub gpt: Gpt,
    pub tokenizer: Tokenizer,
    /// Bytes of text that a token may stand for, see [`longest_token`].
    pub longest_token: usize,
    /// Whether prompts are shown as fine-tuning did, with the model's soft prompt behind them.
    pub soft_prompt: bool,
    pub guard: Guard,
    /// For requests that are read and tokenized.
    pub reading: Queue,
    /// For requests that need the model.
    pub computing: Queue,
    /// Whether the server stops.
    pub stops: Arc<AtomicBool>,
    /// Requests that came.
    pub requests: AtomicU64,
}

impl Service {
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

/// Bytes of text that one token may stand for: those of the longest, and blanks that leave no token.
pub fn longest_token(tokenizer: &Tokenizer) -> usize {
    const FEWEST: usize = 64;
    let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).collect();
    let pieces = tokenizer.pieces(&ids).expect("they are the tokenizer's");
    pieces.iter().map(Vec::len).fold(FEWEST, usize::max)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
