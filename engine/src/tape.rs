//! The tape: records operators as they run, then walks them back.

use crate::value::Value;
use crate::{
    Backward, Cost, Gradients, Loss, LossSum, Need, Op, Operand, Parameters, Pass, Profile, Tiles,
    TokenLayout,
};
use mediswift_kernels::AlignedBuffer;
use std::collections::HashMap;
use std::ops::Range;

/// A value on the tape; they have the order in which they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var(usize);

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

    fn take_buffer(&mut self, len: usize) -> AlignedBuffer {
        let kept = self.buffers.get_mut(&len).and_then(Vec::pop);
        kept.unwrap_or_else(|| AlignedBuffer::zeros(len))
    }

    fn take(&mut self, layout: TokenLayout, features: usize) -> Tiles {
        let buffer = self.take_buffer(Tiles::len(layout, features));
        Tiles::from_buffer(layout, features, buffer)
    }

    fn give_buffer(&mut self, buffer: AlignedBuffer) {
        self.buffers.entry(buffer.len()).or_default().push(buffer);
    }

    fn give(&mut self, tiles: Tiles) {
        self.give_buffer(tiles.into_buffer());
    }
}

struct Node<'a> {
    op: Box<dyn Op + 'a>,
    inputs: Vec<Var>,
    /// Output and what is saved; none while forgotten.
    kept: Option<Kept>,
    /// The node after which nothing but the backward pass needs the output, and how.
    spent: Option<(usize, Need)>,
}

struct Kept {
    value: Value,
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
    /// If it was forgotten or spent.
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

    /// Says that no operator will be applied to a value any more. Of what the backward passes of those that were
    /// applied to it do not need, nothing is kept: memory for nothing, and the same bits.
    pub fn spend(&mut self, var: Var) {
        let of_readers = self.nodes[var.0 + 1..].iter().flat_map(|node| {
            let read = node.inputs.iter().enumerate().filter(|(_, input)| **input == var);
            read.map(|(place, _)| node.op.needs_input(place))
        });
        let need = of_readers.fold(self.nodes[var.0].op.needs_output(), Need::and);
        self.nodes[var.0].spent = Some((self.nodes.len() - 1, need));
        self.shrink(var.0);
    }

    /// Keeps no more of a spent value than is needed.
    fn shrink(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (Some((_, need)), Some(kept)) = (node.spent, &mut node.kept) else { return };
        if let Value::Exact(tiles) = &kept.value
            && need != Need::Exact
        {
            let clock = self.arena.profile.clock();
            let left = Value::left(tiles, need, |len| self.arena.take_buffer(len));
            let whole = std::mem::replace(&mut kept.value, left);
            whole.into_buffer().into_iter().for_each(|buffer| self.arena.give_buffer(buffer));
            self.arena.profile.record(clock, "rounding", Pass::Forward, || 0);
        }
    }

