//! [`Gpt`]: the GPT-3 architecture with sparse or dense linear layers.
//!
//! Pre-LayerNorm blocks, learned positions, GELU, causal attention, biases everywhere, and an
//! output head tied to the token embedding (MediSwift §3, Table 5):
//!
//! ```text
//! x = tok_embed[id] + pos_embed[position]
//! L times:  x += proj(attention(qkv(ln1(x))))
//!           x += down(gelu(up(ln2(x))))
//! logits = tok_embed · ln_final(x)
//! ```
//!
//! `qkv`, `proj`, `up` and `down` are sparse where their sparsity is above 0; everything else is
//! dense.

use crate::config::{Config, ModelConfig, SparsityConfig};
use crate::error::Error;
use crate::init::{Init, STD};
use crate::plans::{Planner, Plans};
use crate::sparsity::{LayerSparsity, LinearWeight, block_weights, layer_mask};
use mediswift_data::Sequence;
use mediswift_engine::ops::{self, Add, CausalAttention, CrossEntropy, Embedding, Gelu, LayerNorm};
use mediswift_engine::{
    Arena, Cost, Gradients, Layout, Loss, LossSum, Op, ParamId, Parameters, Shape, Tape, Tensor,
    Tiles, TokenLayout, Var,
};
use mediswift_kernels::ops::gemm::{Left, Out, gemm};
use mediswift_kernels::{AlignedBuffer, LinearLayer};
use std::ops::Range;
use std::sync::Arc;

/// Name of the soft prompt among the parameters.
pub const PROMPT: &str = "prompt.weight";

/// A GPT: its parameters and the execution plans of its linear layers.
pub struct Gpt {
    pub(crate) size: ModelConfig,
    pub(crate) parameters: Parameters,
    pub(crate) tok_embed: ParamId,
    pub(crate) pos_embed: ParamId,
    /// Vectors of virtual tokens, if the model has a soft prompt.
    pub(crate) prompt: Option<ParamId>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_final: Norm,
    /// Whether the backward pass computes the inside of blocks again.
    recompute: bool,
}

/// One transformer block.
pub(crate) struct Block {
    pub(crate) ln1: Norm,
    pub(crate) qkv: Linear,
    pub(crate) proj: Linear,
    pub(crate) ln2: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A LayerNorm.
pub(crate) struct Norm {
    pub(crate) gain: ParamId,
    pub(crate) bias: ParamId,
}

/// y = W x + b.
pub(crate) struct Linear {
    pub(crate) layer: LinearLayer,
    pub(crate) weight: ParamId,
    pub(crate) bias: ParamId,
}

/// Sequences of equal length with the tokens to predict, `[sequence][position]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// Sequences and their length.
    pub layout: TokenLayout,
    /// Tokens read.
    pub ids: Vec<u32>,
    /// Token that follows each.
    pub targets: Vec<u32>,
    /// Weight of each target in the loss; all 1 without.
    pub weights: Option<Vec<f32>>,
}

impl TokenBatch {
    /// Joins sequences of equal length; all targets weigh the same.
    /// # Panics
    /// If there is none, or their lengths differ.
    #[track_caller]
    pub fn new(sequences: impl Iterator<Item = Sequence>) -> Self {
        let (mut ids, mut targets, mut count, mut context) = (Vec::new(), Vec::new(), 0, 0);
        for sequence in sequences {
            context = sequence.inputs.len();
            ids.extend(sequence.inputs);
            targets.extend(sequence.targets);
            count += 1;
        }
        assert!(count > 0 && ids.len() == count * context, "sequences must be equally long");
        let layout = TokenLayout { sequences: count, context };
        Self { layout, ids, targets, weights: None }
    }

    /// Sum of the weights of all targets.
    pub fn weight(&self) -> f64 {
        match &self.weights {
            Some(weights) => weights.iter().map(|&w| f64::from(w)).sum(),
            None => self.targets.len() as f64,
        }
    }
}

