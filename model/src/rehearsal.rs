//! [`Rehearsal`]: the forward pass without a model, to know what its operators will cost and keep.
//!
//! Everything here is asked of the operators themselves ([`Op::cost`], [`Op::out_features`],
//! [`Op::saved_features`]), in the order in which the forward pass applies them, so that
//! [`crate::flops`] and [`crate::memory`] follow from it.

use crate::architecture::slots;
use crate::config::ModelConfig;
use crate::gpt::network::{Linear, Network, Recorder};
use mediswift_engine::ops::LinearSize;
use mediswift_engine::{Cost, Layout, Loss, Op, ParamId, TokenLayout};
use std::collections::HashMap;
use std::ops::Range;

/// One operator of a forward pass.
struct Rehearsed {
    name: &'static str,
    cost: Cost,
    /// The operators that its inputs come from.
    inputs: Vec<usize>,
    out_features: usize,
    saved_features: usize,
}

/// All operators of a step on one batch.
pub(crate) struct Rehearsal {
    layout: TokenLayout,
    weights: HashMap<ParamId, LinearSize>,
    operators: Vec<Rehearsed>,
    /// Name and cost of the output head with the loss.
    head: (&'static str, Cost),
    /// The operators between the input and the output of each block.
    blocks: Vec<Range<usize>>,
}

/// The name under which linear layers are rehearsed.
pub(crate) const LINEAR: &str = "linear layers";

impl Rehearsal {
    /// Rehearses a model of that size without a soft prompt, which keeps `kept` of the weights that
    /// sparsity applies to. Which of them does not matter: costs are proportional to their number.
    pub(crate) fn new(size: &ModelConfig, layout: TokenLayout, mut kept: usize) -> Self {
        let slots = slots(size, 0);
        let tensors = Layout::new(slots.iter().map(|slot| (&*slot.name, slot.dense_shape())));
        let network = Network::new(size, &tensors);
        let mut weights = HashMap::new();
        for linear in network.linears() {
            let extents = tensors.place(linear.weight).shape.extents();
            let nnz = kept.min(extents[0] * extents[1]);
            kept -= nnz;
            let size = LinearSize { outputs: extents[0], inputs: extents[1], nnz };
            weights.insert(linear.weight, size);
        }
        let head = network.head();
        let head = (head.name(), head.cost(layout));
        let (operators, blocks) = (Vec::new(), Vec::new());
        let mut rehearsal = Self { layout, weights, operators, head, blocks };
        network.forward(&[], &mut rehearsal);
        rehearsal
    }

    /// FLOPs of both passes by the names of operators, the output head with the loss at the end.
    pub(crate) fn flops(&self) -> Vec<(&'static str, f64)> {
        let operators = self.operators.iter().map(|operator| (operator.name, operator.cost));
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        for (name, cost) in operators.chain([self.head]) {
            let flops = (cost.forward_flops + cost.backward_flops) as f64;
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += flops,
                None => sums.push((name, flops)),
            }
        }
        sums
    }

    /// Values per token that an evaluation needs buffers for: it forgets every block at its end.
    pub(crate) fn features_of_inference(&self) -> usize {
        let mut buffers = Buffers::default();
        self.forward(&mut buffers, true);
        buffers.made
    }

    /// The forward pass; the blocks whose values were forgotten at their end, if they are to be.
    fn forward(&self, buffers: &mut Buffers, forget: bool) -> Vec<&Range<usize>> {
        let mut forgotten = Vec::new();
        let mut blocks = self.blocks.iter().filter(|_| forget).peekable();
        for (at, operator) in self.operators.iter().enumerate() {
            buffers.keep(operator);
            if let Some(block) = blocks.next_if(|block| block.end == at) {
                self.operators[block.clone()].iter().for_each(|operator| buffers.forget(operator));
                forgotten.push(block);
            }
        }
        forgotten
    }

    /// Values per token that a step needs buffers for: what [`mediswift_engine::Tape`] keeps, and the
    /// gradients that travel back, each in a buffer that was free or else a new one.
    pub(crate) fn features(&self, recompute: bool) -> usize {
        let mut buffers = Buffers::default();
        let mut forgotten = self.forward(&mut buffers, recompute);
        // Whose output has a part of its gradient.
        let mut started = vec![false; self.operators.len()];
        if let (Some(last), Some(started)) = (self.operators.last(), started.last_mut()) {
            buffers.take(last.out_features);
            *started = true;
        }
        for (at, operator) in self.operators.iter().enumerate().rev() {
            if let Some(block) = forgotten.pop_if(|block| block.end == at) {
                self.operators[block.clone()].iter().for_each(|operator| buffers.keep(operator));
            }
            if started[at] {
                for &input in &operator.inputs {
                    if !std::mem::replace(&mut started[input], true) {
                        buffers.take(self.operators[input].out_features);
                    }
                }
                buffers.give(operator.out_features);
            }
            buffers.forget(operator);
        }
        buffers.made
    }
}

/// Buffers by their features, as an arena has them.
#[derive(Default)]
struct Buffers {
    free: HashMap<usize, usize>,
    /// Features of all buffers.
    made: usize,
}

impl Buffers {
    fn take(&mut self, features: usize) {
        match self.free.get_mut(&features) {
            Some(count) if *count > 0 => *count -= 1,
            _ => self.made += features,
        }
    }

    fn give(&mut self, features: usize) {
        *self.free.entry(features).or_default() += 1;
    }

    /// What an operator leaves on the tape.
    fn keep(&mut self, operator: &Rehearsed) {
        self.take(operator.out_features);
        self.take(operator.saved_features);
    }

    fn forget(&mut self, operator: &Rehearsed) {
        self.give(operator.out_features);
        self.give(operator.saved_features);
    }
}

impl<'a> Recorder<'a> for Rehearsal {
    type Value = usize;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[usize]) -> usize {
        self.operators.push(Rehearsed {
            name: op.name(),
            cost: op.cost(self.layout),
            inputs: inputs.to_vec(),
            out_features: op.out_features(),
            saved_features: op.saved_features(),
        });
        self.operators.len() - 1
    }

    fn linear(&mut self, linear: Linear, x: usize) -> usize {
        let size = &self.weights[&linear.weight];
        self.operators.push(Rehearsed {
            name: LINEAR,
            cost: size.cost(self.layout),
            inputs: vec![x],
            out_features: size.outputs,
            saved_features: 0,
        });
        self.operators.len() - 1
    }

    fn end_of_block(&mut self, input: usize, output: usize) {
        self.blocks.push(input + 1..output);
    }
}
