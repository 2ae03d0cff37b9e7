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

mod batch;
pub(crate) mod layers;
pub(crate) mod network;
mod tensors;

pub use self::batch::TokenBatch;
pub(crate) use self::layers::Layers;
pub(crate) use self::tensors::initialise;

use self::network::{Linear, Network, Recorder};
use crate::architecture::{PROMPT, decays, slots};
use crate::config::{Config, ModelConfig, SparsityConfig};
use crate::error::Error;
use crate::plans::Plans;
use crate::sparsity::{LayerSparsity, LinearWeight, Targets, linear_weights};
use mediswift_engine::ops::{self, CrossEntropy, Observer};
use mediswift_engine::{
    Arena, Cost, Gradients, Layout, Loss, LossSum, Op, ParamId, Parameters, Shape, Tape, Tensor,
    TokenLayout, Var,
};
use mediswift_kernels::Precision;
use std::ops::Range;

/// A GPT: its parameters and the execution plans of its linear layers.
pub struct Gpt {
    size: ModelConfig,
    parameters: Parameters,
    network: Network,
    layers: Layers,
    /// Whether the backward pass computes the inside of blocks again.
    recompute: bool,
}

/// Refuses settings that make no model.
fn check(config: &Config) -> Result<(), Error> {
    config.validate_model()?;
    match config.model.vocabulary {
        0 => Err(Error::out_of_range("model.vocabulary", 0, "be that of the data, at least 1")),
        _ => Ok(()),
    }
}

impl Gpt {
    /// A model with random weights and masks, as seed, size and sparsity of `config` say.
    ///
    /// ```
    /// use mediswift_model::{Config, Gpt};
    ///
    /// let mut config = Config::from_preset("micro")?;
    /// config.model.vocabulary = 100;
    /// config.sparsity.sparsity = 0.75;
    /// let gpt = Gpt::new(&config)?;
    /// let weight = gpt.linear_weights().next().expect("a block has some");
    /// assert_eq!((weight.name, weight.shape.len()), ("blocks.0.attn.qkv.weight", 3 * 64 * 64 / 4));
    /// # Ok::<(), mediswift_model::Error>(())
    /// ```
    /// # Errors
    /// If the configuration is out of range or has no vocabulary, or a layer is too large for 32-bit
    /// indices.
    pub fn new(config: &Config) -> Result<Self, Error> {
        check(config)?;
        let targets = Targets::new(&config.sparsity, &config.model);
        let tensors = slots(&config.model, 0).into_iter().map(|slot| {
            let shape = slot.shape(config, &targets, || slot.initial_values(config.train.seed))?;
            Ok((slot.name, shape))
        });
        let layout = Layout::new(tensors.collect::<Result<Vec<_>, Error>>()?);
        let mut parameters = Parameters::zeros(&layout);
        initialise(&mut parameters, config, config.train.seed);
        Self::assemble(config, parameters)
    }

    /// A model of the size that `config` says with given weights, in any order; a soft prompt
    /// (`prompt.weight`, one row per virtual token) may be among them.
    /// # Errors
    /// If the configuration is out of range, a tensor is missing, superfluous, of the wrong shape or not
    /// finite, a sparse model lacks a mask or a dense one has some.
    pub fn from_parameters(config: &Config, given: Parameters) -> Result<Self, Error> {
        check(config)?;
        let prompt_tokens = given.find(PROMPT).map_or(0, |id| given.get(id).shape.extents()[0]);
        let slots = slots(&config.model, prompt_tokens);
        let extra = given.iter().find(|(_, p)| slots.iter().all(|slot| slot.name != p.name));
        if let Some((_, extra)) = extra {
            return Err(Error::ExtraTensor { name: extra.name.to_string() });
        }
        let targets = Targets::new(&config.sparsity, &config.model);
        let mut tensors = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(id) = given.find(&slot.name) else {
                return Err(Error::MissingTensor { name: slot.name });
            };
            let found = given.get(id);
            slot.check(config, &targets, found)?;
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
        let precision = config.train.precision;
        let network = Network::new(&config.model, precision, parameters.layout());
        let weights = network.linears().map(|linear| linear.weight);
        // A head of 16 bits has copies of its table too.
        let table = (precision != Precision::F32).then_some(network.tok_embed);
        let layers = Layers::new(config, &parameters, weights.chain(table))?;
        let (size, recompute) = (config.model.clone(), config.train.recompute);
        Ok(Self { size, parameters, network, layers, recompute })
    }