impl Gpt {
    /// A model with random weights and masks, as seed, size and sparsity of `config` say.
    /// # Errors
    /// If a layer is too large for 32-bit indices.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let tensors = slots(&config.model).into_iter().map(|slot| {
            let shape = slot.shape(config, || slot.initial_values(config.train.seed))?;
            Ok((slot.name, shape))
        });
        let layout = Layout::new(tensors.collect::<Result<Vec<_>, Error>>()?);
        let mut parameters = Parameters::zeros(&layout);
        initialise(&mut parameters, &config.model, config.train.seed);
        Self::assemble(config, parameters)
    }

    /// A model of the size that `config` says with given weights, in any order; a soft prompt
    /// (`prompt.weight`, one row per virtual token) may be among them.
    /// # Errors
    /// If a tensor is missing, superfluous, of the wrong shape or not finite, if a sparse model
    /// lacks a mask or a dense one has some.
    pub fn from_parameters(config: &Config, given: Parameters) -> Result<Self, Error> {
        let mut slots = slots(&config.model);
        slots.extend(prompt_slot(config, &given));
        let extra = given.iter().find(|(_, p)| slots.iter().all(|slot| slot.name != p.name));
        if let Some((_, extra)) = extra {
            return Err(Error::ExtraTensor { name: extra.name.to_string() });
        }
        let mut tensors = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(id) = given.find(&slot.name) else {
                return Err(Error::MissingTensor { name: slot.name });
            };
            let found = given.get(id);
            slot.check(config, found)?;
            tensors.push((slot.name, found.shape.clone()));
        }
        let layout = Layout::new(tensors);
        let in_order = *given.layout() == layout;
        Self::assemble(config, if in_order { given } else { given.remapped(&layout) })
    }

    /// Finds every tensor and plans the linear layers. The parameters are those of [`slots`].
    ///
    /// # Errors
    /// If a plan in the configuration is none.
    fn assemble(config: &Config, parameters: Parameters) -> Result<Self, Error> {
        let size = config.model.clone();
        let mut planner = Planner::new(&config.kernels)?;
        let find = |name: &str| parameters.find(name).expect("all tensors are there");
        let norm = |name: &str| Norm {
            gain: find(&format!("{name}.weight")),
            bias: find(&format!("{name}.bias")),
        };
        let mut linear = |name: &str| -> Result<Linear, Error> {
            let (weight, bias) = (find(&format!("{name}.weight")), find(&format!("{name}.bias")));
            Ok(Linear { layer: planner.layer(parameters.get(weight).shape)?, weight, bias })
        };
        let block = |i| {
            Ok(Block {
                ln1: norm(&format!("blocks.{i}.ln1")),
                qkv: linear(&format!("blocks.{i}.attn.qkv"))?,
                proj: linear(&format!("blocks.{i}.attn.proj"))?,
                ln2: norm(&format!("blocks.{i}.ln2")),
                up: linear(&format!("blocks.{i}.mlp.up"))?,
                down: linear(&format!("blocks.{i}.mlp.down"))?,
            })
        };
        let blocks = (0..size.layers).map(block).collect::<Result<_, Error>>()?;
        let (tok_embed, pos_embed) = (find("tok_embed.weight"), find("pos_embed.weight"));
        let (prompt, ln_final) = (parameters.find(PROMPT), norm("ln_final"));
        let recompute = config.train.recompute;
        let mut gpt =
            Self { size, parameters, tok_embed, pos_embed, prompt, blocks, ln_final, recompute };
        gpt.refresh();
        Ok(gpt)
    }

    /// The plans of all sparse layers, as `[kernels]` of a configuration has them.
    pub fn plans(&self) -> Plans {
        let mut plans = Plans::new();
        for block in &self.blocks {
            for linear in [&block.qkv, &block.proj, &block.up, &block.down] {
                if let Some(key) = linear.layer.plan_key() {
                    plans.insert(key, linear.layer.plan().to_string());
                }
            }
        }
        plans
    }

    /// Depth, width, heads, positions and vocabulary.
    pub fn size(&self) -> &ModelConfig {
        &self.size
    }

    /// Virtual tokens of the soft prompt; their ids follow the vocabulary's.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.map_or(0, |prompt| self.parameters[prompt].len() / self.size.d_model)
    }

    /// The ids of the virtual tokens, in order.
    pub fn prompt_ids(&self) -> Range<u32> {
        let first = self.size.vocabulary as u32;
        first..first + self.prompt_tokens() as u32
    }

    /// The embedding `[d_model]` of a token that the caller has checked, or of a virtual one.
    pub(crate) fn embedding(&self, id: u32) -> &[f32] {
        let d = self.size.d_model;
        match (id as usize).checked_sub(self.size.vocabulary) {
            None => &self.parameters[self.tok_embed][id as usize * d..][..d],
            Some(row) => {
                let prompt = self.prompt.expect("virtual ids are those of a soft prompt");
                &self.parameters[prompt][row * d..][..d]
            }
        }
    }

    /// All trainable tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to change; [`Gpt::refresh`] afterwards.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Sparse and dense weights that sparsity applies to, block by block.
    pub fn linear_weights(&self) -> impl Iterator<Item = Tensor<'_>> {
        let linears = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.up, &b.down]);
        linears.map(|linear| self.parameters.get(linear.weight))
    }

    /// The sparsity of all these weights, as `config` wants it and as it is.
    pub fn layer_sparsity(&self, config: &SparsityConfig) -> Vec<LayerSparsity> {
        let layer = |weight: Tensor<'_>| LayerSparsity {
            name: weight.name.to_string(),
            target: config.of(weight.name),
            actual: match weight.shape {
                Shape::Sparse(pattern) => 1.0 - pattern.density(),
                _ => 0.0,
            },
            nnz: weight.values.len(),
        };
        self.linear_weights().map(layer).collect()
    }

    /// The parameters to change, and the packed weights to bring up to date with them.
    pub fn parameters_and_packed(&mut self) -> (&mut Parameters, PackedWeights<'_>) {
        (&mut self.parameters, PackedWeights { blocks: &mut self.blocks })
    }

    /// Brings the packed weights of linear layers up to date with the parameters.
    pub fn refresh(&mut self) {
        let (parameters, mut packed) = self.parameters_and_packed();
        parameters.iter().for_each(|(id, parameter)| packed.refresh(id, parameter.values));
    }

    /// The network up to the hidden states that the output head reads: `[features]` per token.
    pub(crate) fn forward<'a, R: Recorder<'a>>(&'a self, ids: &'a [u32], r: &mut R) -> R::Value {
        let (tokens, positions, prompt) = (self.tok_embed, self.pos_embed, self.prompt);
        let (features, heads) = (self.size.d_model, self.size.heads);
        let mut x = r.apply(Embedding { tokens, positions, prompt, ids, features }, &[]);
        for block in &self.blocks {
            let input = x;
            let h = block.ln1.apply(features, x, r);
            let qkv = block.qkv.apply(h, r);
            let h = r.apply(CausalAttention { heads, features }, &[qkv]);
            let h = block.proj.apply(h, r);
            x = r.apply(Add { features }, &[x, h]);

            let h = block.ln2.apply(features, x, r);
            let h = block.up.apply(h, r);
            let h = r.apply(Gelu { features: 4 * features }, &[h]);
            let h = block.down.apply(h, r);
            x = r.apply(Add { features }, &[x, h]);
            r.end_of_block(input, qkv, x);
        }
        self.ln_final.apply(features, x, r)
    }

    /// Runs the network on a tape; with `forget`, only the values between blocks are kept.
    pub(crate) fn record<'a>(&'a self, ids: &'a [u32], tape: &mut Tape<'a>, forget: bool) -> Var {
        self.forward(ids, &mut Recording { tape, parameters: &self.parameters, forget })
    }

    /// The output head with the loss of `batch`; gradients are scaled by `scale`.
    pub(crate) fn loss<'a>(&self, batch: &'a TokenBatch, scale: f32) -> CrossEntropy<'a> {
        CrossEntropy {
            weight: self.tok_embed,
            vocabulary: self.size.vocabulary,
            features: self.size.d_model,
            targets: &batch.targets,
            weights: batch.weights.as_deref(),
            scale,
        }
    }

    /// The loss of `batch`, and the gradients of that loss divided by `normaliser` (the weight of
    /// all targets of the optimiser step), which are **added** to `gradients`.
    /// # Errors
    /// If a token is not in the vocabulary or the sequences are longer than the model's positions.
    pub fn loss_and_gradients(
        &self,
        batch: &TokenBatch,
        normaliser: f64,
        gradients: &mut Gradients,
        arena: &mut Arena,
    ) -> Result<LossSum, Error> {
        self.check(batch)?;
        let mut tape = Tape::new(batch.layout, arena);
        let last = self.record(&batch.ids, &mut tape, self.recompute);
        let loss = self.loss(batch, (1.0 / normaliser) as f32);
        Ok(tape.backward(&loss, last, &self.parameters, gradients))
    }

    /// The loss of `batch`.
    /// # Errors
    /// As for [`Gpt::loss_and_gradients`].
    pub fn evaluate(&self, batch: &TokenBatch, arena: &mut Arena) -> Result<LossSum, Error> {
        self.check(batch)?;
        let mut tape = Tape::new(batch.layout, arena);
        let last = self.record(&batch.ids, &mut tape, true);
        Ok(self.loss(batch, 1.0).evaluate(tape.value(last), &self.parameters))
    }

    /// Logits `[sequence][position][vocabulary]`: for tests and small inputs, since training never
    /// holds them all.
    /// # Errors
    /// As for [`Gpt::loss_and_gradients`].
    pub fn logits(&self, ids: &[u32], layout: TokenLayout) -> Result<Vec<f32>, Error> {
        self.check_layout(layout, ids.len())?;
        self.check_inputs(ids)?;
        let mut arena = Arena::default();
        let mut tape = Tape::new(layout, &mut arena);
        let last = self.record(ids, &mut tape, true);
        let (vocabulary, features) = (self.size.vocabulary, self.size.d_model);
        let head = Left::row_major(&self.parameters[self.tok_embed], vocabulary, features);
        let mut logits = Tiles::zeros(layout, vocabulary);
        let hidden = tape.value(last).data();
        gemm(head, hidden, logits.data_mut(), Out::Tiles, false);
        Ok(logits.to_rows())
    }

    /// Exact work of loss and gradients on a batch of that layout: the sum over all operators.
    pub fn cost(&self, layout: TokenLayout) -> Cost {
        let mut ledger = Ledger { layout, cost: Cost::default() };
        self.forward(&[], &mut ledger);
        let batch = TokenBatch { layout, ids: vec![], targets: vec![], weights: None };
        ledger.cost + self.loss(&batch, 1.0).cost(layout)
    }

    /// # Errors
    /// If a token is not in the vocabulary or the sequences are longer than the model's positions.
    pub(crate) fn check(&self, batch: &TokenBatch) -> Result<(), Error> {
        self.check_layout(batch.layout, batch.ids.len())?;
        self.check_layout(batch.layout, batch.targets.len())?;
        if let Some(weights) = &batch.weights {
            self.check_layout(batch.layout, weights.len())?;
        }
        self.check_inputs(&batch.ids)?;
        self.check_tokens(&batch.targets)
    }

    fn check_layout(&self, layout: TokenLayout, tokens: usize) -> Result<(), Error> {
        if layout.context > self.size.context {
            let (tokens, positions) = (layout.context, self.size.context);
            return Err(Error::SequenceTooLong { tokens, positions });
        }
        assert_eq!(tokens, layout.tokens(), "tokens and layout disagree");
        Ok(())
    }

    /// # Errors
    /// If an id is neither in the vocabulary nor virtual.
    pub(crate) fn check_inputs(&self, ids: &[u32]) -> Result<(), Error> {
        match ids.iter().max() {
            Some(&id) if id as usize >= self.size.vocabulary + self.prompt_tokens() => {
                self.check_tokens(ids)
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// If an id is not in the vocabulary.
    pub(crate) fn check_tokens(&self, ids: &[u32]) -> Result<(), Error> {
        let vocabulary = self.size.vocabulary;
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(Error::Token { position, id: ids[position], vocabulary }),
            None => Ok(()),
        }
    }
}

/// Copies of the weights of linear layers in the orders of their products.
pub struct PackedWeights<'a> {
    blocks: &'a mut [Block],
}

