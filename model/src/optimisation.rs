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
use crate::agreement::{agree, agree_numbers, agree_telling};
use crate::config::Config;
use crate::error::Error;
use crate::finite::{check_finite, check_finite_in};
use crate::gpt::{Gpt, TokenBatch};
use crate::gradient_tree::{GradientTree, leaf};
use crate::loss_scale::LossScale;
use crate::overlap::while_reducing;
use crate::reduction::{Reduce, Shards, reduce, share};
use crate::schedule::Schedule;
use crate::watch::{Progress, Watch};
use mediswift_engine::{Arena, Flat, Gradients, LossSum, Pass, Profile};
use mediswift_ranks::collectives::gather_shards;
use mediswift_ranks::{Alone, Ranks};
use std::ops::Range;
use std::sync::Arc;

/// A model, its optimiser, how many steps they have made, and the buffers that steps share.
pub struct Optimisation {
    ranks: Arc<dyn Ranks>,
    reduce: Reduce,
    /// What of all stores each rank owns.
    shards: Shards,
    /// Most leaves of a step.
    leaves: usize,
    gpt: Gpt,
    adamw: AdamW,
    /// Steps done: updates made and skipped.
    steps: u64,
    /// Steps without an update, of those done.
    skipped: u64,
    schedule: Schedule,
    /// What the loss of a step is multiplied with, if its gradients need it.
    loss_scale: Option<LossScale>,
    clip_norm: f64,
    tree: GradientTree,
    arena: Arena,
}

/// What the time in which ranks talk is called in a profile.
const EXCHANGE: &str = "exchange";

