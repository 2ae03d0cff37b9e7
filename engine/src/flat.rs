//! [`Flat`]: all tensors of a model in one buffer.
//!
//! Parameters, their gradients and an optimiser's moments are stores of one layout. Two operations work
//! on whole stores, and know of tensors only through the layout:
//!
//! * **shards**: [`Layout::shards`] cuts the buffer into ranges, whatever tensors lie there; a store may
//!   hold some of them alone ([`Flat::shard`]). [`Flat::range`] reads a range, [`Flat::whole_mut`] lets
//!   ranks send each other theirs, and [`Layout::pieces`] says which tensors, and so which rules of an
//!   optimiser, a range falls into. A store may be all there but in several ranges ([`Layout::buckets`]), to
//!   hand them over one by one ([`Flat::take_last`]);
//! * **remapping**: [`Flat::remapped`] carries values over to another layout by name, row and column:
//!   masks that move, fall or are made. What was not there before is 0.

use crate::{Layout, ParamId, Shape};
use bytemuck::Pod;
use mediswift_kernels::AlignedBuffer;
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::{Deref, Index, IndexMut, Range};
use std::sync::Arc;

/// Elements that are copied as one, by one thread.
const CHUNK: usize = 1 << 16;

/// No place in a row: none is as long.
const NOWHERE: u32 = u32::MAX;

/// One value for every element of a layout, or of a shard of it; zeros between the tensors.
#[derive(Clone, Debug)]
pub struct Flat<E: Pod = f32> {
    layout: Arc<Layout>,
    /// What is held, in order: all in one, unless this is a shard or was cut.
    parts: Vec<Part<E>>,
}

/// A range of the layout, and its elements.
#[derive(Clone, Debug)]
struct Part<E: Pod> {
    range: Range<usize>,
    data: AlignedBuffer<E>,
}

/// The trainable tensors of a model.
pub type Parameters = Flat<f32>;

/// The gradient of every parameter.
pub type Gradients = Flat<f32>;

/// One tensor of a store.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a, E = f32> {
    /// Unique name, such as `blocks.0.attn.qkv.weight`.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a Shape,
    /// Its values.
    pub values: &'a [E],
}

impl<E: Pod> Default for Flat<E> {
    fn default() -> Self {
        Self::zeros(&Arc::default())
    }
}

impl<E: Pod> Flat<E> {
    /// Zeros.
    pub fn zeros(layout: &Arc<Layout>) -> Self {
        Self::shard(layout, std::slice::from_ref(&(0..layout.len())))
    }