impl PackedWeights<'_> {
    /// Packs the new values of parameter `id`, if a linear layer has copies of it.
    pub fn refresh(&mut self, id: ParamId, values: &[f32]) {
        let linears = self.blocks.iter_mut();
        let linears = linears.flat_map(|b| [&mut b.qkv, &mut b.proj, &mut b.up, &mut b.down]);
        linears
            .filter(|linear| linear.weight == id)
            .for_each(|linear| linear.layer.refresh(values));
    }
}

impl Norm {
    fn apply<'a, R: Recorder<'a>>(&self, features: usize, x: R::Value, r: &mut R) -> R::Value {
        r.apply(LayerNorm { gain: self.gain, bias: self.bias, features }, &[x])
    }
}

impl Linear {
    fn apply<'a, R: Recorder<'a>>(&'a self, x: R::Value, r: &mut R) -> R::Value {
        r.apply(ops::Linear { layer: &self.layer, weight: self.weight, bias: self.bias }, &[x])
    }
}

/// What the forward pass hands its operators to.
pub(crate) trait Recorder<'a> {
    type Value: Copy;
    fn apply(&mut self, op: impl Op + 'a, inputs: &[Self::Value]) -> Self::Value;
    /// What lies between a block's input and output is needed no more in the forward pass; `qkv` are
    /// its queries, keys and values.
    fn end_of_block(&mut self, input: Self::Value, qkv: Self::Value, output: Self::Value);
}

