//! [`Decoder`]: one token at a time, with a key-value cache.
//!
//! The forward pass of [`crate::gpt`], whose operators each know how to go on by one token
//! ([`Op::one_token`]): linear layers go through SpMV and GEMV, at the speed at which the weights stream
//! from memory. A prompt is read in one pass on tiles, which fills the caches.

use crate::error::Error;
use crate::gpt::Gpt;
use crate::gpt::network::{Linear, Recorder};
use mediswift_engine::{Arena, OneToken, Op, Tape, TokenLayout, Var};
use mediswift_kernels::LANES;

/// Reads tokens and predicts the next one. A clone goes on from the same place.
#[derive(Clone)]
pub struct Decoder<'a> {
    gpt: &'a Gpt,
    /// Tokens read.
    ids: Vec<u32>,
    caches: Caches,
    /// What the output head reads.
    hidden: Vec<f32>,
}

impl<'a> Decoder<'a> {
    /// A decoder that has read nothing.
    pub fn new(gpt: &'a Gpt) -> Self {
        let caches = Caches { positions: gpt.size().context, caches: Vec::new(), next: 0 };
        Self { gpt, ids: Vec::new(), caches, hidden: vec![0.0; gpt.size().d_model] }
    }

    /// Tokens read so far.
    pub fn position(&self) -> usize {
        self.ids.len()
    }

    /// Whether the model has no position left for another token.
    pub fn is_full(&self) -> bool {
        self.position() == self.gpt.size().context
    }

    /// Reads tokens: those that come first in one pass.
    /// # Errors
    /// If one is neither in the vocabulary nor virtual, or the model has too few positions left; then
    /// none is read.
    pub fn read(&mut self, ids: &[u32]) -> Result<(), Error> {
        let size = self.gpt.size();
        if self.position() + ids.len() > size.context {
            let (tokens, positions) = (self.position() + ids.len(), size.context);
            return Err(Error::SequenceTooLong { tokens, positions });
        }
        self.gpt.check_inputs(ids)?;
        if self.position() > 0 || ids.len() < 2 {
            return ids.iter().try_for_each(|&id| self.feed(id));
        }
        let layout = TokenLayout { sequences: 1, context: ids.len() };
        let mut arena = Arena::default();
        let mut tape = Tape::new(layout, &mut arena);
        self.caches.next = 0;
        let mut reading = Reading { gpt: self.gpt, tape: &mut tape, caches: &mut self.caches };
        let last = self.gpt.forward(ids, &mut reading);
        let (tile, lane) = ((ids.len() - 1) / LANES, (ids.len() - 1) % LANES);
        let tile = tape.value(last).tile(tile).chunks_exact(LANES);
        self.hidden = tile.map(|line| line[lane]).collect();
        self.ids = ids.to_vec();
        Ok(())
    }

    /// Reads one token.
    /// # Errors
    /// If the token is neither in the vocabulary nor virtual, or the model has no position left.
    pub fn feed(&mut self, id: u32) -> Result<(), Error> {
        self.gpt.check_inputs(&[id])?;
        if self.is_full() {
            return Err(Error::ContextFull { positions: self.gpt.size().context });
        }
        let position = self.position();
        self.ids.push(id);
        self.caches.next = 0;
        let (gpt, caches) = (self.gpt, &mut self.caches);
        let mut going_on = GoingOn { gpt, position, caches, values: Vec::new() };
        let last = gpt.forward(&self.ids, &mut going_on);
        self.hidden = going_on.values.swap_remove(last);
        Ok(())
    }

    /// Logits `[vocabulary]` of the token after those read.
    pub fn logits(&self) -> Vec<f32> {
        self.gpt.head().one_token_logits(&self.hidden, self.gpt.parameters())
    }
}

/// What operators remember of the tokens read, in the order of the forward pass.
#[derive(Clone)]
struct Caches {
    positions: usize,
    caches: Vec<Vec<f32>>,
    /// Whose turn it is.
    next: usize,
}

impl Caches {
    /// The cache of the operator that comes next; empty if it remembers nothing.
    fn of(&mut self, op: &impl Op) -> &mut [f32] {
        let len = self.positions * op.cached_features();
        if len == 0 {
            return &mut [];
        }
        if self.next == self.caches.len() {
            self.caches.push(vec![0.0; len]);
        }
        self.next += 1;
        &mut self.caches[self.next - 1]
    }
}

/// Runs operators on the first tokens of a sequence at once, and fills their caches.
struct Reading<'t, 'a> {
    gpt: &'a Gpt,
    tape: &'t mut Tape<'a>,
    caches: &'t mut Caches,
}

impl<'a> Recorder<'a> for Reading<'_, 'a> {
    type Value = Var;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[Var]) -> Var {
        let x: Vec<_> = inputs.iter().map(|&input| self.tape.value(input)).collect();
        op.fill_cache(&x, self.caches.of(&op));
        self.tape.apply(op, inputs, self.gpt.parameters())
    }

    fn linear(&mut self, linear: Linear, x: Var) -> Var {
        self.apply(self.gpt.layers().operator(linear), &[x])
    }

    fn end_of_block(&mut self, input: Var, output: Var) {
        self.tape.forget(input, output);
    }
}

/// Runs operators on one token.
struct GoingOn<'t, 'a> {
    gpt: &'a Gpt,
    position: usize,
    caches: &'t mut Caches,
    /// Results so far.
    values: Vec<Vec<f32>>,
}

impl<'a> Recorder<'a> for GoingOn<'_, 'a> {
    type Value = usize;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[usize]) -> usize {
        let mut y = vec![0.0; op.out_features()];
        let x: Vec<&[f32]> = inputs.iter().map(|&input| &*self.values[input]).collect();
        let (cache, parameters) = (self.caches.of(&op), self.gpt.parameters());
        op.one_token(OneToken { x: &x, y: &mut y, parameters, position: self.position, cache });
        self.values.push(y);
        self.values.len() - 1
    }

    fn linear(&mut self, linear: Linear, x: usize) -> usize {
        self.apply(self.gpt.layers().operator(linear), &[x])
    }

    fn end_of_block(&mut self, input: usize, output: usize) {
        self.values[input..output].fill(Vec::new());
    }
}