    /// Zeros for the elements of some ranges of the buffer. Where they cut a tensor or leave one out, only methods
    /// that take ranges are of use.
    /// # Panics
    /// If the ranges are not in order, or end beyond the layout.
    #[track_caller]
    pub fn shard(layout: &Arc<Layout>, ranges: &[Range<usize>]) -> Self {
        assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "the ranges are not in order");
        let end = ranges.last().map_or(0, |range| range.end);
        assert!(end <= layout.len(), "the ranges end beyond the layout");
        let part = |range: &Range<usize>| Part {
            range: range.clone(),
            data: AlignedBuffer::zeros(range.len()),
        };
        Self { layout: Arc::clone(layout), parts: ranges.iter().map(part).collect() }
    }

    /// The ranges of the layout whose elements are held, in order.
    pub fn held(&self) -> Vec<Range<usize>> {
        self.parts.iter().map(|part| part.range.clone()).collect()
    }

    /// Takes the last of the ranges that are held off, if it starts there or later.
    pub fn take_last(&mut self, from: usize) -> Option<Self> {
        let last = self.parts.pop_if(|part| part.range.start >= from)?;
        Some(Self { layout: Arc::clone(&self.layout), parts: vec![last] })
    }

    /// Puts back what was taken off last.
    /// # Panics
    /// If that does not follow what is held.
    #[track_caller]
    pub fn put_back(&mut self, last: Self) {
        self.parts.extend(last.parts);
        let is_sorted = self.parts.is_sorted_by(|a, b| a.range.end <= b.range.start);
        assert!(is_sorted && self.layout == last.layout, "the part does not follow");
    }

    /// Tensors of a new layout, in their order; each is dropped as soon as it is copied.
    /// # Panics
    /// If a name comes twice or the number of values is not that of the shape.
    #[track_caller]
    pub fn from_tensors<N: Into<String>, V: Deref<Target = [E]>>(
        tensors: impl IntoIterator<Item = (N, Shape, V)>,
    ) -> Self {
        let named = tensors.into_iter().map(|(name, shape, values)| ((name, shape), values));
        let (tensors, values): (Vec<_>, Vec<V>) = named.unzip();
        let mut flat = Self::zeros(&Layout::new(tensors));
        for ((_, name, to), from) in flat.split().zip(values) {
            assert_eq!(to.len(), from.len(), "values and shape of '{name}' disagree");
            to.copy_from_slice(&from);
        }
        flat
    }

    /// Where the tensors lie.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.layout.find(name)
    }

    /// Every tensor, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, Tensor<'_, E>)> {
        self.layout.iter().map(|(id, _)| (id, self.get(id)))
    }

    /// The values of every tensor, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut [E])> {
        self.split().map(|(id, _, values)| (id, values))
    }

    /// The tensors of all parts.
    fn split(&mut self) -> impl Iterator<Item = (ParamId, &str, &mut [E])> {
        let (layout, len) = (&*self.layout, self.layout.len());
        self.parts.iter_mut().flat_map(move |Part { range, data }| {
            let (mut rest, mut done, range) = (&mut data[..], range.start, range.clone());
            // An empty tensor at the end belongs to the part before it.
            let has = move |at: usize| range.contains(&at) || at == len && range.end == len;
            let inside = layout.iter().filter(move |(_, place)| has(place.range.start));
            inside.map(move |(id, place)| {
                let tail = std::mem::take(&mut rest);
                let (values, tail) =
                    tail[place.range.start - done..].split_at_mut(place.range.len());
                (rest, done) = (tail, place.range.end);
                (id, &*place.name, values)
            })
        })
    }

    /// A tensor with its name and shape.
    pub fn get(&self, id: ParamId) -> Tensor<'_, E> {
        let place = self.layout.place(id);
        Tensor { name: &place.name, shape: &place.shape, values: &self[id] }
    }

    /// Several tensors to change at once.
    /// # Panics
    /// If one is named twice, or not held.
    #[track_caller]
    pub fn disjoint_mut<const N: usize>(&mut self, ids: [ParamId; N]) -> [&mut [E]; N] {
        let mut all: HashMap<ParamId, &mut [E]> = self.iter_mut().collect();
        ids.map(|id| all.remove(&id).expect("tensors of their own"))
    }

    /// Elements of all tensors.
    pub fn count(&self) -> usize {
        self.layout.count()
    }

    /// Elements of a range of the layout, those between tensors included.
    /// # Panics
    /// If they are not all held.
    #[track_caller]
    pub fn range(&self, range: Range<usize>) -> &[E] {
        let (part, within) = self.within(range);
        &self.parts[part].data[within]
    }

    /// Elements of a range, to change: those between tensors must stay as they are.
    /// # Panics
    /// If they are not all held.
    #[track_caller]
    pub fn range_mut(&mut self, range: Range<usize>) -> &mut [E] {
        let (part, within) = self.within(range);
        &mut self.parts[part].data[within]
    }

    /// The whole buffer, to exchange shards with other stores of this layout: between tensors it must
    /// stay as it is.
    /// # Panics
    /// If this is a shard or was cut.
    #[track_caller]
    pub fn whole_mut(&mut self) -> &mut [E] {
        self.range_mut(0..self.layout.len())
    }

    /// In which part a range of the layout lies, and where.
    #[track_caller]
    fn within(&self, range: Range<usize>) -> (usize, Range<usize>) {
        let after = self.parts.partition_point(|part| part.range.start <= range.start);
        let found = after.checked_sub(1).filter(|&at| range.end <= self.parts[at].range.end);
        let part = found.expect("a shard does not hold other shards");
        let start = self.parts[part].range.start;
        (part, range.start - start..range.end - start)
    }
}

