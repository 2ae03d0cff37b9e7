//! [`Optimisation`]: a model under training, one optimiser step at a time, by one process or by several
//! ranks.
//!
//! Of several ranks, each holds the whole model, computes the gradients of its share of a step's
//! micro-batches, and gets its shard of the sum of all; it alone has that shard's moments and updates it
//! (ZeRO-1), and then everybody gets the new weights. Sums have the order that they have in one process,
//! so weights and moments are bitwise those of one process, for any number of ranks, unless they are to be
//! made faster ([`Reduce::Fast`]).
//!
//! All ranks make the same steps, and agree on what became of each before anybody acts on it.

pub use crate::adamw::Moments;

use crate::adamw::{AdamW, clip_scale, norm, sums_of_squares};
use crate::agreement::{agree, agree_numbers};
use crate::config::Config;
use crate::error::Error;
use crate::finite::{check_finite, check_finite_in};
use crate::gpt::{Gpt, TokenBatch};
use crate::loss_scale::LossScale;
use crate::reduction::{Reduce, Shards};
use crate::remask::remask;
use crate::schedule::Schedule;
use crate::sparsity::{Decided, DenseGradients, Due, MaskState, MaskUpdate, MovingMasks};
use crate::step_gradients::{EXCHANGE, StepGradients};
use crate::watch::Watch;
use mediswift_engine::ops::Observer;
use mediswift_engine::{Flat, Gradients, LossSum, Pass, Profile};
use mediswift_ranks::collectives::gather_shards;
use mediswift_ranks::{Alone, Ranks};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model, its optimiser, how many steps they have made, and the buffers that steps share.
pub struct Optimisation {
    gradients: StepGradients,
    gpt: Gpt,
    adamw: AdamW,
    /// Steps done: updates made and skipped.
    steps: u64,
    /// Steps without an update, of those done.
    skipped: u64,
    schedule: Schedule,
    /// How masks move, if they do, and the settings that they are planned by.
    masks: Option<(MovingMasks, Config)>,
    /// What the loss of a step is multiplied with, if its gradients need it.
    loss_scale: Option<LossScale>,
    clip_norm: f64,
}

/// What an optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Loss over all targets of the step, before the update.
    pub loss: LossSum,
    /// Norm of all gradients before clipping; NaN if they were too large for f16, and no update was made.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// What became of the masks, if they moved.
    pub masks: Option<MaskUpdate>,
}

impl Optimisation {
    /// A model that has made no step.
    ///
    /// ```
    /// use mediswift_engine::TokenLayout;
    /// use mediswift_model::{Config, Gpt, Optimisation, TokenBatch};
    ///
    /// let mut config = Config::from_preset("micro")?;
    /// config.model.vocabulary = 10;
    /// let mut optimisation = Optimisation::new(Gpt::new(&config)?, &config)?;
    /// let (ids, targets) = (vec![1, 2, 3, 4], vec![2, 3, 4, 5]);
    /// let layout = TokenLayout { sequences: 1, context: 4 };
    /// let batch = TokenBatch { layout, ids, targets, weights: None };
    /// // All of a step's micro-batches, and a watch that never stops it.
    /// let done = optimisation.step(&[batch], &mut ())?;
    /// assert!((done.loss.mean() - 10f64.ln()).abs() < 0.5, "it knows nothing yet");
    /// # Ok::<(), mediswift_model::Error>(())
    /// ```
    /// # Errors
    /// If the learning rate or a setting of the optimiser is out of range.
    pub fn new(gpt: Gpt, config: &Config) -> Result<Self, Error> {
        let moments = Moments::zeros(gpt.parameters().layout());
        Self::resume(gpt, moments, 0, 0, config)
    }

    /// A model that has made `steps` steps, `skipped` of them without an update, with the moments
    /// that these left.
    /// # Errors
    /// As for [`Optimisation::new`].
    pub fn resume(
        gpt: Gpt,
        moments: Moments,
        steps: u64,
        skipped: u64,
        config: &Config,
    ) -> Result<Self, Error> {
        Self::among(Arc::new(Alone), Reduce::Exact, gpt, moments, steps, skipped, config)
    }

