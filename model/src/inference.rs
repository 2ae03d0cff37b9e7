//! Forward passes that no backward pass follows: of each block only the output is kept.

use crate::error::Error;
use crate::gpt::{Gpt, Recorder, TokenBatch};
use mediswift_engine::ops::Prediction;
use mediswift_engine::{Arena, Op, Parameters, Tape, Tiles, Var};

impl Gpt {
    /// What the model thinks of every target of `batch`, `[sequence][position]`, and of the `top`
    /// likeliest tokens in its place. Never holds all logits. What `batch` gives no weight may be empty.
    /// # Errors
    /// As for [`Gpt::loss_and_gradients`].
    pub fn predict(
        &self,
        batch: &TokenBatch,
        top: usize,
        arena: &mut Arena,
    ) -> Result<Vec<Prediction>, Error> {
        self.check(batch)?;
        let mut tape = Tape::new(batch.layout, arena);
        let last = self.record(&batch.ids, &mut tape, true);
        Ok(self.loss(batch, 1.0).predictions(tape.value(last), &self.parameters, top))
    }

    /// The hidden states of tokens that the caller has checked. Hands `visit` the queries, keys and
    /// values `[3 · d_model]` of one block after the other.
    pub(crate) fn infer<'a>(
        &'a self,
        ids: &'a [u32],
        tape: &mut Tape<'a>,
        visit: &mut dyn FnMut(&Tiles),
    ) -> Var {
        self.forward(ids, &mut Inference { tape, parameters: &self.parameters, visit })
    }
}

/// Runs every operator on a tape, and shows each block's queries, keys and values.
struct Inference<'t, 'a> {
    tape: &'t mut Tape<'a>,
    parameters: &'a Parameters,
    visit: &'t mut dyn FnMut(&Tiles),
}

impl<'a> Recorder<'a> for Inference<'_, 'a> {
    type Value = Var;

    fn apply(&mut self, op: impl Op + 'a, inputs: &[Var]) -> Var {
        self.tape.apply(op, inputs, self.parameters)
    }

    fn end_of_block(&mut self, input: Var, qkv: Var, output: Var) {
        (self.visit)(self.tape.value(qkv));
        self.tape.forget(input, output);
    }
}