    /// Computes the values of a stretch again.
    fn recall(&mut self, stretch: Range<usize>, parameters: &Parameters) {
        let end = stretch.end;
        for at in stretch.clone() {
            let (before, rest) = self.nodes.split_at_mut(at);
            let node = &mut rest[0];
            node.kept =
                Some(run(&*node.op, &node.inputs, before, self.layout, self.arena, parameters));
            for value in stretch.start..=at {
                // What is read at the end of the stretch is done when all of it is there.
                if self.nodes[value].spent.is_some_and(|(reader, _)| reader.min(end - 1) == at) {
                    self.shrink(value);
                }
            }
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
        let (op, inputs) = (Box::new(op), inputs.to_vec());
        self.nodes.push(Node { op, inputs, kept: Some(kept), spent: None });
        Var(self.nodes.len() - 1)
    }

    /// The work of all recorded operators.
    pub fn cost(&self) -> Cost {
        self.nodes.iter().map(|node| node.op.cost(self.layout)).sum()
    }

    /// Computes `loss` of the value `last`, and adds the gradient of every parameter to
    /// `gradients`.
    pub fn backward(
        self,
        loss: &impl Loss,
        last: Var,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> LossSum {
        self.backward_telling(loss, last, parameters, gradients, |_, _| {})
    }

    /// The same; `reaches` is told of every value that the walk back comes to. What was recorded after it is done:
    /// gradients of parameters that only those operators read are final, and may be taken away.
    pub fn backward_telling(
        mut self,
        loss: &impl Loss,
        last: Var,
        parameters: &Parameters,
        gradients: &mut Gradients,
        mut reaches: impl FnMut(Var, &mut Gradients),
    ) -> LossSum {
        let mut grads: Vec<Option<Tiles>> = self.nodes.iter().map(|_| None).collect();
        let features = self.value(last).features();
        let mut dx = self.arena.take(self.layout, features);
        let (x, profile) = (value_of(&self.nodes, last), &mut self.arena.profile);
        let sum = loss.differentiate(x, parameters, &mut dx, gradients, profile);
        grads[last.0] = Some(dx);
        while let Some(node) = self.nodes.pop() {
            reaches(Var(self.nodes.len()), gradients);
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
            let x: Vec<Operand<'_>> =
                node.inputs.iter().map(|var| kept_of(&self.nodes, *var).value.operand()).collect();
            let mut dx: Vec<Tiles> = Vec::with_capacity(x.len());
            for var in &node.inputs {
                let (started, features) =
                    (grads[var.0].take(), self.nodes[var.0].op.out_features());
                dx.push(started.unwrap_or_else(|| self.arena.take(self.layout, features)));
            }
            let clock = self.arena.profile.clock();
            node.op.backward(Backward {
                x: &x,
                y: kept.value.operand(),
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
        kept.value.into_buffer().into_iter().for_each(|buffer| self.arena.give_buffer(buffer));
        self.arena.give(kept.saved);
    }
}

#[track_caller]
fn kept_of<'n>(nodes: &'n [Node<'_>], var: Var) -> &'n Kept {
    nodes[var.0].kept.as_ref().expect("a value that is kept")
}

#[track_caller]
fn value_of<'n>(nodes: &'n [Node<'_>], var: Var) -> &'n Tiles {
    match &kept_of(nodes, var).value {
        Value::Exact(tiles) => tiles,
        _ => panic!("a value that was spent"),
    }
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
    Kept { value: Value::Exact(value), saved }
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
    use crate::gradcheck::numbers;
    use crate::ops::{Add, CrossEntropy, Embedding, Gelu, LayerNorm, Linear};
    use crate::{Layout, Shape};
    use mediswift_kernels::isa::IsaKind;
    use mediswift_kernels::{LinearLayer, Precision};

    #[test]
    fn what_was_recorded_after_a_value_is_done_when_the_walk_back_comes_to_it() {
        let (vocabulary, features) = (5, 4);
        let table = |rows| Shape::Matrix(rows, features);
        let vector = || Shape::Vector(features);
        let layout = Layout::new([
            ("tokens", table(vocabulary)),
            ("places", table(3)),
            ("gain 1", vector()),
            ("bias 1", vector()),
            ("gain 2", vector()),
            ("bias 2", vector()),
        ]);
        let id = |name: &str| layout.find(name).unwrap();
        let mut parameters = Parameters::zeros(&layout);
        for (_, values) in parameters.iter_mut() {
            values.copy_from_slice(&numbers(values.len(), 1));
        }
        let (tokens, positions) = (id("tokens"), id("places"));
        let walk = |gradients: &mut Gradients, from: usize| {
            let mut arena = Arena::default();
            let mut tape = Tape::new(TokenLayout { sequences: 1, context: 3 }, &mut arena);
            let embedding =
                Embedding { tokens, positions, prompt: None, ids: &[0, 1, 2], features };
            let x = tape.apply(embedding, &[], &parameters);
            let norm = |number| LayerNorm {
                gain: id(&format!("gain {number}")),
                bias: id(&format!("bias {number}")),
                features,
            };
            let middle = tape.apply(norm(1), &[x], &parameters);
            let last = tape.apply(norm(2), &[middle], &parameters);
            let loss = CrossEntropy {
                half: None,
                weight: tokens,
                vocabulary,
                features,
                targets: &[1, 2, 3],
                weights: None,
                scale: 1.0,
            };
            let (mut reached, mut taken) = (Vec::new(), Vec::new());
            tape.backward_telling(&loss, last, &parameters, gradients, |at, gradients| {
                reached.push(at);
                if at == middle {
                    taken.extend(std::iter::from_fn(|| gradients.take_last(from)));
                }
            });
            assert_eq!(reached, [last, middle, x]);
            taken.into_iter().rev().for_each(|part| gradients.put_back(part));
        };
        let mut whole = Gradients::zeros(&layout);
        walk(&mut whole, layout.len());
        let mut cut = Gradients::shard(&layout, &layout.buckets(1));
        walk(&mut cut, layout.place(id("gain 2")).range.start);
        for (id, tensor) in whole.iter() {
            assert!(tensor.values.iter().any(|&x| x != 0.0), "{}", tensor.name);
            assert_eq!(&cut[id], tensor.values, "{}", tensor.name);
        }
    }

    #[test]
    fn spent_values_take_no_memory_and_change_no_bit() {
        let (vocabulary, features) = (5, 32);
        let layout = Layout::new([
            ("tokens", Shape::Matrix(vocabulary, features)),
            ("places", Shape::Matrix(40, features)),
            ("weight", Shape::Matrix(features, features)),
            ("bias", Shape::Vector(features)),
        ]);
        let id = |name: &str| layout.find(name).unwrap();
        let mut parameters = Parameters::zeros(&layout);
        for (_, values) in parameters.iter_mut() {
            values.copy_from_slice(&numbers(values.len(), 1));
        }
        let (tokens, positions) = (id("tokens"), id("places"));
        let (ids, targets) = ([1; 40], [2; 40]);
        let isa = IsaKind::active().unwrap();
        for precision in Precision::ALL {
            let mut layer = LinearLayer::dense(isa, precision, features, features);
            layer.refresh(&parameters[id("weight")]);
            let walk = |spend: bool, forget: bool| {
                let mut arena = Arena::default();
                let mut tape = Tape::new(TokenLayout { sequences: 1, context: 40 }, &mut arena);
                let embedding = Embedding { tokens, positions, prompt: None, ids: &ids, features };
                let start = tape.apply(embedding, &[], &parameters);
                let mut x = start;
                for _ in 0..9 {
                    let gelu = tape.apply(Gelu { features }, &[x], &parameters);
                    let (weight, bias, observer) = (id("weight"), id("bias"), None);
                    let linear = Linear { layer: &layer, weight, bias, observer };
                    let y = tape.apply(linear, &[gelu], &parameters);
                    let sum = tape.apply(Add { features }, &[x, y], &parameters);
                    if spend {
                        tape.spend(gelu);
                        tape.spend(y);
                    }
                    x = sum;
                }
                if forget {
                    tape.forget(start, x);
                }
                let loss = CrossEntropy {
                    half: None,
                    weight: tokens,
                    vocabulary,
                    features,
                    targets: &targets,
                    weights: None,
                    scale: 1.0,
                };
                let mut gradients = Gradients::zeros(&layout);
                tape.backward(&loss, x, &parameters, &mut gradients);
                let bits = |x: &f32| x.to_bits();
                let bits: Vec<u32> =
                    gradients.iter().flat_map(|(_, part)| part.values.iter().map(bits)).collect();
                (bits, arena.bytes())
            };
            let (expected, all) = walk(false, false);
            for forget in [false, true] {
                let (found, fewer) = walk(true, forget);
                assert!(found == expected, "{precision}");
                assert!(4 * fewer < 3 * all, "{precision}: {fewer} of {all} bytes");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a value that was spent")]
    fn nobody_reads_a_spent_value() {
        let mut arena = Arena::default();
        let mut tape = Tape::new(TokenLayout { sequences: 1, context: 3 }, &mut arena);
        let layout =
            Layout::new([("tokens", Shape::Matrix(2, 4)), ("places", Shape::Matrix(3, 4))]);
        let parameters = Parameters::zeros(&layout);
        let find = |name: &str| layout.find(name).unwrap();
        let (tokens, positions) = (find("tokens"), find("places"));
        let embedding = Embedding { tokens, positions, prompt: None, ids: &[0, 1, 1], features: 4 };
        let x = tape.apply(embedding, &[], &parameters);
        tape.spend(x);
        tape.apply(Gelu { features: 4 }, &[x], &parameters);
    }

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
