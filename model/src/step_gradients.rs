//! [`StepGradients`]: loss and gradients of an optimiser step, added up over its micro-batches and over ranks.

use crate::agreement::{agree, agree_numbers, agree_telling};
use crate::error::Error;
use crate::gpt::{Gpt, TokenBatch};
use crate::gradient_tree::{GradientTree, leaf};
use crate::overlap::while_reducing;
use crate::reduction::{Reduce, Shards, reduce, share};
use crate::watch::{Progress, Watch};
use mediswift_engine::ops::Observer;
use mediswift_engine::{Arena, Gradients, Layout, LossSum, Pass};
use mediswift_ranks::Ranks;
use std::ops::Range;
use std::sync::Arc;

/// What the time in which ranks talk is called in a profile.
pub(crate) const EXCHANGE: &str = "exchange";

/// Who computes a step, how its gradients are added up, and the buffers for that.
pub(crate) struct StepGradients {
    pub ranks: Arc<dyn Ranks>,
    reduce: Reduce,
    /// What of all stores each rank owns.
    pub shards: Shards,
    /// Most leaves of a step.
    leaves: usize,
    layout: Arc<Layout>,
    tree: GradientTree,
    pub arena: Arena,
}

impl StepGradients {
    /// Of models with that layout, with at most so many leaves of a step.
    pub fn new(ranks: Arc<dyn Ranks>, reduce: Reduce, leaves: usize, layout: &Arc<Layout>) -> Self {
        let reduce = reduce.among(ranks.count());
        let shards = Shards::new(reduce, layout, ranks.count());
        let (layout, tree, arena) = (Arc::clone(layout), GradientTree::new(), Arena::default());
        Self { ranks, reduce, shards, leaves, layout, tree, arena }
    }

    /// What of all stores this rank owns.
    pub fn own(&self) -> Vec<Range<usize>> {
        self.shards.of(self.ranks.rank())
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

    /// Goes on with stores of another layout. What buffers of the old one were kept is freed.
    pub fn relay(&mut self, layout: &Arc<Layout>) {
        self.give_up();
        self.shards = Shards::new(self.reduce, layout, self.ranks.count());
        self.layout = Arc::clone(layout);
    }

    /// Loss and gradients of the mean over all targets of a step of `all` micro-batches, of which `mine` are this
    /// rank's share; of the gradients, multiplied by `scale`, those of this rank's shard. The observer sees the way back
    /// of the first micro-batch, on the rank that has it.
    /// # Errors
    /// If the micro-batches could not be had, no target has a weight, a loss is not finite, or `watch` asks to stop:
    /// on all ranks then. [`StepGradients::give_up`] afterwards.
    pub fn of_step(
        &mut self,
        gpt: &Gpt,
        scale: f64,
        all: usize,
        mine: Result<impl AsRef<[TokenBatch]>, Error>,
        observer: Option<&dyn Observer>,
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
        let (first, micro_batches, weight) = (share.start, mine.as_ref(), weight / scale);
        let share = Share { all, first, micro_batches, weight, observer };
        let (losses, gradients) = match self.reduce {
            Reduce::Exact => self.sum_exactly(gpt, &share, watch)?,
            Reduce::Fast => self.sum_fast(gpt, &share, watch)?,
        };
        let losses = losses.iter().flat_map(|losses| losses.chunks_exact(2));
        let loss = losses
            .fold(LossSum::default(), |sum, part| sum + LossSum { sum: part[0], weight: part[1] });
        Ok((loss, gradients))
    }

    /// The losses of all ranks, and this rank's shard of the sum of all gradients, in the order of one process.
    fn sum_exactly(
        &mut self,
        gpt: &Gpt,
        share: &Share<'_>,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Vec<f64>>, Gradients), Error> {
        let losses = self.push_leaves(gpt, share, watch);
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
        gpt: &Gpt,
        share: &Share<'_>,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<Vec<f64>>, Gradients), Error> {
        let (mut gradients, mut losses) = (self.zeros(), Vec::new());
        let at = share.micro_batches.len() - 1;
        let last = &share.micro_batches[at];
        let before =
            self.add(gpt, share, 0..at, &mut gradients, &mut losses, watch).and_then(|()| {
                share.tell(at, watch)?;
                gpt.check(last)
            });
        // What follows ranks do together: whoever stopped now would be waited for.
        let clock = self.arena.profile.clock();
        agree(&*self.ranks, before)?;
        self.arena.profile.record(clock, EXCHANGE, Pass::Update, || 0);
        let (arena, weight) = (&mut self.arena, share.weight);
        let observer = share.observer_of(at);
        let work = |gradients: &mut Gradients, is_final: &mut dyn FnMut(usize, &mut Gradients)| {
            let loss =
                gpt.loss_and_gradients_telling(last, weight, gradients, arena, observer, is_final);
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

    /// Takes gradients back whose buffers the next step may use.
    pub fn recycle(&mut self, gradients: Gradients) {
        self.tree.recycle(gradients);
    }

    /// Forgets the sums of a step that came to nothing.
    pub fn give_up(&mut self) {
        self.tree = GradientTree::new();
    }

    /// Zeros for gradients.
    pub fn zeros(&mut self) -> Gradients {
        let clock = self.arena.profile.clock();
        let zeros = self.tree.zeros(&self.layout, &self.shards.wholes());
        self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        zeros
    }

    /// Pushes the leaves of a share to the tree, and returns sum and weight of every micro-batch's loss.
    fn push_leaves(
        &mut self,
        gpt: &Gpt,
        share: &Share<'_>,
        watch: &mut dyn Watch,
    ) -> Result<Vec<f64>, Error> {
        let mut losses = Vec::with_capacity(2 * share.micro_batches.len());
        let (leaf, mine) = (leaf(share.all, self.leaves), share.micro_batches.len());
        self.tree.start(share.first / leaf);
        for start in (0..mine).step_by(leaf) {
            let mut gradients = self.zeros();
            self.add(
                gpt,
                share,
                start..mine.min(start + leaf),
                &mut gradients,
                &mut losses,
                watch,
            )?;
            let clock = self.arena.profile.clock();
            self.tree.push(gradients);
            self.arena.profile.record(clock, "gradient sums", Pass::Update, || 0);
        }
        Ok(losses)
    }

    /// Adds the gradients of some micro-batches of a share, and sums and weights of their losses.
    fn add(
        &mut self,
        gpt: &Gpt,
        share: &Share<'_>,
        which: Range<usize>,
        gradients: &mut Gradients,
        losses: &mut Vec<f64>,
        watch: &mut dyn Watch,
    ) -> Result<(), Error> {
        for at in which {
            share.tell(at, watch)?;
            let (batch, arena) = (&share.micro_batches[at], &mut self.arena);
            let (weight, observer) = (share.weight, share.observer_of(at));
            let none = |_, _: &mut Gradients| {};
            let loss =
                gpt.loss_and_gradients_telling(batch, weight, gradients, arena, observer, none)?;
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
    /// Who sees the way back of the step's first micro-batch.
    observer: Option<&'a dyn Observer>,
}

impl Share<'_> {
    /// Who sees the way back of one of the micro-batches.
    fn observer_of(&self, at: usize) -> Option<&dyn Observer> {
        self.observer.filter(|_| self.first + at == 0)
    }

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
