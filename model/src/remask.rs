//! [`remask`]: the one door through which the masks of a model under training change.
//!
//! Another mask is another layout of all stores. Values are carried over to it by name, row and column
//! ([`Flat::remapped`]): weights, and both moments of those that are in the old and the new mask; new ones are zero. What
//! was kept of gradients is freed, and only layers whose mask changed are planned anew. Of several ranks all change the
//! same masks at the same time; each owns another part of the moments afterwards, so tensors that are shared out in
//! another way go round, one at a time.

use crate::adamw::{AdamW, Moments};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::reduction::Shards;
use crate::step_gradients::StepGradients;
use mediswift_engine::{Flat, Layout, ParamId, Shape};
use mediswift_kernels::SparsePattern;
use mediswift_ranks::collectives::gather_shards;
use mediswift_ranks::{Lost, Ranks};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Gives weights of a model other masks.
/// # Errors
/// If a rank is lost, or a plan in the configuration is none. The model is lost then.
pub(crate) fn remask(
    gpt: &mut Gpt,
    adamw: &mut AdamW,
    gradients: &mut StepGradients,
    config: &Config,
    masks: Vec<(ParamId, Arc<SparsePattern>)>,
) -> Result<(), Error> {
    let changed: Vec<ParamId> = masks.iter().map(|(id, _)| *id).collect();
    let mut masks: HashMap<ParamId, Arc<SparsePattern>> = masks.into_iter().collect();
    let tensors = gpt.parameters().layout().iter().map(|(id, place)| {
        let mask = masks.remove(&id).map(Shape::Sparse);
        (place.name.clone(), mask.unwrap_or_else(|| place.shape.clone()))
    });
    let layout = Layout::new(tensors.collect::<Vec<_>>());
    let before = gradients.shards.clone();
    gradients.relay(&layout);
    let (ranks, after) = (&*gradients.ranks, &gradients.shards);
    // One after the other, so that no more than one of them is there twice.
    let Moments { first, second } = adamw.moments_mut();
    for moments in [first, second] {
        *moments = carried(ranks, moments, &before, &layout, after)?;
    }
    let parameters = gpt.parameters().remapped(&layout);
    gpt.remask(config, parameters, &changed)
}

/// This rank's shard of a store in another layout.
fn carried(
    ranks: &dyn Ranks,
    store: &Flat,
    before: &Shards,
    layout: &Arc<Layout>,
    after: &Shards,
) -> Result<Flat, Lost> {
    if ranks.count() == 1 {
        return Ok(store.remapped(layout));
    }
    let rank = ranks.rank();
    let mut to = Flat::shard(layout, &after.of(rank));
    for (id, old) in store.layout().iter() {
        let new = layout.place(id);
        let (from, into) = (before.within(&old.range), after.within(&new.range));
        let mine = |shards: &[Range<usize>], start: usize| {
            let Range { start: first, end } = shards[rank];
            start + first..start + end
        };
        let (own, target) = (mine(&from, old.range.start), mine(&into, new.range.start));
        if old.shape == new.shape && from == into {
            if !own.is_empty() {
                to.range_mut(target).copy_from_slice(store.range(own));
            }
            continue;
        }
        let mut whole = vec![0.0; old.range.len()];
        if !own.is_empty() {
            whole[from[rank].clone()].copy_from_slice(store.range(own));
        }
        gather_shards(ranks, &from, &mut whole)?;
        let name = old.name.as_str();
        let whole = Flat::from_tensors([(name, old.shape.clone(), whole)]);
        let moved = whole.remapped(&Layout::new([(name, new.shape.clone())]));
        if !target.is_empty() {
            to.range_mut(target).copy_from_slice(moved.range(into[rank].clone()));
        }
    }
    Ok(to)
}
