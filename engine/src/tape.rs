//! The tape: records operators as they run, then walks them back.

use crate::{Gradients, Parameters, Pass, Profile, Tiles, TokenLayout};
use mediswift_kernels::AlignedBuffer;
use std::collections::HashMap;
use std::ops::Range;

/// A value on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(usize);

/// Exact work of an operator on one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations of the forward pass.
    pub forward_flops: u64,
    /// Floating-point operations of the backward pass.
    pub backward_flops: u64,
    /// Bytes that both passes read and write at least once: operands, results and their gradients.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            forward_flops: self.forward_flops + other.forward_flops,
            backward_flops: self.backward_flops + other.backward_flops,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |a, b| a + b)
    }
}

/// What an operator's backward pass reads and writes.
pub struct Backward<'a> {
    /// Inputs of the forward pass.
    pub x: &'a [&'a Tiles],
    /// Output of the forward pass.
    pub y: &'a Tiles,
    /// What the forward pass saved.
    pub saved: &'a Tiles,
    /// Gradient of the output.
    pub dy: &'a Tiles,
    /// Gradients of the inputs, one for each: **add** to those whose `accumulate` is set,
    /// overwrite the others (they hold garbage).
    pub dx: &'a mut [Tiles],
    /// Which of `dx` already hold a part of their gradient.
    pub accumulate: &'a [bool],
    /// The model's parameters.
    pub parameters: &'a Parameters,
    /// Gradients of the parameters: always **add**.
    pub gradients: &'a mut Gradients,
}

/// A differentiable operator on token tiles.
pub trait Op: Sync {
    /// Name in profiles and test reports.
    fn name(&self) -> &'static str;

    /// Features of the output.
    fn out_features(&self) -> usize;

    /// Values per token that the forward pass saves for the backward pass.
    fn saved_features(&self) -> usize {
        0
    }

    /// Computes `y` from `x`; both `y` and `saved` hold garbage before.
    /// Padding lanes must be written too, with finite values.
    fn forward(&self, x: &[&Tiles], parameters: &Parameters, y: &mut Tiles, saved: &mut Tiles);

    /// Propagates `dy` to the inputs and to the parameters.
    fn backward(&self, pass: Backward<'_>);

    /// Exact work on a batch of that layout, padding not counted.
    fn cost(&self, layout: TokenLayout) -> Cost;
}

/// A sum of token losses and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Σ weight · loss, in nats.
    pub sum: f64,
    /// Σ weight.
    pub weight: f64,
}

impl LossSum {
    /// The weighted mean loss, in nats per token; NaN without any weight.
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

impl std::ops::Add for LossSum {
    type Output = LossSum;
    fn add(self, other: LossSum) -> LossSum {
        LossSum { sum: self.sum + other.sum, weight: self.weight + other.weight }
    }
}

/// The end of a tape: where differentiation starts.
pub trait Loss {
    /// Name in profiles and test reports.
    fn name(&self) -> &'static str;

    /// The loss of hidden states `x`.
    fn evaluate(&self, x: &Tiles, parameters: &Parameters) -> LossSum;

    /// The loss and, in the same pass, its gradient: overwrites `dx`, adds to `gradients`.
    fn differentiate(
        &self,
        x: &Tiles,
        parameters: &Parameters,
        dx: &mut Tiles,
        gradients: &mut Gradients,
    ) -> LossSum;

    /// Exact work of value and gradient.
    fn cost(&self, layout: TokenLayout) -> Cost;
}

/// What tapes share: buffers kept from one to the next, so that a training step allocates nothing,
/// and the measurement of their parts.
#[derive(Default)]
pub struct Arena {
    /// Free buffers by length.
    buffers: HashMap<usize, Vec<AlignedBuffer>>,
    /// Tiles of the batches that the buffers come from.
    sizes: Vec<usize>,
    /// Where the time goes, if somebody wants to know.
    pub profile: Profile,
}

impl Arena {
    /// Bytes of all buffers that no tape uses at the moment.
    pub fn bytes(&self) -> usize {
        let buffers = self.buffers.iter().map(|(len, buffers)| len * buffers.len());
        size_of::<f32>() * buffers.sum::<usize>()
    }

