//! [`MovingMasks`]: which weights the masks of a model lose and gain, update by update.
//!
//! Every part of every mask is a matter of its own, so parts stay as large as they were, or as their schedule has
//! them. Dropped are the smallest weights. Where as many are gained, their places are free ones or just dropped: of a
//! weight that is dropped and gained again in one update, nothing changes. All that is decided is a function of
//! weights, gradient, seed and step, and ties go to the first, so all ranks decide the same, with any number of
//! threads.
//!
//! An update follows the optimiser's step, so a run with moving masks makes as many of those as any other. Where
//! weights are gained by their gradient, those to drop are found before that step, among the weights which the
//! gradient belongs to; else after it. A step that makes no update of weights moves no mask, and the next one that
//! does makes up for it.

use super::dense_gradient::{Decided, DenseGradients, Kept};
use super::layer_seed;
use super::schedule::{Growth, MaskSchedule};
use super::selection::largest;
use super::targets::Targets;
use super::timing::Timing;
use super::weights::linear_weights;
use crate::config::{Config, DropFractionConfig};
use mediswift_engine::{Layout, ParamId, Parameters, Shape};
use mediswift_kernels::SparsePattern;
use mediswift_kernels::sparse::mask::{kept, sample};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// How far masks have moved: part of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskState {
    /// Updates made.
    pub updates: u64,
    /// The step of the last one, 0 before the first.
    pub last: u64,
    /// The sum, over all steps so far, of the weights that linear layers had.
    pub weight_steps: u64,
}

/// What an update did to all masks together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskUpdate {
    /// Weights that were there before and are not any more.
    pub dropped: usize,
    /// Weights that are there now and were not before; their values and moments are zero.
    pub grown: usize,
    /// Weights of linear layers that are there now.
    pub kept: usize,
    /// All that the update added to the step, in seconds: choosing, the gradient of all places, remapping, planning.
    pub seconds: f64,
}

/// The masks of a model under training.
#[derive(Clone, Debug)]
pub(crate) struct MovingMasks {
    schedule: &'static dyn MaskSchedule,
    timing: Timing,
    drop_fraction: DropFractionConfig,
    seed: u64,
    layers: Vec<Layer>,
    pub state: MaskState,
}

/// A weight whose mask moves.
#[derive(Clone, Debug)]
struct Layer {
    id: ParamId,
    name: String,
    parts: usize,
    target: f64,
}

/// An update that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    step: usize,
    /// The fraction of all updates that is made with it.
    progress: f64,
    drop_fraction: f64,
}

impl MovingMasks {
    /// Those of a model with that layout, as far as they have moved; none where they stay.
    pub fn new(config: &Config, layout: &Layout, state: MaskState) -> Option<Self> {
        let sparsity = &config.sparsity;
        let targets = Targets::new(sparsity, &config.model);
        let layers = linear_weights(&config.model).filter_map(|weight| {
            let (id, target) = (layout.find(&weight.name)?, targets.of(&weight));
            (target > 0.0).then_some(Layer { id, name: weight.name, parts: weight.parts, target })
        });
        let masks = Self {
            schedule: sparsity.algorithm,
            timing: Timing::new(sparsity, config.train.steps),
            drop_fraction: sparsity.drop_fraction.clone(),
            seed: sparsity.seed,
            layers: layers.collect(),
            state,
        };
        masks.schedule.moves().then_some(masks)
    }

    /// The update to make with a step, if one is due.
    pub fn due(&self, step: u64) -> Option<Due> {
        let step = step as usize;
        let made = self.timing.updates_until(self.state.last as usize);
        let now = self.timing.updates_until(step);
        (now > made).then(|| Due {
            step,
            progress: now as f64 / self.timing.updates() as f64,
            drop_fraction: self.timing.drop_fraction(&self.drop_fraction, step),
        })
    }

    /// What is to be done with the gradients of a step with an update, if they decide what is gained.
    pub fn watching(&self, due: Due, parameters: &Parameters) -> Option<DenseGradients> {
        (self.schedule.growth() == Growth::Gradient).then(|| {
            let kept =
                self.layers.par_iter().map(|layer| (layer.id, self.keep(layer, due, parameters)));
            DenseGradients::new(kept.collect())
        })
    }

