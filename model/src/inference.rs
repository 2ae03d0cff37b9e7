//! Forward passes that no backward pass follows: of each block only the output is kept.

use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use mediswift_engine::ops::Prediction;
use mediswift_engine::{Arena, Loss, LossSum, Tape, TokenLayout};

impl Gpt {
    /// The loss of `batch`.
    /// # Errors
    /// As for [`Gpt::loss_and_gradients`].
    pub fn evaluate(&self, batch: &TokenBatch, arena: &mut Arena) -> Result<LossSum, Error> {
        self.check(batch)?;
        let mut tape = Tape::new(batch.layout, arena);
        let last = self.record(&batch.ids, &mut tape);
        Ok(self.loss(batch, 1.0).evaluate(tape.value(last), self.parameters()))
    }

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
        let last = self.record(&batch.ids, &mut tape);
        Ok(self.loss(batch, 1.0).predictions(tape.value(last), self.parameters(), top))
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
        let last = self.record(ids, &mut tape);
        Ok(self.head().logits(tape.value(last), self.parameters()))
    }
}