/// Runs every operator on a tape.
struct Recording<'t, 'a> {
    tape: &'t mut Tape<'a>,
    parameters: &'a Parameters,
    forget: bool,
}

impl<'a> Recorder<'a> for Recording<'_, 'a> {
    type Value = Var;
    fn apply(&mut self, op: impl Op + 'a, inputs: &[Var]) -> Var {
        self.tape.apply(op, inputs, self.parameters)
    }
    fn end_of_block(&mut self, input: Var, _: Var, output: Var) {
        if self.forget {
            self.tape.forget(input, output);
        }
    }
}

/// Runs nothing and adds up what it would cost.
struct Ledger {
    layout: TokenLayout,
    cost: Cost,
}

impl<'a> Recorder<'a> for Ledger {
    type Value = ();
    fn apply(&mut self, op: impl Op + 'a, _: &[()]) {
        self.cost = self.cost + op.cost(self.layout);
    }
    fn end_of_block(&mut self, _: (), _: (), _: ()) {}
}

/// Place of one tensor in a model.
pub(crate) struct Slot {
    pub(crate) name: String,
    /// `[n]` or `[rows, columns]`.
    pub(crate) extents: Vec<usize>,
    /// Where sparsity applies.
    linear: Option<LinearWeight>,
    init: Init,
}