    /// The masks that an update makes, of all that change; `decided` is what was chosen before the step, if anything was.
    pub fn update(
        &self,
        due: Due,
        parameters: &Parameters,
        decided: &Decided,
    ) -> Vec<(ParamId, Arc<SparsePattern>)> {
        let masks = self.layers.par_iter().filter_map(|layer| {
            let new = match decided.get(&layer.id) {
                Some((kept, gained)) => moved(kept, gained),
                None => {
                    let kept = self.keep(layer, due, parameters);
                    let gained = self.drawn(layer, due, &kept);
                    moved(&kept, &gained)
                }
            };
            let is_same =
                matches!(parameters.get(layer.id).shape, Shape::Sparse(old) if **old == new);
            (!is_same).then(|| (layer.id, Arc::new(new)))
        });
        masks.collect()
    }

    /// What a mask keeps and is to gain.
    fn keep(&self, layer: &Layer, due: Due, parameters: &Parameters) -> Kept {
        let tensor = parameters.get(layer.id);
        let extents = tensor.shape.extents();
        let places = extents[0] / layer.parts * extents[1];
        let (mut marks, mut gains) = (Vec::with_capacity(tensor.values.len()), Vec::new());
        for part in 0..layer.parts {
            let values = &tensor.values[part_of(tensor.shape, layer.parts, part)];
            let gain = match self.schedule.growth() {
                Growth::Nothing => 0,
                _ => (due.drop_fraction * values.len() as f64).round() as usize,
            };
            let left = match self.schedule.growth() {
                Growth::Nothing => kept(places, self.schedule.sparsity(layer.target, due.progress))
                    .min(values.len()),
                _ => values.len() - gain,
            };
            marks.extend(largest(values, left));
            gains.push(gain);
        }
        Kept { shape: tensor.shape.clone(), marks, gains }
    }

    /// The places that every part gains by chance.
    fn drawn(&self, layer: &Layer, due: Due, kept: &Kept) -> Vec<Vec<u32>> {
        let extents = kept.shape.extents();
        let (rows, columns) = (extents[0] / layer.parts, extents[1]);
        let draw = |(part, &gain): (usize, &usize)| {
            if gain == 0 {
                return Vec::new();
            }
            let places = (0..rows).flat_map(|row| {
                let columns_of_row = kept_columns(kept, part * rows + row);
                columns_of_row.map(move |column| (row * columns) as u32 + column)
            });
            let kept: Vec<u32> = places.collect();
            let name = format!("{} at step {}", layer.name, due.step);
            let mut rng = ChaCha8Rng::seed_from_u64(layer_seed(self.seed, &name, part));
            let chosen = sample(rows * columns - kept.len(), gain, &mut rng);
            // The n-th free place lies behind as many kept ones as are before it.
            let mut before = 0;
            let place = |nth: u32| {
                while kept.get(before).is_some_and(|&kept| kept <= nth + before as u32) {
                    before += 1;
                }
                nth + before as u32
            };
            chosen.into_iter().map(place).collect()
        };
        kept.gains.iter().enumerate().map(draw).collect()
    }
}

/// The values of one of the parts on top of each other that a weight has.
fn part_of(shape: &Shape, parts: usize, part: usize) -> Range<usize> {
    match shape {
        Shape::Sparse(pattern) => {
            let rows = pattern.rows() / parts;
            let offset = |row: usize| pattern.row_offsets()[row] as usize;
            offset(part * rows)..offset((part + 1) * rows)
        }
        shape => shape.len() / parts * part..shape.len() / parts * (part + 1),
    }
}

/// The columns of a row that are kept, rising.
fn kept_columns(kept: &Kept, row: usize) -> Box<dyn Iterator<Item = u32> + '_> {
    match &kept.shape {
        Shape::Sparse(pattern) => {
            let marked = pattern.row(row).iter().zip(&kept.marks[pattern.row_range(row)]);
            Box::new(marked.filter(|(_, mark)| **mark).map(|(&column, _)| column))
        }
        shape => {
            let columns = shape.extents()[1];
            let marked = (0..).zip(&kept.marks[row * columns..(row + 1) * columns]);
            Box::new(marked.filter(|(_, mark)| **mark).map(|(column, _)| column))
        }
    }
}

