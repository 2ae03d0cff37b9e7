//! [`Optimisation`]: a model under training, one optimiser step at a time.

use crate::adamw::{AdamW, clip_scale, global_norm};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::gradient_tree::{GradientTree, leaf};
use crate::schedule::Schedule;
use mediswift_engine::{Arena, Gradients, LossSum, Pass, Profile};

/// A model, its optimiser, and the buffers that steps share.
pub struct Optimisation {
    gpt: Gpt,
    adamw: AdamW,
    schedule: Schedule,
    clip_norm: f64,
    tree: GradientTree,
    arena: Arena,
}

/// What an optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Loss over all targets of the step, before the update.
    pub loss: LossSum,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
}

impl Optimisation {
    /// A model that has made no step.
    pub fn new(gpt: Gpt, config: &Config) -> Self {
        let adamw = AdamW::new(&config.train, gpt.parameters());
        Self::resume(gpt, adamw, config)
    }

    /// A model with the optimiser state it had.
    pub fn resume(gpt: Gpt, adamw: AdamW, config: &Config) -> Self {
        Self {
            gpt,
            adamw,
            schedule: Schedule::new(config),
            clip_norm: config.train.clip_norm,
            tree: GradientTree::new(),
            arena: Arena::default(),
        }
    }

    /// The model.
    pub fn gpt(&self) -> &Gpt {
        &self.gpt
    }

    /// The optimiser and its moments.
    pub fn adamw(&self) -> &AdamW {
        &self.adamw
    }

    /// Where the time of steps goes: off until it is started.
    pub fn profile(&mut self) -> &mut Profile {
        &mut self.arena.profile
    }

    /// Optimiser steps done.
    pub fn steps_done(&self) -> usize {
        self.adamw.updates() as usize
    }

    /// One step: the gradient of the mean loss over all targets of `micro_batches`, clipped, then
    /// one AdamW update. The result does not depend on the number of threads.
    /// # Errors
    /// If a token or a layout does not fit the model, no target has a weight, or the loss or a
    /// gradient is not finite. The weights are then as before.
    pub fn step(&mut self, micro_batches: &[TokenBatch]) -> Result<StepResult, Error> {
        let step = self.steps_done();
        let outcome = self.gradients(micro_batches).and_then(|(loss, gradients)| {
            let mut gradients = gradients;
            // What is frozen takes no part in clipping.
            let frozen = gradients.iter_mut().zip(self.adamw.factors());
            frozen.filter(|(_, f)| *f == 0.0).for_each(|((_, g), _)| g.fill(0.0));
            let clock = self.arena.profile.clock();
            let grad_norm = global_norm(self.gpt.parameters(), &gradients)?;
            self.arena.profile.record(clock, "gradient norm", Pass::Update, || 0);
            Ok((loss, grad_norm, gradients))
        });
        let (loss, grad_norm, gradients) = outcome.map_err(|source| {
            self.tree = GradientTree::new();
            Error::Step { step: step + 1, source: Box::new(source) }
        })?;
        let lr = self.schedule.learning_rate(step);
        let scale = clip_scale(grad_norm, self.clip_norm);
        let profile = &mut self.arena.profile;
        let (parameters, mut packed) = self.gpt.parameters_and_packed();
        let mut clock = profile.clock();
        self.adamw.step(parameters, &gradients, lr, scale, |id, values| {
            profile.record(clock, "AdamW", Pass::Update, || 0);
            clock = profile.clock();
            packed.refresh(id, values);
            profile.record(clock, "packing", Pass::Update, || 0);
            clock = profile.clock();
        });
        self.tree.recycle(gradients);
        Ok(StepResult { loss, grad_norm, lr })
    }

    /// Loss and gradients of the mean over all targets.
    fn gradients(&mut self, micro_batches: &[TokenBatch]) -> Result<(LossSum, Gradients), Error> {
        let weight: f64 = micro_batches.iter().map(TokenBatch::weight).sum();
        if weight <= 0.0 {
            return Err(Error::config("batch", "no target token has a weight: nothing to learn"));
        }
        let mut loss = LossSum::default();
        let leaf = leaf(micro_batches.len());
        for (first, batches) in micro_batches.chunks(leaf).enumerate() {
            let clock = self.arena.profile.clock();
            let mut gradients = self.tree.zeros(self.gpt.parameters());
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
            for (index, batch) in batches.iter().enumerate() {
                let part =
                    self.gpt.loss_and_gradients(batch, weight, &mut gradients, &mut self.arena)?;
                if !part.sum.is_finite() {
                    return Err(Error::NonFinite {
                        what: "loss",
                        name: "micro-batch".into(),
                        position: first * leaf + index,
                        value: part.sum as f32,
                    });
                }
                loss = loss + part;
            }
            let clock = self.arena.profile.clock();
            self.tree.push(gradients);
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        }
        Ok((loss, self.tree.finish().expect("a batch with weight has a micro-batch")))
    }
}
