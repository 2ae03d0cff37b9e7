//! The folder of a GPT-2 model as Hugging Face's `transformers` writes and loads it.
//!
//! ```text
//! config.json              sizes and the variant of the architecture
//! model.safetensors        weights; or several files and model.safetensors.index.json
//! masks.safetensors        which weights exist: ours, if the model is sparse
//! soft_prompt.safetensors  vectors of virtual tokens: ours, if the model has a soft prompt
//! tokenizer.json, …        the tokenizer, as `Tokenizer::export` writes it
//! generation_config.json   where a text ends
//! README.md                the model card
//! ```
//!
//! Linear layers are Conv1D: `[in, out]`, so weights are transposed on the way; `c_attn` has q, k and
//! v side by side, as columns. The output head is the token embedding.
//!
//! `masks.safetensors` has, under the name of every sparse weight and in its shape, a BOOL tensor:
//! which weights exist. The others are 0 in `model.safetensors`. Its `__metadata__` is
//! `format: mediswift-masks`, `version: 1` and `sparsity`: the run's settings `[sparsity]` as JSON.
//!
//! `soft_prompt.safetensors` has one F32 tensor, `prompt_embeddings` `[virtual tokens, d_model]`. GPT-2
//! has no place for it: whoever uses it hands `inputs_embeds` to the model.

mod config;
mod export;
mod import;
mod masks;
mod prompt;

pub use export::export;
pub use import::{Import, Imported, import};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MASKS: &str = "masks.safetensors";
const SOFT_PROMPT: &str = "soft_prompt.safetensors";
const GENERATION: &str = "generation_config.json";
const CARD: &str = "README.md";

/// Where Hugging Face's GPT-2 with a head has its tensors.
const PREFIX: &str = "transformer.";
/// The output head, if it is written out.
const HEAD: &str = "lm_head.weight";
