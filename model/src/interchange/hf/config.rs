//! `config.json`: which GPT-2 a folder holds, and whether the engine has it.

use super::CONFIG;
use crate::config::ModelConfig;
use crate::config::checks::MOST_LAYERS;
use crate::error::Error;
use crate::init::Size;
use crate::presets::{PRESETS, Preset};
use mediswift_data::Tokenizer;
use mediswift_data::tokenizer::Kind;
use mediswift_engine::ops::EPSILON;
use mediswift_files::{self as files, SMALL};
use mediswift_kernels::Precision;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Names of the tanh approximation of GELU.
const ACTIVATIONS: [&str; 3] = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"];

/// Reads a JSON object.
/// # Errors
/// If the file is missing, too long or something else.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(&files::read_text(path, SMALL)?)
        .map_err(|error| Error::malformed(path, format!("no JSON object: {error}")))
}

/// What the engine needs to know of a `config.json`.
pub(super) struct Architecture {
    /// The sizes; the preset is the one that is most like them.
    pub(super) model: ModelConfig,
    /// Whether the output head is the token embedding.
    pub(super) is_tied: bool,
}

/// The fields of a `config.json`.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Architecture {
    /// Reads the `config.json` of `folder`.
    /// # Errors
    /// If it is missing or malformed, or describes a network that the engine does not have.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            let (path, what, lacks) = (folder.into(), "Hugging Face checkpoint", CONFIG);
            return Err(Error::NoRun { path, what, lacks });
        }
        let fields = Fields { fields: read_object(&path)?, path };
        fields.check_variant()?;
        let (layers, d_model, heads) =
            (fields.size("n_layer")?, fields.size("n_embd")?, fields.size("n_head")?);
        if !d_model.is_multiple_of(heads) {
            let problem = format!("{heads} does not divide n_embd = {d_model}");
            return Err(fields.refuse("n_head", problem));
        }
        if layers > MOST_LAYERS {
            return Err(fields.refuse("n_layer", format!("{layers} is above {MOST_LAYERS}")));
        }
        if let Some(inner) = fields.get("n_inner")
            && inner.as_u64() != (d_model as u64).checked_mul(4)
        {
            let problem = format!("{inner} is not 4 · n_embd, the width that the engine has");
            return Err(fields.refuse("n_inner", problem));
        }
        let positions = if fields.get("n_positions").is_some() { "n_positions" } else { "n_ctx" };
        let model = ModelConfig {
            preset: most_like(layers, d_model),
            layers,
            d_model,
            heads,
            context: fields.size(positions)?,
            vocabulary: fields.size("vocab_size")?,
        };
        Ok(Self { model, is_tied: fields.flag("tie_word_embeddings", true)? })
    }
}

impl Fields {
    /// A field that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn refuse(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::malformed(&self.path, format!("{key}: {problem}"))
    }

    /// A network that the engine does not have.
    fn foreign(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::incompatible(&self.path, format!("{key}: {problem}"))
    }

    /// A positive number.
    fn size(&self, key: &str) -> Result<usize, Error> {
        let value = self.get(key).ok_or_else(|| self.refuse(key, "it is missing"))?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        // Products of two sizes are computed later on.
        size.filter(|size| (1..u32::MAX as usize).contains(size))
            .ok_or_else(|| self.refuse(key, format!("{value} is no positive 32-bit number")))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.refuse(key, format!("{other} is neither true nor false"))),
        }
    }

    /// Refuses networks that are computed in another way than the engine's.
    fn check_variant(&self) -> Result<(), Error> {
        match self.get("model_type").and_then(Value::as_str) {
            Some("gpt2") => {}
            Some(other) => {
                let problem =
                    format!("'{other}' is another architecture: only gpt2 can be imported");
                return Err(self.foreign("model_type", problem));
            }
            None => return Err(self.foreign("model_type", "it is missing: expected gpt2")),
        }
        let activation = self.get("activation_function").unwrap_or(&Value::Null);
        if !activation.is_null() && !ACTIVATIONS.iter().any(|known| activation == known) {
            let problem = format!("{activation} is not the engine's, GELU by tanh (gelu_new)");
            return Err(self.foreign("activation_function", problem));
        }
        if let Some(epsilon) = self.get("layer_norm_epsilon")
            && epsilon.as_f64().map(|epsilon| epsilon as f32) != Some(EPSILON)
        {
            return Err(self.foreign("layer_norm_epsilon", format!("{epsilon} is not {EPSILON:e}")));
        }
        for (key, needed) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if self.flag(key, needed)? != needed {
                return Err(self.foreign(key, format!("the engine only has {needed}")));
            }
        }
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        for key in ["quantization_config", "pruned_heads"] {
            if self.get(key).is_some_and(|value| !is_empty(value)) {
                return Err(self.foreign(key, "such checkpoints cannot be imported"));
            }
        }
        Ok(())
    }
}

/// The preset whose blocks have the most similar number of weights: the defaults of training.
fn most_like(layers: usize, d_model: usize) -> &'static Preset {
    let size = |layers: usize, d_model: usize| (layers as f64).ln() + 2.0 * (d_model as f64).ln();
    let distance = |at: &usize| {
        let preset = &PRESETS[*at];
        (size(preset.layers, preset.d_model) - size(layers, d_model)).abs()
    };
    let nearest = (0..PRESETS.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
    &PRESETS[nearest.expect("presets")]
}

/// The `config.json` of a model of ours, with its weights in `precision`.
pub(super) fn describe(model: &ModelConfig, tokenizer: &Tokenizer, precision: Precision) -> Value {
    let dtype = match precision {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
        Precision::F16 => "float16",
    };
    let ids = special_ids(tokenizer);
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocabulary,
        "n_positions": model.context,
        "n_ctx": model.context,
        "n_embd": model.d_model,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": 4 * model.d_model,
        "activation_function": ACTIVATIONS[0],
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": true,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": Size { layers: model.layers, d_model: model.d_model }.std(),
        "tie_word_embeddings": true,
        "torch_dtype": dtype,
        "bos_token_id": ids["bos_token_id"],
        "eos_token_id": ids["eos_token_id"],
        "pad_token_id": ids["pad_token_id"],
    })
}

/// Ids at which texts begin and end: the `generation_config.json`. There is nothing to pad with but
/// the end of a text, unless the vocabulary has a token for it.
pub(super) fn special_ids(tokenizer: &Tokenizer) -> Value {
    let end = tokenizer.end_of_text();
    match tokenizer.kind() {
        Kind::ByteBpe => json!({ "bos_token_id": end, "eos_token_id": end, "pad_token_id": end }),
        // The order of fairseq's special tokens.
        Kind::MosesBpe(_) => json!({ "bos_token_id": 0, "eos_token_id": end, "pad_token_id": 1 }),
    }
}