    /// The same as one of several ranks, all of which have the same model and add up gradients in the same way;
    /// `moments` are those of this rank's shard ([`Optimisation::zero_moments`]).
    /// # Errors
    /// As for [`Optimisation::new`].
    /// # Panics
    /// If they are those of something else.
    #[track_caller]
    pub fn among(
        ranks: Arc<dyn Ranks>,
        reduce: Reduce,
        gpt: Gpt,
        moments: Moments,
        steps: u64,
        skipped: u64,
        config: &Config,
    ) -> Result<Self, Error> {
        config.validate_optimiser()?;
        let decays = gpt.decays();
        let layout = gpt.parameters().layout();
        let gradients = StepGradients::new(ranks, reduce, config.train.leaves, layout);
        assert_eq!(moments.first.held(), gradients.own(), "the moments of this rank's shard");
        Ok(Self {
            gradients,
            gpt,
            adamw: AdamW::new(&config.optimiser, moments, decays),
            steps,
            skipped,
            schedule: Schedule::new(config),
            masks: None,
            loss_scale: LossScale::of(config.train.precision),
            clip_norm: config.optimiser.clip_norm,
        })
    }

    /// Goes on with the scale of an earlier run's loss.
    pub(crate) fn with_loss_scale(mut self, scale: Option<LossScale>) -> Self {
        if let (Some(own), Some(scale)) = (&mut self.loss_scale, scale) {
            *own = scale;
        }
        self
    }

    /// Moves masks as the settings say, if they do, from where an earlier run left them. Without this, masks stay.
    pub fn with_moving_masks(mut self, config: &Config, state: MaskState) -> Self {
        let masks = MovingMasks::new(config, self.gpt.parameters().layout(), state);
        self.masks = masks.map(|masks| (masks, config.clone()));
        self
    }

    /// How far masks have moved, if they do.
    pub fn mask_state(&self) -> Option<MaskState> {
        self.masks.as_ref().map(|(masks, _)| masks.state)
    }