    /// The plans of all sparse layers, as `[kernels]` of a configuration has them.
    pub fn plans(&self) -> Plans {
        self.layers.plans()
    }

    /// The linear layers.
    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Depth, width, heads, positions and vocabulary.
    pub fn size(&self) -> &ModelConfig {
        &self.size
    }

    /// Virtual tokens of the soft prompt; their ids follow the vocabulary's.
    pub fn prompt_tokens(&self) -> usize {
        self.network.prompt.map_or(0, |prompt| self.parameters[prompt].len() / self.size.d_model)
    }

    /// The ids of the virtual tokens, in order.
    pub fn prompt_ids(&self) -> Range<u32> {
        let first = self.size.vocabulary as u32;
        first..first + self.prompt_tokens() as u32
    }

    /// All trainable tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to change; [`Gpt::refresh`] afterwards.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Whether weight decay applies, tensor by tensor.
    pub(crate) fn decays(&self) -> Vec<bool> {
        self.parameters.iter().map(|(_, tensor)| decays(tensor.name)).collect()
    }

    /// Sparse and dense weights that sparsity applies to, block by block.
    pub fn linear_weights(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.network.linears().map(|linear| self.parameters.get(linear.weight))
    }

    /// How many of these weights there are.
    pub(crate) fn kept(&self) -> usize {
        self.linear_weights().map(|weight| weight.values.len()).sum()
    }

    /// The sparsity of all these weights, as `config` wants it in the end and as it is.
    pub fn layer_sparsity(&self, config: &SparsityConfig) -> Vec<LayerSparsity> {
        let targets = Targets::new(config, &self.size);
        let layer = |(weight, tensor): (LinearWeight, Tensor<'_>)| LayerSparsity {
            target: targets.of(&weight),
            name: weight.name,
            actual: match tensor.shape {
                Shape::Sparse(pattern) => 1.0 - pattern.density(),
                _ => 0.0,
            },
            nnz: tensor.values.len(),
            weights: tensor.shape.extents().iter().product(),
        };
        linear_weights(&self.size).zip(self.linear_weights()).map(layer).collect()
    }

    /// Takes the same parameters under other masks of the weights `changed`, whose layers are planned anew.
    /// # Errors
    /// If a plan in the configuration is none.
    pub(crate) fn remask(
        &mut self,
        config: &Config,
        parameters: Parameters,
        changed: &[ParamId],
    ) -> Result<(), Error> {
        self.parameters = parameters;
        self.layers.replan(config, &self.parameters, changed)
    }

    /// The parameters to change, and the linear layers to bring up to date with them.
    pub(crate) fn parameters_and_layers(&mut self) -> (&mut Parameters, &mut Layers) {
        (&mut self.parameters, &mut self.layers)
    }

    /// Brings the linear layers up to date with the parameters.
    pub fn refresh(&mut self) {
        self.layers.refresh_all(&self.parameters);
    }

    /// The network up to the hidden states that the output head reads: `[d_model]` per token.
    pub(crate) fn forward<'a, R: Recorder<'a>>(&'a self, ids: &'a [u32], r: &mut R) -> R::Value {
        self.network.forward(ids, r)
    }