/// Every tensor of a model of that size, in order.
pub(crate) fn slots(size: &ModelConfig) -> Vec<Slot> {
    let d = size.d_model;
    let (weight, residual) = (Init::Normal(STD), Init::residual(size.layers));
    let dense = |name: String, extents: &[usize], init| Slot {
        name,
        extents: extents.to_vec(),
        linear: None,
        init,
    };
    let mut slots = vec![
        dense("tok_embed.weight".into(), &[size.vocabulary, d], weight),
        dense("pos_embed.weight".into(), &[size.context, d], weight),
    ];
    let norm = |name: String| {
        let part = |part, init| dense(format!("{name}.{part}"), &[d], init);
        [part("weight", Init::Ones), part("bias", Init::Zeros)]
    };
    let linear = |weight: LinearWeight, init| {
        let (name, rows) = (weight.name.clone(), weight.rows);
        let bias = dense(name.replace(".weight", ".bias"), &[rows], Init::Zeros);
        [Slot { name, extents: vec![rows, weight.columns], linear: Some(weight), init }, bias]
    };
    for i in 0..size.layers {
        let [qkv, proj, up, down] = block_weights(size, i);
        slots.extend(norm(format!("blocks.{i}.ln1")));
        slots.extend(linear(qkv, weight));
        slots.extend(linear(proj, residual));
        slots.extend(norm(format!("blocks.{i}.ln2")));
        slots.extend(linear(up, weight));
        slots.extend(linear(down, residual));
    }
    slots.extend(norm("ln_final".into()));
    slots
}

