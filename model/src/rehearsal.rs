//! [`Rehearsal`]: the forward pass without a model, to know what its operators will cost and keep.
//!
//! Everything here is asked of the operators themselves ([`Op::cost`], [`Op::out_features`],
//! [`Op::saved_features`], [`Op::needs_input`]), in the order in which the forward pass applies them, so that
//! [`crate::flops`] and [`crate::memory`] follow from it.

use crate::architecture::slots;
use crate::config::ModelConfig;
use crate::gpt::network::{Linear, Network, Recorder};
use mediswift_engine::ops::LinearSize;
use mediswift_engine::{Cost, Layout, Loss, Need, Op, ParamId, TokenLayout};
use mediswift_kernels::Precision;
use std::collections::HashMap;
use std::ops::Range;

/// One operator of a forward pass.
struct Rehearsed {
    name: &'static str,
    cost: Cost,
    /// The operators that its inputs come from, and what it needs of them on the way back.
    inputs: Vec<(usize, Need)>,
    out_features: usize,
    saved_features: usize,
    needs_output: Need,
    /// When its output is read no more: after which operator, and what is kept of it then.
    spent: Option<(usize, Need)>,
}

/// All operators of a step on one batch.
pub(crate) struct Rehearsal {
    layout: TokenLayout,
    precision: Precision,
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
    /// sparsity applies to, multiplied in `precision`. Which of them does not matter: costs are proportional to
    /// their number.
    pub(crate) fn new(
        size: &ModelConfig,
        precision: Precision,
        layout: TokenLayout,
        mut kept: usize,
    ) -> Self {
        let slots = slots(size, 0);
        let tensors = Layout::new(slots.iter().map(|slot| (&*slot.name, slot.dense_shape())));
        let network = Network::new(size, precision, &tensors);
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
        let mut rehearsal = Self { layout, precision, weights, operators, head, blocks };
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
        self.forward(&mut buffers, true, false);
        buffers.made.exact
    }

    /// The forward pass; the blocks whose values were forgotten at their end, if they are to be.
    fn forward(&self, buffers: &mut Buffers, forget: bool, spend: bool) -> Vec<&Range<usize>> {
        let mut forgotten = Vec::new();
        let mut blocks = self.blocks.iter().filter(|_| forget).peekable();
        for (at, operator) in self.operators.iter().enumerate() {
            buffers.keep(operator);
            let spent = |(reader, _): (usize, Need)| spend && reader == at;
            let spent = self.operators[..at].iter().filter(|value| value.spent.is_some_and(spent));
            spent.for_each(|value| buffers.shrink(value));
            if let Some(block) = blocks.next_if(|block| block.end == at) {
                let inside = self.operators[block.clone()].iter();
                inside.for_each(|operator| buffers.forget(operator, spend));
                forgotten.push(block);
            }
        }
        forgotten
    }

    /// Values per token that a step needs buffers for: what [`mediswift_engine::Tape`] keeps, and the
    /// gradients that travel back, each in a buffer that was free or else a new one.
    pub(crate) fn features(&self, recompute: bool) -> Features {
        let mut buffers = Buffers::default();
        let mut forgotten = self.forward(&mut buffers, recompute, true);
        // Whose output has a part of its gradient.
        let mut started = vec![false; self.operators.len()];
        if let (Some(last), Some(started)) = (self.operators.last(), started.last_mut()) {
            buffers.take(last.out_features);
            *started = true;
        }
        for (at, operator) in self.operators.iter().enumerate().rev() {
            if let Some(block) = forgotten.pop_if(|block| block.end == at) {
                for at in block.clone() {
                    buffers.keep(&self.operators[at]);
                    // What is read at the end of the block is done when all of it is there.
                    let done = |(reader, _): (usize, Need)| reader.min(block.end - 1) == at;
                    let inside = self.operators[block.start..=at].iter();
                    let spent = inside.filter(|value| value.spent.is_some_and(done));
                    spent.for_each(|value| buffers.shrink(value));
                }
            }
            if started[at] {
                for &(input, _) in &operator.inputs {
                    if !std::mem::replace(&mut started[input], true) {
                        buffers.take(self.operators[input].out_features);
                    }
                }
                buffers.give(operator.out_features);
            }
            buffers.forget(operator, true);
        }
        buffers.made
    }
}

/// Values per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Of 32 bits.
    pub exact: usize,
    /// Of 16 bits.
    pub rounded: usize,
}

/// Buffers by their features, as an arena has them.
#[derive(Default)]
struct Buffers {
    free: HashMap<usize, usize>,
    free_of_half: HashMap<usize, usize>,
    /// Features of all buffers.
    made: Features,
}

impl Buffers {
    fn take(&mut self, features: usize) {
        match self.free.get_mut(&features) {
            Some(count) if *count > 0 => *count -= 1,
            _ => self.made.exact += features,
        }
    }

    fn give(&mut self, features: usize) {
        *self.free.entry(features).or_default() += 1;
    }

    /// What a spent value leaves in place of itself.
    fn shrink(&mut self, operator: &Rehearsed) {
        let features = operator.out_features;
        match operator.spent {
            None | Some((_, Need::Exact)) => return,
            Some((_, Need::Nothing)) => {}
            Some((_, Need::Rounded(_))) => match self.free_of_half.get_mut(&features) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.made.rounded += features,
            },
        }
        self.give(features);
    }

    /// What an operator leaves on the tape.
    fn keep(&mut self, operator: &Rehearsed) {
        self.take(operator.out_features);
        self.take(operator.saved_features);
    }

    /// The same, or what is left of it where values were spent.
    fn forget(&mut self, operator: &Rehearsed, spend: bool) {
        match operator.spent.filter(|_| spend) {
            None | Some((_, Need::Exact)) => self.give(operator.out_features),
            Some((_, Need::Nothing)) => {}
            Some((_, Need::Rounded(_))) => {
                *self.free_of_half.entry(operator.out_features).or_default() += 1;
            }
        }
        self.give(operator.saved_features);
    }
}

impl<'a> Recorder<'a> for Rehearsal {
    type Value = usize;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[usize]) -> usize {
        self.operators.push(Rehearsed {
            name: op.name(),
            cost: op.cost(self.layout),
            inputs: inputs.iter().enumerate().map(|(i, &x)| (x, op.needs_input(i))).collect(),
            out_features: op.out_features(),
            saved_features: op.saved_features(),
            needs_output: op.needs_output(),
            spent: None,
        });
        self.operators.len() - 1
    }

    fn linear(&mut self, linear: Linear, x: usize) -> usize {
        let size = &self.weights[&linear.weight];
        self.operators.push(Rehearsed {
            name: LINEAR,
            cost: size.cost(self.layout),
            inputs: vec![(x, Need::of_operand(self.precision))],
            out_features: size.outputs,
            saved_features: 0,
            needs_output: Need::Nothing,
            spent: None,
        });
        self.operators.len() - 1
    }

    fn spend(&mut self, value: usize) {
        let inputs = self.operators[value + 1..].iter().flat_map(|reader| &reader.inputs);
        let of_readers = inputs.filter(|(input, _)| *input == value).map(|(_, need)| *need);
        let need = of_readers.fold(self.operators[value].needs_output, Need::and);
        self.operators[value].spent = Some((self.operators.len() - 1, need));
    }

    fn end_of_block(&mut self, input: usize, output: usize) {
        self.blocks.push(input + 1..output);
    }
}