    /// Runs the network on a tape, and keeps only the values between blocks.
    pub(crate) fn record<'a>(&'a self, ids: &'a [u32], tape: &mut Tape<'a>) -> Var {
        let (forget, spend, inputs) = (true, false, Vec::new());
        let observer = None;
        self.forward(ids, &mut Recording { tape, gpt: self, observer, forget, spend, inputs })
    }

    /// The output head, with nothing to predict.
    pub(crate) fn head(&self) -> CrossEntropy<'_> {
        CrossEntropy { half: self.layers.get(self.network.tok_embed), ..self.network.head() }
    }

    /// The output head with the loss of `batch`; gradients are scaled by `scale`.
    pub(crate) fn loss<'a>(&'a self, batch: &'a TokenBatch, scale: f32) -> CrossEntropy<'a> {
        let (targets, weights) = (&*batch.targets, batch.weights.as_deref());
        CrossEntropy { targets, weights, scale, ..self.head() }
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
        self.loss_and_gradients_telling(batch, normaliser, gradients, arena, None, |_, _| {})
    }

    /// The same; an observer sees what the gradients of linear layers are made of, and `is_final` is told, block by
    /// block, from which element on no gradient changes any more. Those may be taken away.
    /// # Errors
    /// As for [`Gpt::loss_and_gradients`], before anything is computed.
    pub(crate) fn loss_and_gradients_telling(
        &self,
        batch: &TokenBatch,
        normaliser: f64,
        gradients: &mut Gradients,
        arena: &mut Arena,
        observer: Option<&dyn Observer>,
        mut is_final: impl FnMut(usize, &mut Gradients),
    ) -> Result<LossSum, Error> {
        self.check(batch)?;
        let mut tape = Tape::new(batch.layout, arena);
        let (forget, spend, inputs) = (self.recompute, true, Vec::new());
        let mut recording =
            Recording { tape: &mut tape, gpt: self, observer, forget, spend, inputs };
        let last = self.forward(&batch.ids, &mut recording);
        let mut inputs = recording.inputs;
        let loss = self.loss(batch, (1.0 / normaliser) as f32);
        let layout = self.parameters.layout();
        Ok(tape.backward_telling(&loss, last, &self.parameters, gradients, |at, gradients| {
            if inputs.pop_if(|input| at <= *input).is_some() {
                is_final(self.network.start_of_block(inputs.len(), layout), gradients);
            }
        }))
    }

    /// Exact work of loss and gradients on a batch of that layout: the sum over all operators.
    pub fn cost(&self, layout: TokenLayout) -> Cost {
        let mut ledger = Ledger { layout, gpt: self, cost: Cost::default() };
        self.forward(&[], &mut ledger);
        ledger.cost + self.head().cost(layout)
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

    pub(crate) fn check_layout(&self, layout: TokenLayout, tokens: usize) -> Result<(), Error> {
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

/// Runs every operator on a tape.
struct Recording<'t, 'a> {
    tape: &'t mut Tape<'a>,
    gpt: &'a Gpt,
    /// Who sees what the gradients of linear layers are made of.
    observer: Option<&'a dyn Observer>,
    /// Whether only the values between blocks are kept.
    forget: bool,
    /// Whether nothing but the backward pass comes after the forward pass; without one, what is spent is soon
    /// forgotten.
    spend: bool,
    /// Inputs of the blocks so far.
    inputs: Vec<Var>,
}

impl<'a> Recorder<'a> for Recording<'_, 'a> {
    type Value = Var;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[Var]) -> Var {
        self.tape.apply(op, inputs, &self.gpt.parameters)
    }

    fn linear(&mut self, linear: Linear, x: Var) -> Var {
        let observer = self.observer;
        self.apply(ops::Linear { observer, ..self.gpt.layers.operator(linear) }, &[x])
    }

    fn spend(&mut self, value: Var) {
        if self.spend {
            self.tape.spend(value);
        }
    }

    fn end_of_block(&mut self, input: Var, output: Var) {
        self.inputs.push(input);
        if self.forget {
            self.tape.forget(input, output);
        }
    }
}

/// Runs nothing and adds up what it would cost.
struct Ledger<'a> {
    layout: TokenLayout,
    gpt: &'a Gpt,
    cost: Cost,
}

impl<'a> Recorder<'a> for Ledger<'a> {
    type Value = ();

    fn apply(&mut self, op: impl Op + 'a, _: &[()]) {
        self.cost = self.cost + op.cost(self.layout);
    }

    fn linear(&mut self, linear: Linear, x: ()) {
        self.apply(self.gpt.layers.operator(linear), &[x]);
    }

    fn end_of_block(&mut self, (): (), (): ()) {}
}
