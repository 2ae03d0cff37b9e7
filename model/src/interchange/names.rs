//! What the formats call a tensor.

/// Parts of a model outside its blocks: here, in Hugging Face's GPT-2, in GGUF.
const OUTER: [[&str; 3]; 3] = [
    ["tok_embed", "wte", "token_embd"],
    ["pos_embed", "wpe", "position_embd"],
    ["ln_final", "ln_f", "output_norm"],
];

/// Parts of a block.
const INNER: [[&str; 3]; 6] = [
    ["ln1", "ln_1", "attn_norm"],
    ["attn.qkv", "attn.c_attn", "attn_qkv"],
    ["attn.proj", "attn.c_proj", "attn_output"],
    ["ln2", "ln_2", "ffn_norm"],
    ["mlp.up", "mlp.c_fc", "ffn_up"],
    ["mlp.down", "mlp.c_proj", "ffn_down"],
];

/// The names of one tensor elsewhere.
pub(super) struct Names {
    /// In Hugging Face's GPT-2, without the `transformer.` before it.
    pub(super) hf: String,
    /// In GGUF.
    pub(super) gguf: String,
    /// Whether Hugging Face keeps it as a Conv1D: `[in, out]` instead of `[out, in]`.
    pub(super) is_conv1d: bool,
}

impl Names {
    /// The names of the tensor that is called `name` here.
    /// # Panics
    /// If a GPT has no such tensor.
    #[track_caller]
    pub(super) fn of(name: &str) -> Self {
        let find = |parts: &[[&'static str; 3]], part: &str| {
            let found = parts.iter().find(|[ours, ..]| *ours == part);
            *found.unwrap_or_else(|| panic!("a GPT has no tensor '{name}'"))
        };
        let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        match part.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((block, part)) => {
                let [_, hf, gguf] = find(&INNER, part);
                Self {
                    hf: format!("h.{block}.{hf}.{kind}"),
                    gguf: format!("blk.{block}.{gguf}.{kind}"),
                    is_conv1d: kind == "weight" && !part.starts_with("ln"),
                }
            }
            None => {
                let [_, hf, gguf] = find(&OUTER, part);
                let (hf, gguf) = (format!("{hf}.{kind}"), format!("{gguf}.{kind}"));
                Self { hf, gguf, is_conv1d: false }
            }
        }
    }
}