/// Gives all tensors but a soft prompt their first values.
pub(crate) fn initialise(parameters: &mut Parameters, size: &ModelConfig, seed: u64) {
    let layout = Arc::clone(parameters.layout());
    for slot in slots(size) {
        let id = layout.find(&slot.name).expect("all tensors are there");
        slot.init.fill(&slot.name, &layout.place(id).shape, seed, &mut parameters[id]);
    }
}

/// The place of a soft prompt, if `given` has one.
fn prompt_slot(config: &Config, given: &Parameters) -> Option<Slot> {
    let rows = given.get(given.find(PROMPT)?).shape.extents()[0];
    let extents = vec![rows, config.model.d_model];
    Some(Slot { name: PROMPT.into(), extents, linear: None, init: Init::Normal(STD) })
}

impl Slot {
    /// Whether sparsity applies to the weight.
    pub(crate) fn can_be_sparse(&self) -> bool {
        self.linear.is_some()
    }

    /// The sparsity that the tensor is to have; without one it is dense.
    pub(crate) fn sparsity(&self, config: &Config) -> Option<f64> {
        let weight = self.linear.as_ref()?;
        Some(config.sparsity.of(&weight.name)).filter(|&sparsity| sparsity > 0.0)
    }

    /// The first values, dense.
    fn initial_values(&self, seed: u64) -> AlignedBuffer {
        let (rows, columns) = (self.extents[0], self.extents.get(1).copied().unwrap_or(1));
        self.init.values(&self.name, rows, columns, seed)
    }

    /// The shape, with the mask that the policy of `config` makes of the dense `values`.
    /// # Errors
    /// If the policy is unknown or the layer is too large for 32-bit indices.
    pub(crate) fn shape(
        &self,
        config: &Config,
        values: impl FnOnce() -> AlignedBuffer,
    ) -> Result<Shape, Error> {
        Ok(match (&self.extents[..], &self.linear) {
            (_, Some(weight)) if self.sparsity(config).is_some() => {
                Shape::Sparse(Arc::new(layer_mask(&config.sparsity, weight, values)?))
            }
            (&[n], _) => Shape::Vector(n),
            (extents, _) => Shape::Matrix(extents[0], extents[1]),
        })
    }

    /// Checks a tensor from outside.
    fn check(&self, config: &Config, tensor: Tensor<'_>) -> Result<(), Error> {
        let (name, Tensor { shape, values, .. }) = (self.name.clone(), tensor);
        let (found, expected) = (shape.extents(), self.extents.clone());
        if found != expected {
            return Err(Error::TensorShape { name, found, expected });
        }
        match (matches!(shape, Shape::Sparse(_)), self.sparsity(config)) {
            (false, Some(sparsity)) => {
                return Err(Error::SparsityOfTensor { name, sparsity, has_mask: false });
            }
            (true, None) => {
                return Err(Error::SparsityOfTensor { name, sparsity: 0.0, has_mask: true });
            }
            _ => {}
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(position) => {
                let value = values[position];
                Err(Error::NonFinite { what: "weight", name, position, value })
            }
            None => Ok(()),
        }
    }
}
