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
        let adamw = AdamW::new(&config.optimiser, gpt.parameters().layout());
        Self::resume(gpt, adamw, config)
    }

    /// A model with the optimiser state it had.
    pub fn resume(gpt: Gpt, adamw: AdamW, config: &Config) -> Self {
        Self {
            gpt,
            adamw,
            schedule: Schedule::new(config),
            clip_norm: config.optimiser.clip_norm,
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
        self.adamw.steps() as usize
    }

    /// Steps that were skipped, of those done.
    pub fn steps_skipped(&self) -> u64 {
        self.adamw.skipped()
    }

    /// Learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.learning_rate(self.steps_done())
    }

    /// One step: the gradient of the mean loss over all targets of `micro_batches`, clipped, then
    /// one AdamW update. The result does not depend on the number of threads.
    /// # Errors
    /// If a token or a layout does not fit the model, no target has a weight, or the loss or a
    /// gradient is not finite. The weights are then as before.
    pub fn step(&mut self, micro_batches: &[TokenBatch]) -> Result<StepResult, Error> {
        let done = self.step_unless(micro_batches, &mut |_| false)?;
        Ok(done.expect("nothing stops it"))
    }

    /// Like [`Optimisation::step`], but gives the step up, with the model as before, when `stop`
    /// says so: it is asked between micro-batches and told how many are done.
    /// # Errors
    /// As those of [`Optimisation::step`].
    pub fn step_unless(
        &mut self,
        micro_batches: &[TokenBatch],
        stop: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<StepResult>, Error> {
        let outcome = match self.gradients(micro_batches, stop) {
            Ok(Some((loss, gradients))) => self.update(loss, gradients).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(outcome, Ok(Some(_))) {
            self.tree = GradientTree::new();
        }
        outcome.map_err(|source| {
            let source = Box::new(self.explained(source));
            Error::Step { step: self.steps_done() + 1, source }
        })
    }

    /// Does the next step without an update: the learning rate goes on.
    pub fn skip(&mut self) {
        self.adamw.skip();
    }

    /// Clips and updates.
    fn update(&mut self, loss: LossSum, mut gradients: Gradients) -> Result<StepResult, Error> {
        // What is frozen takes no part in clipping.
        let frozen = gradients.iter_mut().zip(self.adamw.factors());
        frozen.filter(|(_, f)| *f == 0.0).for_each(|((_, g), _)| g.fill(0.0));
        let clock = self.arena.profile.clock();
        let grad_norm = global_norm(&gradients)?;
        self.arena.profile.record(clock, "gradient norm", Pass::Update, || 0);
        let lr = self.learning_rate();
        let scale = clip_scale(grad_norm, self.clip_norm);
        let profile = &mut self.arena.profile;
        let (parameters, layers) = self.gpt.parameters_and_layers();
        let mut clock = profile.clock();
        self.adamw.step(parameters, &gradients, lr, scale, |id, values| {
            profile.record(clock, "AdamW", Pass::Update, || 0);
            clock = profile.clock();
            layers.refresh(id, values);
            profile.record(clock, "packing", Pass::Update, || 0);
            clock = profile.clock();
        });
        self.tree.recycle(gradients);
        Ok(StepResult { loss, grad_norm, lr })
    }

    /// A weight that is not finite is why nothing that comes of it is.
    fn explained(&self, error: Error) -> Error {
        if !matches!(error, Error::NonFinite { .. }) {
            return error;
        }
        let weights = self.gpt.parameters().iter();
        let broken = weights.map(|(_, weight)| weight).find_map(|weight| {
            let position = weight.values.iter().position(|x| !x.is_finite())?;
            let (name, value) = (weight.name.to_string(), weight.values[position]);
            Some(Error::NonFinite { what: "weight", name, position, value })
        });
        broken.unwrap_or(error)
    }

    /// Loss and gradients of the mean over all targets, unless `stop` came in between.
    fn gradients(
        &mut self,
        micro_batches: &[TokenBatch],
        stop: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<(LossSum, Gradients)>, Error> {
        let weight: f64 = micro_batches.iter().map(TokenBatch::weight).sum();
        if weight <= 0.0 {
            return Err(Error::config("batch", "no target token has a weight: nothing to learn"));
        }
        let mut loss = LossSum::default();
        let leaf = leaf(micro_batches.len());
        for (first, batches) in micro_batches.chunks(leaf).enumerate() {
            let clock = self.arena.profile.clock();
            let mut gradients = self.tree.zeros(self.gpt.parameters().layout());
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
            for (index, batch) in batches.iter().enumerate() {
                let done = first * leaf + index;
                if done > 0 && stop(done) {
                    return Ok(None);
                }
                let part =
                    self.gpt.loss_and_gradients(batch, weight, &mut gradients, &mut self.arena)?;
                if !part.sum.is_finite() {
                    return Err(Error::NonFinite {
                        what: "loss",
                        name: format!("micro-batch {} of {}", done + 1, micro_batches.len()),
                        position: 0,
                        value: part.sum as f32,
                    });
                }
                loss = loss + part;
            }
            let clock = self.arena.profile.clock();
            self.tree.push(gradients);
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        }
        let gradients = self.tree.finish().expect("a batch with weight has a micro-batch");
        Ok(Some((loss, gradients)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::weights_hash;
    use mediswift_engine::TokenLayout;

    fn optimisation() -> Optimisation {
        let mut config = Config::from_preset("micro").unwrap();
        (config.model.vocabulary, config.sparsity.sparsity) = (300, 0.5);
        Optimisation::new(Gpt::new(&config).unwrap(), &config)
    }

    /// A micro-batch whose tokens depend on `seed`.
    fn batch(seed: u32) -> TokenBatch {
        let layout = TokenLayout { sequences: 2, context: 8 };
        let tokens = |from: u32| (from..from + 16).map(|i| i * 7919 % 300).collect();
        TokenBatch { layout, ids: tokens(seed), targets: tokens(seed + 1), weights: None }
    }

    /// A micro-batch whose loss is not finite, though every weight of the model is.
    fn poison() -> TokenBatch {
        TokenBatch { weights: Some(vec![f32::INFINITY; 16]), ..batch(0) }
    }

    /// Everything a step changes.
    fn state(optimisation: &Optimisation) -> (String, Vec<u32>, u64) {
        let adamw = optimisation.adamw();
        let moments = adamw.moments().first.iter().chain(adamw.moments().second.iter());
        let bits = moments.flat_map(|(_, m)| m.values.iter().map(|x| x.to_bits())).collect();
        (weights_hash(optimisation.gpt().parameters()), bits, adamw.updates())
    }

    /// The cause of a step's error.
    fn cause(error: &Error) -> String {
        std::error::Error::source(error).expect("a step has a cause").to_string()
    }

    #[test]
    fn what_is_not_finite_never_reaches_the_weights_and_is_named() {
        let mut optimisation = optimisation();
        optimisation.step(&[batch(1), batch(2)]).unwrap();
        let before = state(&optimisation);

        let error = optimisation.step(&[batch(1), poison(), batch(2)]).unwrap_err();
        assert!(cause(&error).starts_with("loss 'micro-batch 2 of 3' is "), "{}", cause(&error));
        assert_eq!(state(&optimisation), before);

        for (name, value) in
            [("ln_final.bias", f32::NAN), ("blocks.1.mlp.up.weight", f32::INFINITY)]
        {
            let (loss, mut gradients) =
                optimisation.gradients(&[batch(1)], &mut |_| false).unwrap().unwrap();
            let id = optimisation.gpt().parameters().find(name).unwrap();
            gradients[id][3] = value;
            let error = optimisation.update(loss, gradients).unwrap_err().to_string();
            assert!(
                error.contains(&format!("gradient '{name}' is {value} at element 3")),
                "{error}"
            );
            assert_eq!(state(&optimisation), before);

            let healthy = optimisation.gpt.parameters()[id][3];
            optimisation.gpt.parameters_mut()[id][3] = value;
            optimisation.gpt.refresh();
            let error = cause(&optimisation.step(&[batch(1)]).unwrap_err());
            assert!(error.contains(&format!("weight '{name}' is {value} at element 3")), "{error}");
            optimisation.gpt.parameters_mut()[id][3] = healthy;
            optimisation.gpt.refresh();
            assert_eq!(state(&optimisation), before);
        }
        assert!(optimisation.step(&[batch(3)]).is_ok(), "the next step must be possible");
    }

    #[test]
    fn a_skipped_step_moves_the_learning_rate_alone() {
        let (mut whole, mut skipping) = (optimisation(), optimisation());
        skipping.step(&[batch(1)]).unwrap();
        let before = state(&skipping);
        skipping.step(&[poison()]).unwrap_err();
        skipping.skip();
        assert_eq!(state(&skipping), before);
        assert_eq!((skipping.steps_done(), skipping.steps_skipped()), (2, 1));
        let rates: Vec<f64> = (1..4).map(|seed| whole.step(&[batch(seed)]).unwrap().lr).collect();
        assert_eq!(skipping.step(&[batch(3)]).unwrap().lr, rates[2]);
        assert_eq!(skipping.adamw().updates(), 2);
    }

    #[test]
    fn a_step_that_is_given_up_leaves_no_trace() {
        let (mut whole, mut stopped) = (optimisation(), optimisation());
        let batches = [batch(1), batch(2), batch(3)];
        for stop_at in 1..3 {
            let mut seen = Vec::new();
            let outcome = stopped.step_unless(&batches, &mut |done| {
                seen.push(done);
                done == stop_at
            });
            assert_eq!(outcome.unwrap(), None);
            assert_eq!(seen, (1..=stop_at).collect::<Vec<_>>());
            assert_eq!(stopped.steps_done(), 0);
        }
        assert_eq!(stopped.step(&batches).unwrap(), whole.step(&batches).unwrap());
        assert_eq!(state(&stopped), state(&whole));
    }
}