    /// What the next step scales its loss with; none but in f16.
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.loss_scale
    }

    fn scale(&self) -> f64 {
        self.loss_scale.map_or(1.0, |loss_scale| loss_scale.scale)
    }

    /// Moments before the first update, of a rank's shard.
    pub fn zero_moments(ranks: &dyn Ranks, reduce: Reduce, gpt: &Gpt) -> Moments {
        let layout = gpt.parameters().layout();
        Moments::shard(layout, &Shards::new(reduce, layout, ranks.count()).of(ranks.rank()))
    }

    /// Multiplies the learning rate of each tensor, in order; tensors with 0 are frozen.
    pub(crate) fn with_factors(self, factors: Vec<f64>) -> Self {
        Self { adamw: self.adamw.with_factors(factors), ..self }
    }

    /// The model.
    pub fn gpt(&self) -> &Gpt {
        &self.gpt
    }

    /// The optimiser's moments: those of this rank's shard.
    pub fn moments(&self) -> &Moments {
        self.adamw.moments()
    }

    /// The moments of all ranks, on rank 0; nothing on the others, which give theirs. Hand them back to
    /// [`Optimisation::recycle`]: they lie in buffers of the steps.
    /// # Errors
    /// If a rank is lost.
    pub(crate) fn whole_moments(&mut self) -> Result<Option<Moments>, Error> {
        let ranks = Arc::clone(&self.gradients.ranks);
        let rank = ranks.rank();
        let Moments { first, second } = self.adamw.moments();
        let mut whole = Vec::new();
        for moment in [first, second] {
            if rank > 0 {
                for own in self.gradients.own() {
                    ranks.exchange(0, bytemuck::cast_slice(moment.range(own)), 0, &mut [])?;
                }
                continue;
            }
            let mut all: Flat = self.gradients.zeros();
            for shards in self.gradients.shards.ranges() {
                let own = shards[0].clone();
                all.range_mut(own.clone()).copy_from_slice(moment.range(own));
                for (from, shard) in shards.iter().enumerate().skip(1) {
                    let into = bytemuck::cast_slice_mut(all.range_mut(shard.clone()));
                    ranks.exchange(from, &[], from, into)?;
                }
            }
            whole.push(all);
        }
        let mut whole = whole.into_iter();
        Ok(whole.next().zip(whole.next()).map(|(first, second)| Moments { first, second }))
    }

    /// Takes the buffers of [`Optimisation::whole_moments`] back; one that steps do not need is freed.
    pub(crate) fn recycle(&mut self, moments: Moments) {
        self.gradients.recycle(moments.first);
    }

    /// The micro-batches of a step of so many that are this rank's to compute.
    /// # Errors
    /// If there are more ranks than leaves of the gradients' tree.
    pub fn share(&self, micro_batches: usize) -> Result<Range<usize>, Error> {
        self.gradients.share(micro_batches)
    }

    /// Where the time of steps goes: off until it is started.
    pub fn profile(&mut self) -> &mut Profile {
        &mut self.gradients.arena.profile
    }

    /// Steps done: updates made and skipped.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps without an update, of those done.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.learning_rate(self.steps as usize)
    }

    /// One step: the gradient of the mean loss over all targets of `micro_batches`, clipped, then
    /// one AdamW update. The result does not depend on the number of threads.
    /// # Errors
    /// If a token or a layout does not fit the model, no target has a weight, the loss or a
    /// gradient is not finite, or `watch` asks to stop between two micro-batches. The model is then
    /// as before, and the step not done. If a weight or a moment is not finite after the update: then
    /// the step is not done either, but the model is lost, and no checkpoint can be made of it.
    pub fn step(
        &mut self,
        micro_batches: &[TokenBatch],
        watch: &mut dyn Watch,
    ) -> Result<StepResult, Error> {
        self.step_of(micro_batches.len(), Ok(micro_batches), watch)
    }

    /// One step of `all` micro-batches, of which `mine` are this rank's [`share`](Optimisation::share), or
    /// why they could not be had.
    /// # Errors
    /// As for [`Optimisation::step`]; every rank has an error if one has.
    pub fn step_of(
        &mut self,
        all: usize,
        mine: Result<impl AsRef<[TokenBatch]>, Error>,
        watch: &mut dyn Watch,
    ) -> Result<StepResult, Error> {
        let outcome = self.outcome_of(all, mine, watch);
        outcome.map_err(|source| {
            self.gradients.give_up();
            match source {
                Error::Stopped | Error::OtherRank { .. } | Error::Lost(_) => source,
                source => {
                    let source = Box::new(self.explained(source));
                    Error::Step { step: self.steps as usize + 1, source }
                }
            }
        })
    }

    fn outcome_of(
        &mut self,
        all: usize,
        mine: Result<impl AsRef<[TokenBatch]>, Error>,
        watch: &mut dyn Watch,
    ) -> Result<StepResult, Error> {
        let started = Instant::now();
        let parameters = self.gpt.parameters();
        let due = self.masks.as_ref().and_then(|(masks, _)| {
            let due = masks.due(self.steps + 1)?;
            Some((due, masks.watching(due, parameters)))
        });
        let choosing = started.elapsed();
        let observer = due.as_ref().and_then(|(_, watching)| watching.as_ref());
        let observer = observer.map(|watching| watching as &dyn Observer);
        let scale = self.scale();
        let (loss, gradients) =
            self.gradients.of_step(&self.gpt, scale, all, mine, observer, watch)?;
        let mut done = self.update(loss, gradients)?;
        // A step without an update moves no mask.
        if let Some((due, watching)) = due.filter(|_| done.grad_norm.is_finite()) {
            done.masks = Some(self.move_masks(due, watching, choosing)?);
        }
        Ok(done)
    }

    /// Moves masks, after a step that began with `choosing`.
    fn move_masks(
        &mut self,
        due: Due,
        watching: Option<DenseGradients>,
        choosing: Duration,
    ) -> Result<MaskUpdate, Error> {
        let started = Instant::now();
        let (masks, config) = self.masks.as_mut().expect("masks that move");
        let (decided, watched) = match watching {
            Some(watching) => watching.decided(&*self.gradients.ranks)?,
            None => (Decided::new(), Duration::ZERO),
        };
        let parameters = self.gpt.parameters();
        let changed = masks.update(due, parameters, &decided);
        let (mut dropped, mut grown) = (0, 0);
        for (id, mask) in &changed {
            let common = parameters.get(*id).shape.in_common(mask);
            dropped += parameters[*id].len() - common;
            grown += mask.nnz() - common;
        }
        if !changed.is_empty() {
            let Self { gradients, gpt, adamw, .. } = self;
            remask(gpt, adamw, gradients, config, changed)?;
        }
        masks.state.updates += 1;
        masks.state.last = self.steps;
        let seconds = (started.elapsed() + choosing + watched).as_secs_f64();
        Ok(MaskUpdate { dropped, grown, kept: self.gpt.kept(), seconds })
    }

    /// Does the next step without an update: the learning rate goes on.
    pub fn skip(&mut self) {
        self.skipped += 1;
        self.count_step();
    }

    fn count_step(&mut self) {
        self.steps += 1;
        if let Some((masks, _)) = &mut self.masks {
            masks.state.weight_steps += self.gpt.kept() as u64;
        }
    }

    /// Clips and updates this rank's shard, and gets the weights of the others.
    fn update(&mut self, loss: LossSum, mut gradients: Gradients) -> Result<StepResult, Error> {
        // What is frozen takes no part in clipping.
        let frozen = gradients.iter_mut().zip(self.adamw.factors());
        frozen.filter(|(_, f)| *f == 0.0).for_each(|((_, g), _)| g.fill(0.0));
        let (own, loss_scale, lr) = (self.gradients.own(), self.scale(), self.learning_rate());
        let StepGradients { ranks, shards, arena, .. } = &mut self.gradients;
        let (ranks, profile) = (&**ranks, &mut arena.profile);
        let clock = profile.clock();
        let sums = sums_of_squares(&gradients, &own);
        profile.record(clock, "gradient norm", Pass::Update, || 0);
        let clock = profile.clock();
        let sums = agree_numbers(ranks, Ok(sums))?;
        profile.record(clock, EXCHANGE, Pass::Update, || 0);
        let grad_norm = norm(sums.iter().flatten()) / loss_scale;
        if !grad_norm.is_finite() && self.loss_scale.is_some() {
            return self.overflowed(loss, gradients);
        }
        if !grad_norm.is_finite() {
            agree(ranks, check_finite_in("gradient", &gradients, &own))?;
            unreachable!("a norm that is not finite comes from such a gradient");
        }
        let scale = clip_scale(grad_norm, self.clip_norm) / loss_scale;
        let t = self.steps - self.skipped + 1;
        let is_alone = ranks.count() == 1;
        let (parameters, layers) = self.gpt.parameters_and_layers();
        let mut clock = profile.clock();
        let updated = self.adamw.update(t, parameters, &gradients, lr, scale, |id, values| {
            profile.record(clock, "AdamW", Pass::Update, || 0);
            clock = profile.clock();
            if is_alone {
                layers.refresh(id, values);
                profile.record(clock, "packing", Pass::Update, || 0);
                clock = profile.clock();
            }
        });
        if is_alone {
            updated?;
        } else {
            let clock = profile.clock();
            agree(ranks, updated)?;
            for shards in shards.ranges() {
                gather_shards(ranks, shards, parameters.whole_mut())?;
            }
            profile.record(clock, EXCHANGE, Pass::Update, || 0);
            let clock = profile.clock();
            parameters.iter().for_each(|(id, tensor)| layers.refresh(id, tensor.values));
            profile.record(clock, "packing", Pass::Update, || 0);
        }
        self.count_step();
        if let Some(scale) = &mut self.loss_scale {
            scale.succeeded();
        }
        self.gradients.recycle(gradients);
        Ok(StepResult { loss, grad_norm, lr, masks: None })
    }

    /// A step whose gradients are too large for f16: no update, and the next one scales its loss less. All
    /// ranks find the same.
    fn overflowed(&mut self, loss: LossSum, gradients: Gradients) -> Result<StepResult, Error> {
        check_finite("weight", self.gpt.parameters())?;
        self.loss_scale.as_mut().expect("f16 scales its loss").overflowed()?;
        let lr = self.learning_rate();
        self.skip();
        self.gradients.recycle(gradients);
        Ok(StepResult { loss, grad_norm: f64::NAN, lr, masks: None })
    }

    /// A weight that is not finite is why nothing that comes of it is.
    fn explained(&self, error: Error) -> Error {
        if !matches!(error, Error::NonFinite { what: "loss" | "gradient", .. }) {
            return error;
        }
        check_finite("weight", self.gpt.parameters()).err().unwrap_or(error)
    }
}

#[cfg(test)]
mod tests;