    /// Prepares for a batch: buffers are kept for two sizes (a whole micro-batch and a last one that
    /// is smaller), so that batches of every size do not leave buffers of every size.
    fn prepare(&mut self, layout: TokenLayout) {
        if self.sizes.contains(&layout.tiles()) {
            return;
        }
        if self.sizes.len() == 2 {
            self.sizes.clear();
            self.buffers.clear();
        }
        self.sizes.push(layout.tiles());
    }

    fn take(&mut self, layout: TokenLayout, features: usize) -> Tiles {
        let len = Tiles::len(layout, features);
        let kept = self.buffers.get_mut(&len).and_then(Vec::pop);
        Tiles::from_buffer(layout, features, kept.unwrap_or_else(|| AlignedBuffer::zeros(len)))
    }

    fn give(&mut self, tiles: Tiles) {
        let buffer = tiles.into_buffer();
        self.buffers.entry(buffer.len()).or_default().push(buffer);
    }
}

struct Node<'a> {
    op: Box<dyn Op + 'a>,
    inputs: Vec<Var>,
    /// Output and what is saved; none while forgotten.
    kept: Option<Kept>,
}

struct Kept {
    value: Tiles,
    saved: Tiles,
}

/// A recorded forward pass over one batch.
pub struct Tape<'a> {
    layout: TokenLayout,
    arena: &'a mut Arena,
    nodes: Vec<Node<'a>>,
    /// First and one past the last node of stretches that were forgotten, in order.
    forgotten: Vec<Range<usize>>,
}

impl<'a> Tape<'a> {
    /// An empty tape for batches of `layout`.
    pub fn new(layout: TokenLayout, arena: &'a mut Arena) -> Self {
        arena.prepare(layout);
        Self { layout, arena, nodes: Vec::new(), forgotten: Vec::new() }
    }