/// What an optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Loss over all targets of the step, before the update.
    pub loss: LossSum,
    /// Norm of all gradients before clipping; NaN if they were too large for f16, and no update was made.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
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
        let reduce = reduce.among(ranks.count());
        let shards = Shards::new(reduce, gpt.parameters().layout(), ranks.count());
        let own = shards.of(ranks.rank());
        assert_eq!(moments.first.held(), own, "the moments of this rank's shard");
        Ok(Self {
            ranks,
            reduce,
            shards,
            leaves: config.train.leaves,
            gpt,
            adamw: AdamW::new(&config.optimiser, moments, decays),
            steps,
            skipped,
            schedule: Schedule::new(config),
            loss_scale: LossScale::of(config.train.precision),
            clip_norm: config.optimiser.clip_norm,
            tree: GradientTree::new(),
            arena: Arena::default(),
        })
    }

    /// Goes on with the scale of an earlier run's loss.
    pub(crate) fn with_loss_scale(mut self, scale: Option<LossScale>) -> Self {
        if let (Some(own), Some(scale)) = (&mut self.loss_scale, scale) {
            *own = scale;
        }
        self
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
        let (rank, ranks) = (self.ranks.rank(), &*self.ranks);
        let Moments { first, second } = self.adamw.moments();
        let mut whole = Vec::new();
        for moment in [first, second] {
            if rank > 0 {
                for own in self.shards.of(rank) {
                    ranks.exchange(0, bytemuck::cast_slice(moment.range(own)), 0, &mut [])?;
                }
                continue;
            }
            let layout = self.gpt.parameters().layout();
            let mut all: Flat = self.tree.zeros(layout, &self.shards.wholes());
            for shards in self.shards.ranges() {
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
        self.tree.recycle(moments.first);
    }

    /// The micro-batches of a step of so many that are this rank's to compute.
    /// # Errors
    /// If there are more ranks than leaves of the gradients' tree.
    pub fn share(&self, micro_batches: usize) -> Result<Range<usize>, Error> {
        let leaf = leaf(micro_batches, self.leaves);
        let (leaves, count) = (micro_batches.div_ceil(leaf), self.ranks.count());
        if count > leaves {
            let fewer = format!("start at most {leaves} ranks");
            let problem = match micro_batches < count {
                true => format!(
                    "a step has {micro_batches} micro-batches, too few for {count} ranks: {fewer}, or set a \
                     smaller train.micro_batch or a larger train.batch"
                ),
                false => format!(
                    "a step's {micro_batches} micro-batches are {leaves} leaves, too few for {count} ranks: \
                     {fewer}, or set train.leaves={}",
                    count.next_power_of_two()
                ),
            };
            return Err(Error::setting("train.leaves", problem));
        }
        let Range { start, end } = share(leaves, count, self.ranks.rank());
        Ok(start * leaf..micro_batches.min(end * leaf))
    }

    /// Where the time of steps goes: off until it is started.
    pub fn profile(&mut self) -> &mut Profile {
        &mut self.arena.profile
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
        let gradients = self.gradients(all, mine, watch);
        let outcome = gradients.and_then(|(loss, gradients)| self.update(loss, gradients));
        outcome.map_err(|source| {
            self.tree = GradientTree::new();
            match source {
                Error::Stopped | Error::OtherRank { .. } | Error::Lost(_) => source,
                source => {
                    let source = Box::new(self.explained(source));
                    Error::Step { step: self.steps as usize + 1, source }
                }
            }
        })
    }

    /// Does the next step without an update: the learning rate goes on.
    pub fn skip(&mut self) {
        self.steps += 1;
        self.skipped += 1;
    }

    /// Clips and updates this rank's shard, and gets the weights of the others.
    fn update(&mut self, loss: LossSum, mut gradients: Gradients) -> Result<StepResult, Error> {
        // What is frozen takes no part in clipping.
        let frozen = gradients.iter_mut().zip(self.adamw.factors());
        frozen.filter(|(_, f)| *f == 0.0).for_each(|((_, g), _)| g.fill(0.0));
        let (ranks, own) = (&*self.ranks, self.shards.of(self.ranks.rank()));
        let clock = self.arena.profile.clock();
        let sums = sums_of_squares(&gradients, &own);
        self.arena.profile.record(clock, "gradient norm", Pass::Update, || 0);
        let clock = self.arena.profile.clock();
        let sums = agree_numbers(ranks, Ok(sums))?;
        self.arena.profile.record(clock, EXCHANGE, Pass::Update, || 0);
        let loss_scale = self.scale();
        let grad_norm = norm(sums.iter().flatten()) / loss_scale;
        if !grad_norm.is_finite() && self.loss_scale.is_some() {
            return self.overflowed(loss, gradients);
        }
        if !grad_norm.is_finite() {
            agree(ranks, check_finite_in("gradient", &gradients, &own))?;
            unreachable!("a norm that is not finite comes from such a gradient");
        }
        let lr = self.learning_rate();
        let scale = clip_scale(grad_norm, self.clip_norm) / loss_scale;
        let t = self.steps - self.skipped + 1;
        let is_alone = ranks.count() == 1;
        let profile = &mut self.arena.profile;
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
            for shards in self.shards.ranges() {
                gather_shards(ranks, shards, parameters.whole_mut())?;
            }
            profile.record(clock, EXCHANGE, Pass::Update, || 0);
            let clock = profile.clock();
            parameters.iter().for_each(|(id, tensor)| layers.refresh(id, tensor.values));
            profile.record(clock, "packing", Pass::Update, || 0);
        }
        self.steps += 1;
        if let Some(scale) = &mut self.loss_scale {
            scale.succeeded();
        }
        self.tree.recycle(gradients);
        Ok(StepResult { loss, grad_norm, lr })
    }

    /// A step whose gradients are too large for f16: no update, and the next one scales its loss less. All
    /// ranks find the same.
    fn overflowed(&mut self, loss: LossSum, gradients: Gradients) -> Result<StepResult, Error> {
        check_finite("weight", self.gpt.parameters())?;
        self.loss_scale.as_mut().expect("f16 scales its loss").overflowed()?;
        let lr = self.learning_rate();
        self.skip();
        self.tree.recycle(gradients);
        Ok(StepResult { loss, grad_norm: f64::NAN, lr })
    }

    /// A weight that is not finite is why nothing that comes of it is.
    fn explained(&self, error: Error) -> Error {
        if !matches!(error, Error::NonFinite { what: "loss" | "gradient", .. }) {
            return error;
        }
        check_finite("weight", self.gpt.parameters()).err().unwrap_or(error)
    }

    /// Loss and gradients of the mean over all targets of a step of `all` micro-batches; of the gradients,
    /// those of this rank's shard.
    fn gradients(
        &mut self,
        all: usize,
        mine: Result<impl AsRef<[TokenBatch]>, Error>,
        watch: &mut dyn Watch,
    ) -> Result<(LossSum, Gradients), Error> {
        let mine = mine.and_then(|mine| {
            let weights = mine.as_ref().iter().map(TokenBatch::weight).collect();
            Ok(((mine, self.share(all)?), weights))
        });
        let ((mine, share), weights) = agree_telling(&*self.ranks, mine)?;
        let weight: f64 = weights.iter().flatten().sum();
        if weight <= 0.0 {
            return Err(Error::input("batch", "no target token has a weight: nothing to learn"));
        }
        let share = Share {
            all,
            first: share.start,
            micro_batches: mine.as_ref(),
            weight: weight / self.scale(),
        };
        let (losses, gradients) = match self.reduce {
            Reduce::Exact => self.sum_exactly(&share, watch)?,
            Reduce::Fast => self.sum_fast(&share, watch)?,
        };
        let losses = losses.iter().flat_map(|losses| losses.chunks_exact(2));
        let loss = losses
            .fold(LossSum::default(), |sum, part| sum + LossSum { sum: part[0], weight: part[1] });
        Ok((loss, gradients))
    }

    /// The losses of all ranks, and this rank's shard of the sum of all gradients, in the order of one process.
    fn sum_exactly(
        &mut self,
        share: &Share<'_>,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Vec<f64>>, Gradients), Error> {
        let losses = self.push_leaves(share, watch);
        let clock = self.arena.profile.clock();
        let losses = agree_numbers(&*self.ranks, losses)?;
        let leaves = share.all.div_ceil(leaf(share.all, self.leaves));
        let [shards] = self.shards.ranges() else { unreachable!("the store is one range") };
        let gradients = reduce(&*self.ranks, leaves, shards, &mut self.tree)?;
        let part = if self.ranks.count() == 1 { "gradient sums" } else { EXCHANGE };
        self.arena.profile.record(clock, part, Pass::Update, || 0);
        Ok((losses, gradients))
    }

    /// The same, where a rank adds up in place, and all of them during the last backward pass.
    fn sum_fast(
        &mut self,
        share: &Share<'_>,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Vec<f64>>, Gradients), Error> {
        let (mut gradients, mut losses) = (self.zeros(), Vec::new());
        let at = share.micro_batches.len() - 1;
        let last = &share.micro_batches[at];
        let before = self.add(share, 0..at, &mut gradients, &mut losses, watch).and_then(|()| {
            share.tell(at, watch)?;
            self.gpt.check(last)
        });
        // What follows ranks do together: whoever stopped now would be waited for.
        let clock = self.arena.profile.clock();
        agree(&*self.ranks, before)?;
        self.arena.profile.record(clock, EXCHANGE, Pass::Update, || 0);
        let (gpt, arena, weight) = (&self.gpt, &mut self.arena, share.weight);
        let work = |gradients: &mut Gradients, is_final: &mut dyn FnMut(usize, &mut Gradients)| {
            let loss = gpt.loss_and_gradients_telling(last, weight, gradients, arena, is_final);
            (loss, arena.profile.clock())
        };
        let (loss, clock) = while_reducing(&*self.ranks, &self.shards, &mut gradients, work)?;
        let mine = loss.and_then(|loss| share.finite(at, loss)).map(|loss| {
            losses.extend(loss);
            losses
        });
        let losses = agree_numbers(&*self.ranks, mine)?;
        self.arena.profile.record(clock, EXCHANGE, Pass::Update, || 0);
        Ok((losses, gradients))
    }

    /// Zeros for gradients.
    fn zeros(&mut self) -> Gradients {
        let clock = self.arena.profile.clock();
        let zeros = self.tree.zeros(self.gpt.parameters().layout(), &self.shards.wholes());
        self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        zeros
    }

    /// Pushes the leaves of a share to the tree, and returns sum and weight of every micro-batch's loss.
    fn push_leaves(&mut self, share: &Share<'_>, watch: &mut dyn Watch) -> Result<Vec<f64>, Error> {
        let mut losses = Vec::with_capacity(2 * share.micro_batches.len());
        let (leaf, mine) = (leaf(share.all, self.leaves), share.micro_batches.len());
        self.tree.start(share.first / leaf);
        for start in (0..mine).step_by(leaf) {
            let mut gradients = self.zeros();
            self.add(share, start..mine.min(start + leaf), &mut gradients, &mut losses, watch)?;
            let clock = self.arena.profile.clock();
            self.tree.push(gradients);
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        }
        Ok(losses)
    }

    /// Adds the gradients of some micro-batches of a share, and sums and weights of their losses.
    fn add(
        &mut self,
        share: &Share<'_>,
        which: Range<usize>,
        gradients: &mut Gradients,
        losses: &mut Vec<f64>,
        watch: &mut dyn Watch,
    ) -> Result<(), Error> {
        for at in which {
            share.tell(at, watch)?;
            let (batch, arena) = (&share.micro_batches[at], &mut self.arena);
            let loss = self.gpt.loss_and_gradients(batch, share.weight, gradients, arena)?;
            losses.extend(share.finite(at, loss)?);
        }
        Ok(())
    }
}

