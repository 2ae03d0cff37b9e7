//! [`Network`]: the forward pass, apart from what it runs on.

use crate::architecture::PROMPT;
use crate::config::ModelConfig;
use mediswift_engine::ops::{Add, CausalAttention, CrossEntropy, Embedding, Gelu, LayerNorm};
use mediswift_engine::{Layout, Op, ParamId};
use mediswift_kernels::Precision;

/// Which tensor of a layout does what.
pub(crate) struct Network {
    width: usize,
    heads: usize,
    vocabulary: usize,
    precision: Precision,
    pub(crate) tok_embed: ParamId,
    pos_embed: ParamId,
    /// Vectors of virtual tokens, if the model has a soft prompt.
    pub(crate) prompt: Option<ParamId>,
    blocks: Vec<Block>,
    ln_final: Norm,
}

/// One transformer block.
struct Block {
    ln1: Norm,
    qkv: Linear,
    proj: Linear,
    ln2: Norm,
    up: Linear,
    down: Linear,
}

/// A LayerNorm.
struct Norm {
    gain: ParamId,
    bias: ParamId,
}

/// y = W x + b.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) weight: ParamId,
    pub(crate) bias: ParamId,
}

/// What the forward pass hands its operators to.
pub(crate) trait Recorder<'a> {
    type Value: Copy;
    fn apply(&mut self, op: impl Op + 'a, inputs: &[Self::Value]) -> Self::Value;
    fn linear(&mut self, linear: Linear, x: Self::Value) -> Self::Value;
    /// No operator reads the value any more.
    fn spend(&mut self, _value: Self::Value) {}
    /// What lies between a block's input and output is needed no more in the forward pass.
    fn end_of_block(&mut self, input: Self::Value, output: Self::Value);
}

impl Network {
    /// Finds every tensor of a model whose products are in a precision.
    /// # Panics
    /// If one of [`crate::architecture`]'s is missing, but for the soft prompt.
    pub(crate) fn new(size: &ModelConfig, precision: Precision, layout: &Layout) -> Self {
        let find = |name: &str| layout.find(name).expect("all tensors are there");
        let norm = |name: &str| Norm {
            gain: find(&format!("{name}.weight")),
            bias: find(&format!("{name}.bias")),
        };
        let linear = |name: &str| Linear {
            weight: find(&format!("{name}.weight")),
            bias: find(&format!("{name}.bias")),
        };
        let block = |i| Block {
            ln1: norm(&format!("blocks.{i}.ln1")),
            qkv: linear(&format!("blocks.{i}.attn.qkv")),
            proj: linear(&format!("blocks.{i}.attn.proj")),
            ln2: norm(&format!("blocks.{i}.ln2")),
            up: linear(&format!("blocks.{i}.mlp.up")),
            down: linear(&format!("blocks.{i}.mlp.down")),
        };
        Self {
            width: size.d_model,
            heads: size.heads,
            vocabulary: size.vocabulary,
            precision,
            tok_embed: find("tok_embed.weight"),
            pos_embed: find("pos_embed.weight"),
            prompt: layout.find(PROMPT),
            blocks: (0..size.layers).map(block).collect(),
            ln_final: norm("ln_final"),
        }
    }

    /// Where the tensors of a block begin. Whatever follows there is read by this block or after it.
    pub(crate) fn start_of_block(&self, block: usize, layout: &Layout) -> usize {
        layout.place(self.blocks[block].ln1.gain).range.start
    }

    /// Every linear layer, in the order of the forward pass.
    pub(crate) fn linears(&self) -> impl Iterator<Item = Linear> {
        self.blocks.iter().flat_map(|block| [block.qkv, block.proj, block.up, block.down])
    }

    /// From token ids to the hidden states that the output head reads: `[features]` per token.
    pub(crate) fn forward<'a, R: Recorder<'a>>(&self, ids: &'a [u32], r: &mut R) -> R::Value {
        let (tokens, positions, prompt) = (self.tok_embed, self.pos_embed, self.prompt);
        let (features, heads, precision) = (self.width, self.heads, self.precision);
        let mut x = r.apply(Embedding { tokens, positions, prompt, ids, features }, &[]);
        for block in &self.blocks {
            let input = x;
            let norm = block.ln1.apply(features, x, r);
            let qkv = block.qkv.apply(norm, r);
            let mixed = r.apply(CausalAttention { heads, features, precision }, &[qkv]);
            r.spend(qkv);
            let attention = block.proj.apply(mixed, r);
            x = r.apply(Add { features }, &[x, attention]);
            r.spend(attention);

            let norm = block.ln2.apply(features, x, r);
            let up = block.up.apply(norm, r);
            let active = r.apply(Gelu { features: 4 * features }, &[up]);
            r.spend(up);
            let down = block.down.apply(active, r);
            x = r.apply(Add { features }, &[x, down]);
            r.spend(down);
            r.end_of_block(input, x);
        }
        self.ln_final.apply(features, x, r)
    }

    /// The output head, with nothing to predict.
    pub(crate) fn head(&self) -> CrossEntropy<'static> {
        let (weight, vocabulary, features) = (self.tok_embed, self.vocabulary, self.width);
        let (half, targets, weights, scale) = (None, &[][..], None, 1.0);
        CrossEntropy { weight, half, vocabulary, features, targets, weights, scale }
    }
}

impl Linear {
    /// The layer of a value that nothing else reads.
    fn apply<'a, R: Recorder<'a>>(self, x: R::Value, r: &mut R) -> R::Value {
        let y = r.linear(self, x);
        r.spend(x);
        y
    }
}

impl Norm {
    fn apply<'a, R: Recorder<'a>>(&self, features: usize, x: R::Value, r: &mut R) -> R::Value {
        r.apply(LayerNorm { gain: self.gain, bias: self.bias, features }, &[x])
    }
}