    /// The token layout of every value.
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }

    /// A value computed so far.
    /// # Panics
    /// If it was forgotten.
    #[track_caller]
    pub fn value(&self, var: Var) -> &Tiles {
        value_of(&self.nodes, var)
    }

    /// Frees all values between `from` and `to`, two values whose stretch reads nothing earlier than
    /// `from`. The backward pass computes them again when it comes to `to`: memory for time, and the
    /// same bits.
    pub fn forget(&mut self, from: Var, to: Var) {
        let stretch = from.0 + 1..to.0;
        for at in stretch.clone() {
            if let Some(kept) = self.nodes[at].kept.take() {
                self.recycle(kept);
            }
        }
        self.forgotten.push(stretch);
    }

    /// Computes the values of a stretch again.
    fn recall(&mut self, stretch: Range<usize>, parameters: &Parameters) {
        for at in stretch {
            let (before, rest) = self.nodes.split_at_mut(at);
            let node = &mut rest[0];
            node.kept =
                Some(run(&*node.op, &node.inputs, before, self.layout, self.arena, parameters));
        }
    }

    /// Runs `op` on earlier values and records it.
    /// # Panics
    /// If an input appears twice.
    #[track_caller]
    pub fn apply(&mut self, op: impl Op + 'a, inputs: &[Var], parameters: &Parameters) -> Var {
        let twice = inputs.iter().enumerate().any(|(i, var)| inputs[..i].contains(var));
        assert!(!twice, "an operator cannot take the same value twice");
        let kept = run(&op, inputs, &self.nodes, self.layout, self.arena, parameters);
        self.nodes.push(Node { op: Box::new(op), inputs: inputs.to_vec(), kept: Some(kept) });
        Var(self.nodes.len() - 1)
    }

    /// The work of all recorded operators.
    pub fn cost(&self) -> Cost {
        self.nodes.iter().map(|node| node.op.cost(self.layout)).sum()
    }

    /// Computes `loss` of the value `last`, and adds the gradient of every parameter to
    /// `gradients`.
    pub fn backward(
        mut self,
        loss: &impl Loss,
        last: Var,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> LossSum {
        let mut grads: Vec<Option<Tiles>> = self.nodes.iter().map(|_| None).collect();
        let features = self.value(last).features();
        let mut dx = self.arena.take(self.layout, features);
        let clock = self.arena.profile.clock();
        let sum = loss.differentiate(self.value(last), parameters, &mut dx, gradients);
        let cost = loss.cost(self.layout);
        let flops = || cost.forward_flops + cost.backward_flops;
        self.arena.profile.record(clock, loss.name(), Pass::Backward, flops);
        grads[last.0] = Some(dx);
        while let Some(node) = self.nodes.pop() {
            if let Some(stretch) = self.forgotten.pop_if(|stretch| stretch.end == self.nodes.len())
            {
                self.recall(stretch, parameters);
            }
            let kept = node.kept.expect("forgotten values were computed again");
            let Some(dy) = grads.pop().flatten() else {
                self.recycle(kept);
                continue;
            };
            let accumulate: Vec<bool> = node.inputs.iter().map(|v| grads[v.0].is_some()).collect();
            let x: Vec<&Tiles> =
                node.inputs.iter().map(|&var| value_of(&self.nodes, var)).collect();
            let mut dx: Vec<Tiles> = Vec::with_capacity(x.len());
            for (var, x) in node.inputs.iter().zip(&x) {
                let started = grads[var.0].take();
                dx.push(started.unwrap_or_else(|| self.arena.take(self.layout, x.features())));
            }
            let clock = self.arena.profile.clock();
            node.op.backward(Backward {
                x: &x,
                y: &kept.value,
                saved: &kept.saved,
                dy: &dy,
                dx: &mut dx,
                accumulate: &accumulate,
                parameters,
                gradients,
            });
            let flops = || node.op.cost(self.layout).backward_flops;
            self.arena.profile.record(clock, node.op.name(), Pass::Backward, flops);
            for (var, dx) in node.inputs.iter().zip(dx) {
                grads[var.0] = Some(dx);
            }
            self.arena.give(dy);
            self.recycle(kept);
        }
        sum
    }

    fn recycle(&mut self, kept: Kept) {
        self.arena.give(kept.value);
        self.arena.give(kept.saved);
    }
}

#[track_caller]
fn value_of<'n>(nodes: &'n [Node<'_>], var: Var) -> &'n Tiles {
    &nodes[var.0].kept.as_ref().expect("a value that is kept").value
}

/// Runs an operator on values of `nodes`.
#[track_caller]
fn run(
    op: &dyn Op,
    inputs: &[Var],
    nodes: &[Node<'_>],
    layout: TokenLayout,
    arena: &mut Arena,
    parameters: &Parameters,
) -> Kept {
    let mut value = arena.take(layout, op.out_features());
    let mut saved = arena.take(layout, op.saved_features());
    let x: Vec<&Tiles> = inputs.iter().map(|&var| value_of(nodes, var)).collect();
    let clock = arena.profile.clock();
    op.forward(&x, parameters, &mut value, &mut saved);
    arena.profile.record(clock, op.name(), Pass::Forward, || op.cost(layout).forward_flops);
    Kept { value, saved }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        while let Some(node) = self.nodes.pop() {
            if let Some(kept) = node.kept {
                self.recycle(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_every_size_do_not_leave_buffers_of_every_size() {
        let mut arena = Arena::default();
        for context in 1..100 {
            let layout = TokenLayout { sequences: 1, context };
            let tape = Tape::new(layout, &mut arena);
            let tiles = tape.arena.take(layout, 3);
            tape.arena.give(tiles);
            drop(tape);
            let largest = 4 * Tiles::len(layout, 3);
            assert!(arena.bytes() <= 2 * largest, "{} bytes", arena.bytes());
        }
        assert!(arena.bytes() > 0);
    }
}