impl<E: Pod + Send + Sync> Flat<E> {
    /// The same values by name, row and column in another layout; 0 where there was none.
    /// # Panics
    /// If a tensor of one name has other extents there.
    #[track_caller]
    pub fn remapped(&self, layout: &Arc<Layout>) -> Self {
        let mut to = Self::zeros(layout);
        to.carry_over(self);
        to
    }

    /// Takes over every value of `from` that has a place here, by name, row and column; the others
    /// stay.
    /// # Panics
    /// If a tensor of one name has other extents there.
    #[track_caller]
    pub fn carry_over(&mut self, from: &Self) {
        let layout = Arc::clone(&self.layout);
        for (_, tensor) in from.iter() {
            let Some(id) = layout.find(tensor.name) else { continue };
            let place = layout.place(id);
            let (there, here) = (tensor.shape.extents(), place.shape.extents());
            assert_eq!(there, here, "'{}' has other extents", tensor.name);
            let to = self.range_mut(place.range.clone());
            if *tensor.shape == place.shape {
                let chunks = to.par_chunks_mut(CHUNK).zip(tensor.values.par_chunks(CHUNK));
                chunks.for_each(|(to, from)| to.copy_from_slice(from));
                continue;
            }
            let (mut rest, mut rows) = (to, Vec::with_capacity(here[0]));
            for row in 0..here[0] {
                let (row, after) = rest.split_at_mut(elements(&place.shape, row).len());
                rows.push(row);
                rest = after;
            }
            let nowhere = || vec![NOWHERE; here[1]];
            rows.into_par_iter().enumerate().for_each_init(nowhere, |at, (row, to)| {
                let from = &tensor.values[elements(tensor.shape, row)];
                match (columns(tensor.shape, row), columns(&place.shape, row)) {
                    (Some(there), Some(here)) => carry_row(there, from, here, to, at),
                    (Some(there), None) => {
                        there.iter().zip(from).for_each(|(&column, x)| to[column as usize] = *x);
                    }
                    (None, Some(here)) => {
                        to.iter_mut()
                            .zip(here)
                            .for_each(|(to, &column)| *to = from[column as usize]);
                    }
                    (None, None) => unreachable!("dense matrices of equal extents are equal"),
                }
            });
        }
    }
}

/// Where the elements of a row of a matrix lie.
fn elements(shape: &Shape, row: usize) -> Range<usize> {
    match shape {
        Shape::Sparse(pattern) => pattern.row_range(row),
        shape => {
            let columns = shape.extents()[1];
            row * columns..(row + 1) * columns
        }
    }
}

/// The columns of a row of a sparse matrix.
fn columns(shape: &Shape, row: usize) -> Option<&[u32]> {
    match shape {
        Shape::Sparse(pattern) => Some(pattern.row(row)),
        _ => None,
    }
}

/// Copies the elements of columns that two rows have in common. `at` has room for one number for each column of the
/// matrix, all [`NOWHERE`] before and after: where a column's element is in `from`.
fn carry_row<E: Copy>(there: &[u32], from: &[E], here: &[u32], to: &mut [E], at: &mut [u32]) {
    (0..).zip(there).for_each(|(place, &column)| at[column as usize] = place);
    for (&column, to) in here.iter().zip(to) {
        if let Some(x) = from.get(at[column as usize] as usize) {
            *to = *x;
        }
    }
    there.iter().for_each(|&column| at[column as usize] = NOWHERE);
}

impl<E: Pod> Index<ParamId> for Flat<E> {
    type Output = [E];
    fn index(&self, id: ParamId) -> &[E] {
        self.range(self.layout.place(id).range.clone())
    }
}

impl<E: Pod> IndexMut<ParamId> for Flat<E> {
    fn index_mut(&mut self, id: ParamId) -> &mut [E] {
        self.range_mut(self.layout.place(id).range.clone())
    }
}

#[cfg(test)]
mod tests;