/// What one rank computes of a step.
struct Share<'a> {
    /// Micro-batches of the step.
    all: usize,
    /// The first one of this rank.
    first: usize,
    micro_batches: &'a [TokenBatch],
    /// What the loss is divided by: the weight of all targets of the step, less where it is scaled.
    weight: f64,
}

impl Share<'_> {
    /// Tells how many of the micro-batches are done, unless that is none.
    /// # Errors
    /// If the watch asks to stop.
    fn tell(&self, done: usize, watch: &mut dyn Watch) -> Result<(), Error> {
        match done {
            0 => Ok(()),
            done => watch.tell(Progress::Accumulated { done, all: self.micro_batches.len() }),
        }
    }

    /// Sum and weight of a micro-batch's loss.
    /// # Errors
    /// If it is not finite.
    fn finite(&self, at: usize, loss: LossSum) -> Result<[f64; 2], Error> {
        if !loss.sum.is_finite() {
            let name = format!("micro-batch {} of {}", self.first + at + 1, self.all);
            let value = loss.sum as f32;
            return Err(Error::NonFinite { what: "loss", name, position: 0, value });
        }
        Ok([loss.sum, loss.weight])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::weights_hash;
    use mediswift_engine::TokenLayout;
    use std::ops::ControlFlow;

    fn optimisation() -> Optimisation {
        let mut config = Config::from_preset("micro").unwrap();
        (config.model.vocabulary, config.sparsity.sparsity) = (300, 0.5);
        Optimisation::new(Gpt::new(&config).unwrap(), &config).unwrap()
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
        let Moments { first, second } = optimisation.moments();
        let moments = first.iter().chain(second.iter());
        let bits = moments.flat_map(|(_, m)| m.values.iter().map(|x| x.to_bits())).collect();
        let updates = optimisation.steps() - optimisation.skipped();
        (weights_hash(optimisation.gpt().parameters()), bits, updates)
    }

    /// The cause of a step's error.
    fn cause(error: &Error) -> String {
        std::error::Error::source(error).expect("a step has a cause").to_string()
    }

    #[test]
    fn what_is_not_finite_never_reaches_the_weights_and_is_named() {
        let mut optimisation = optimisation();
        optimisation.step(&[batch(1), batch(2)], &mut ()).unwrap();
        let before = state(&optimisation);

        let error = optimisation.step(&[batch(1), poison(), batch(2)], &mut ()).unwrap_err();
        assert!(cause(&error).starts_with("loss 'micro-batch 2 of 3' is "), "{}", cause(&error));
        assert_eq!(state(&optimisation), before);

        for (name, value) in
            [("ln_final.bias", f32::NAN), ("blocks.1.mlp.up.weight", f32::INFINITY)]
        {
            let (loss, mut gradients) =
                optimisation.gradients(1, Ok(&[batch(1)]), &mut ()).unwrap();
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
            let error = cause(&optimisation.step(&[batch(1)], &mut ()).unwrap_err());
            assert!(error.contains(&format!("weight '{name}' is {value} at element 3")), "{error}");
            optimisation.gpt.parameters_mut()[id][3] = healthy;
            optimisation.gpt.refresh();
            assert_eq!(state(&optimisation), before);
        }
        assert!(optimisation.step(&[batch(3)], &mut ()).is_ok(), "the next step must be possible");
    }

    #[test]
    fn an_update_that_is_not_finite_is_an_error_and_no_checkpoint() {
        let mut optimisation = optimisation();
        optimisation.step(&[batch(1)], &mut ()).unwrap();
        let (loss, mut gradients) = optimisation.gradients(1, Ok(&[batch(1)]), &mut ()).unwrap();
        // So large that its square is infinite, which clipping would prevent.
        optimisation.clip_norm = f64::INFINITY;
        let id = optimisation.gpt().parameters().find("ln_final.bias").unwrap();
        gradients[id][3] = 1e30;
        let error = optimisation.update(loss, gradients).unwrap_err().to_string();
        assert!(error.starts_with("new moment 'ln_final.bias' is inf at element 3"), "{error}");
        assert_eq!(optimisation.steps(), 1);
        let folder = tempfile::tempdir().unwrap();
        let snapshot = crate::checkpoint::Snapshot {
            config: &Config::from_preset("micro").unwrap(),
            step: 1,
            loss_scale: None,
            skipped: 0,
            parameters: optimisation.gpt().parameters(),
            moments: Some(optimisation.moments()),
            data: Default::default(),
        };
        let error = crate::checkpoint::save(folder.path(), &snapshot).unwrap_err().to_string();
        assert!(error.starts_with("moment 'ln_final.bias' is inf"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn gradients_too_large_for_f16_make_no_update_and_lower_the_scale() {
        let mut config = Config::from_preset("micro").unwrap();
        (config.model.vocabulary, config.sparsity.sparsity) = (300, 0.5);
        config.train.precision = mediswift_kernels::Precision::F16;
        let with = |scale| {
            let gpt = Gpt::new(&config).unwrap();
            let optimisation = Optimisation::new(gpt, &config).unwrap();
            optimisation.with_loss_scale(Some(LossScale { scale, good_steps: 3 }))
        };
        // 16 tokens: the largest gradient of a logit is nearly a sixteenth of the scale.
        let mut optimisation = with(2f64.powi(22));
        let before = state(&optimisation);
        let mut halved = 0;
        loop {
            let done = optimisation.step(&[batch(1)], &mut ()).unwrap();
            if !done.grad_norm.is_nan() {
                break;
            }
            halved += 1;
            assert!(done.loss.mean().is_finite());
            assert_eq!(state(&optimisation), before);
            assert_eq!((optimisation.steps(), optimisation.skipped()), (halved, halved));
            let scale = 2f64.powi(22 - halved as i32);
            assert_eq!(optimisation.loss_scale(), Some(LossScale { scale, good_steps: 0 }));
        }
        assert!((2..16).contains(&halved), "{halved}");
        let good = Some(LossScale { scale: 2f64.powi(22 - halved as i32), good_steps: 1 });
        assert_eq!((optimisation.skipped(), optimisation.loss_scale()), (halved, good));

        // The scale is a power of two, so it changes nothing but what lies at the edges of f16.
        let norms = [2f64.powi(8), 2f64.powi(10)]
            .map(|scale| with(scale).step(&[batch(1)], &mut ()).unwrap().grad_norm);
        assert!((norms[0] / norms[1] - 1.0).abs() < 1e-3, "{norms:?}");

        // At the floor it is an error, and what was there stays.
        let mut lost = with(1.0);
        let (loss, mut gradients) = lost.gradients(1, Ok(&[batch(1)]), &mut ()).unwrap();
        let id = lost.gpt().parameters().find("ln_final.bias").unwrap();
        gradients[id][3] = f32::INFINITY;
        let before = state(&lost);
        let error = lost.update(loss, gradients).unwrap_err().to_string();
        assert!(error.contains("the scale of the loss has been lowered to 1"), "{error}");
        assert_eq!(state(&lost), before);
    }

    #[test]
    fn a_skipped_step_moves_the_learning_rate_alone() {
        let (mut whole, mut skipping) = (optimisation(), optimisation());
        skipping.step(&[batch(1)], &mut ()).unwrap();
        let before = state(&skipping);
        skipping.step(&[poison()], &mut ()).unwrap_err();
        skipping.skip();
        assert_eq!(state(&skipping), before);
        assert_eq!((skipping.steps(), skipping.skipped()), (2, 1));
        let rates: Vec<f64> =
            (1..4).map(|seed| whole.step(&[batch(seed)], &mut ()).unwrap().lr).collect();
        assert_eq!(skipping.step(&[batch(3)], &mut ()).unwrap().lr, rates[2]);
        assert_eq!(state(&skipping).2, 2);
    }

    #[test]
    fn a_step_that_is_given_up_leaves_no_trace() {
        let (mut whole, mut stopped) = (optimisation(), optimisation());
        let batches = [batch(1), batch(2), batch(3)];
        for stop_at in 1..3 {
            let mut seen = Vec::new();
            let mut watch = |progress: Progress<'_>| {
                let Progress::Accumulated { done, all: 3 } = progress else {
                    panic!("{progress:?}")
                };
                seen.push(done);
                if done == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let outcome = stopped.step(&batches, &mut watch);
            assert!(matches!(outcome, Err(Error::Stopped)));
            assert_eq!(seen, (1..=stop_at).collect::<Vec<_>>());
            assert_eq!(stopped.steps(), 0);
        }
        assert_eq!(
            stopped.step(&batches, &mut ()).unwrap(),
            whole.step(&batches, &mut ()).unwrap()
        );
        assert_eq!(state(&stopped), state(&whole));
    }
}