/// The mask that keeps what is kept and gains places of every part, which are others.
fn moved(kept: &Kept, gained: &[Vec<u32>]) -> SparsePattern {
    let extents = kept.shape.extents();
    let (rows, columns) = (extents[0], extents[1]);
    let rows_of_part = rows / gained.len();
    let (mut row_offsets, mut column_indices) = (vec![0], Vec::new());
    for (part, gained) in gained.iter().enumerate() {
        let mut gained = gained.iter().map(|&place| place as usize).peekable();
        for row in 0..rows_of_part {
            let start = row * columns;
            let mut gain_before = |column: usize, column_indices: &mut Vec<u32>| {
                while let Some(place) = gained.next_if(|&place| place < start + column) {
                    column_indices.push((place - start) as u32);
                }
            };
            for column in kept_columns(kept, part * rows_of_part + row) {
                gain_before(column as usize, &mut column_indices);
                column_indices.push(column);
            }
            gain_before(columns, &mut column_indices);
            row_offsets.push(column_indices.len() as u32);
        }
    }
    SparsePattern::new(rows, columns, row_offsets, column_indices).expect("a mask of what was one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::Gpt;
    use mediswift_engine::Layout;

    fn config(assignments: &[&str]) -> Config {
        let mut config = Config::from_preset("micro").unwrap();
        for set in ["model.vocabulary=20", "train.steps=100", "sparsity.sparsity=0.8"]
            .iter()
            .chain(["sparsity.update={freq=5, stop=90}"].iter())
            .chain(assignments)
        {
            config.set(set).unwrap();
        }
        config.validate().unwrap();
        config
    }

    fn masks_of(config: &Config, parameters: &Parameters) -> MovingMasks {
        MovingMasks::new(config, parameters.layout(), MaskState::default()).unwrap()
    }

    /// Places of a mask, row by row.
    fn places(pattern: &SparsePattern) -> Vec<usize> {
        let of_row = |row| {
            let columns = pattern.row(row).iter();
            columns.map(move |&column| row * pattern.columns() + column as usize)
        };
        (0..pattern.rows()).flat_map(of_row).collect()
    }

    #[test]
    fn random_growth_keeps_every_part_as_large_as_it_was_and_drops_the_smallest() {
        let config = config(&["sparsity.algorithm=set", "sparsity.drop_fraction.init=0.4"]);
        let gpt = Gpt::new(&config).unwrap();
        let (parameters, masks) = (gpt.parameters(), masks_of(&config, gpt.parameters()));
        assert!(masks.due(4).is_none() && masks.due(5).is_some());
        let due = masks.due(30).unwrap();
        let update = || masks.update(due, parameters, &Decided::new());
        let new = update();
        assert_eq!(new, update());
        assert_eq!(new.len(), 8);
        let fraction = 0.2 * (1.0 + (std::f64::consts::PI / 3.0).cos());
        for (id, new) in &new {
            let tensor = parameters.get(*id);
            let Shape::Sparse(old) = tensor.shape else { panic!("it is sparse") };
            let parts = if tensor.name.ends_with("qkv.weight") { 3 } else { 1 };
            let places_of_part = old.rows() * old.columns() / parts;
            let (before, after) = (places(old), places(new));
            for part in 0..parts {
                let inside = |place: &usize| place / places_of_part == part;
                let all: Vec<(usize, f32)> = before
                    .iter()
                    .copied()
                    .zip(tensor.values.iter().copied())
                    .filter(|(place, _)| inside(place))
                    .collect();
                let left: Vec<usize> = after.iter().copied().filter(inside).collect();
                assert_eq!(left.len(), all.len(), "{}", tensor.name);
                let dropped = (fraction * all.len() as f64).round() as usize;
                // Of the dropped ones, chance brings some back.
                let mut sorted = all.clone();
                sorted.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
                let (large, small) = sorted.split_at(all.len() - dropped);
                assert!(large.iter().all(|(place, _)| left.binary_search(place).is_ok()));
                let back =
                    small.iter().filter(|(place, _)| left.binary_search(place).is_ok()).count();
                assert!(back < dropped / 2, "{back} of {dropped}");
            }
        }
        // Another step draws others.
        assert_ne!(masks.update(masks.due(31).unwrap(), parameters, &Decided::new()), new);
    }

    #[test]
    fn a_full_layer_moves_nothing_and_a_full_row_keeps_its_largest() {
        let mut config = config(&["sparsity.algorithm=set"]);
        config.set("sparsity.drop_fraction={type='constant', init=0.5}").unwrap();
        // The first row is full, the second empty.
        let row = SparsePattern::new(2, 4, vec![0, 4, 4], vec![0, 1, 2, 3]).unwrap();
        let full = SparsePattern::full(2, 4).unwrap();
        let layout =
            Layout::new([("row", Shape::Sparse(row.into())), ("full", Shape::Sparse(full.into()))]);
        let mut parameters = Parameters::zeros(&layout);
        for (_, values) in parameters.iter_mut() {
            (1..).zip(values).for_each(|(at, value)| *value = at as f32);
        }
        let layer = |name: &str| Layer {
            id: layout.find(name).unwrap(),
            name: name.into(),
            parts: 1,
            target: 0.5,
        };
        let layers = vec![layer("row"), layer("full")];
        let masks = MovingMasks { layers, ..masks_of(&config, &parameters) };
        let new = masks.update(masks.due(5).unwrap(), &parameters, &Decided::new());
        assert_eq!(new.len(), 1, "every place of the other is taken again");
        let new = places(&new[0].1);
        assert_eq!(new.len(), 4);
        assert!(new.contains(&2) && new.contains(&3), "{new:?}");
    }

    #[test]
    fn pruning_follows_its_schedule_to_the_target() {
        let config = config(&[
            "sparsity.algorithm=gmp",
            "sparsity.groups=[{param_filter=['*.0.mlp.up.*'], sparsity=0}]",
        ]);
        let mut parameters = Gpt::new(&config).unwrap().parameters().clone();
        assert!(parameters.iter().all(|(_, tensor)| !matches!(tensor.shape, Shape::Sparse(_))));
        let masks = masks_of(&config, &parameters);
        for update in 1..=17 {
            let due = masks.due(5 * update).unwrap();
            let sparsity = 0.8 * (1.0 - (1.0 - update as f64 / 17.0).powi(3));
            let new = masks.update(due, &parameters, &Decided::new());
            assert_eq!(new.len(), 7);
            let mut shapes: Vec<_> = parameters
                .layout()
                .iter()
                .map(|(_, place)| (place.name.clone(), place.shape.clone()))
                .collect();
            for (id, mask) in new {
                let (tensor, part) = (parameters.get(id), 64 * 64);
                let parts = if tensor.name.ends_with("qkv.weight") { 3 } else { 1 };
                let places = mask.rows() * mask.columns() / parts;
                assert!(places >= part);
                assert_eq!(mask.nnz(), parts * kept(places, sparsity), "{} {update}", tensor.name);
                shapes[id.index()].1 = Shape::Sparse(mask);
            }
            let smaller = parameters.remapped(&Layout::new(shapes));
            for ((_, old), (_, new)) in parameters.iter().zip(smaller.iter()) {
                // The smallest go: as many as are gone are no larger than any that is left.
                let mut magnitudes: Vec<f32> = old.values.iter().map(|x| x.abs()).collect();
                magnitudes.sort_by(f32::total_cmp);
                let floor = new.values.iter().map(|x| x.abs()).fold(f32::INFINITY, f32::min);
                if old.values.len() > new.values.len() && !old.name.ends_with("qkv.weight") {
                    assert_eq!(
                        floor,
                        magnitudes[old.values.len() - new.values.len()],
                        "{}",
                        old.name
                    );
                }
            }
            parameters = smaller;
        }
        assert!(masks.due(90).is_some_and(|due| due.progress == 1.0));
        let last = MaskState { last: 85, ..MaskState::default() };
        let masks = MovingMasks::new(&config, parameters.layout(), last).unwrap();
        assert!(masks.due(86).is_none() && masks.due(1000).is_none());
    }

    #[test]
    fn an_update_that_was_missed_is_due_until_it_is_made() {
        let config = config(&["sparsity.algorithm=one-shot", "sparsity.update.start=40"]);
        let parameters = Gpt::new(&config).unwrap().parameters().clone();
        let mut masks = masks_of(&config, &parameters);
        assert!(masks.due(39).is_none());
        assert!(masks.due(40).is_some() && masks.due(41).is_some());
        masks.state.last = 41;
        assert!(masks.due(42).is_none() && masks.due(100).is_none());
        let new = masks_of(&config, &parameters).update(
            Due { step: 40, progress: 1.0, drop_fraction: 0.0 },
            &parameters,
            &Decided::new(),
        );
        assert!(new.iter().all(|(_, mask)| (mask.density() - 0.2).abs() < 1e-3));
    }
}
