//! [`Flat`]: all tensors of a model in one buffer.
//!
//! Parameters, their gradients and an optimiser's moments are stores of one layout. Two operations work
//! on whole stores, and know of tensors only through the layout:
//!
//! * **shards**: [`Layout::shards`] cuts the buffer into ranges, whatever tensors lie there; a store may
//!   hold one of them alone ([`Flat::shard`]). [`Flat::range`] reads a range, [`Flat::whole_mut`] lets
//!   ranks send each other theirs, and [`Layout::pieces`] says which tensors, and so which rules of an
//!   optimiser, a range falls into;
//! * **remapping**: [`Flat::remapped`] carries values over to another layout by name, row and column:
//!   masks that move, fall or are made. What was not there before is 0.

use crate::{Layout, ParamId, Shape};
use bytemuck::Pod;
use mediswift_kernels::AlignedBuffer;
use std::ops::{Deref, Index, IndexMut, Range};
use std::sync::Arc;

/// One value for every element of a layout, or of a shard of it; zeros between the tensors.
#[derive(Clone, Debug)]
pub struct Flat<E: Pod = f32> {
    layout: Arc<Layout>,
    /// The elements that are held: all, unless this is a shard.
    held: Range<usize>,
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
        Self::shard(layout, 0..layout.len())
    }

    /// Zeros for the elements of a range of the buffer. Unless that is all of it, only methods that take
    /// ranges are of use.
    /// # Panics
    /// If the range ends beyond the layout.
    #[track_caller]
    pub fn shard(layout: &Arc<Layout>, range: Range<usize>) -> Self {
        assert!(range.end <= layout.len(), "the range ends beyond the layout");
        let data = AlignedBuffer::zeros(range.len());
        Self { layout: Arc::clone(layout), held: range, data }
    }

    /// The range of the layout whose elements are held.
    pub fn held(&self) -> Range<usize> {
        self.held.clone()
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
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &mut [E])> {
        self.split().map(|(id, _, values)| (id, values))
    }

    fn split(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &str, &mut [E])> {
        let all = self.within(0..self.layout.len());
        let (mut rest, mut done) = (&mut self.data[all], 0);
        self.layout.iter().map(move |(id, place)| {
            let tail = std::mem::take(&mut rest);
            let (values, tail) = tail[place.range.start - done..].split_at_mut(place.range.len());
            (rest, done) = (tail, place.range.end);
            (id, &*place.name, values)
        })
    }

    /// A tensor with its name and shape.
    pub fn get(&self, id: ParamId) -> Tensor<'_, E> {
        let place = self.layout.place(id);
        Tensor { name: &place.name, shape: &place.shape, values: &self[id] }
    }

    /// Several tensors to change at once.
    /// # Panics
    /// If one is named twice.
    #[track_caller]
    pub fn disjoint_mut<const N: usize>(&mut self, ids: [ParamId; N]) -> [&mut [E]; N] {
        let ranges = ids.map(|id| self.layout.place(id).range.clone());
        self.data.get_disjoint_mut(ranges).expect("tensors of their own")
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
        &self.data[self.within(range)]
    }

    /// Elements of a range inside of one tensor, to change.
    /// # Panics
    /// If they are not all held.
    #[track_caller]
    pub fn range_mut(&mut self, range: Range<usize>) -> &mut [E] {
        let within = self.within(range);
        &mut self.data[within]
    }

    /// The whole buffer, to exchange shards with other stores of this layout: between tensors it must
    /// stay as it is.
    /// # Panics
    /// If this is a shard.
    #[track_caller]
    pub fn whole_mut(&mut self) -> &mut [E] {
        let all = self.within(0..self.layout.len());
        &mut self.data[all]
    }

    /// Where a range of the layout lies in the buffer.
    #[track_caller]
    fn within(&self, range: Range<usize>) -> Range<usize> {
        let Range { start, end } = self.held;
        assert!(start <= range.start && range.end <= end, "a shard does not hold other shards");
        range.start - start..range.end - start
    }

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
        for (_, tensor) in from.iter() {
            let Some(id) = self.find(tensor.name) else { continue };
            let place = self.layout.place(id);
            let (there, here) = (tensor.shape.extents(), place.shape.extents());
            assert_eq!(there, here, "'{}' has other extents", tensor.name);
            let to = &mut self.data[place.range.clone()];
            if *tensor.shape == place.shape {
                to.copy_from_slice(tensor.values);
                continue;
            }
            let (rows, columns) = (here[0], here[1]);
            for row in 0..rows {
                let places = row_of(&place.shape, row, columns);
                for (column, at) in row_of(tensor.shape, row, columns).iter() {
                    if let Some(place) = places.find(column) {
                        to[place] = tensor.values[at];
                    }
                }
            }
        }
    }
}

/// One row of a matrix: its columns, and where its elements start.
enum Row<'a> {
    Dense { columns: usize, start: usize },
    Sparse { columns: &'a [u32], start: usize },
}

fn row_of(shape: &Shape, row: usize, columns: usize) -> Row<'_> {
    match shape {
        Shape::Sparse(pattern) => {
            Row::Sparse { columns: pattern.row(row), start: pattern.row_range(row).start }
        }
        _ => Row::Dense { columns, start: row * columns },
    }
}

impl Row<'_> {
    /// Every column with the place of its element.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let (count, start) = match self {
            Row::Dense { columns, start } => (*columns, *start),
            Row::Sparse { columns, start } => (columns.len(), *start),
        };
        (0..count).map(move |at| match self {
            Row::Dense { .. } => (at, start + at),
            Row::Sparse { columns, .. } => (columns[at] as usize, start + at),
        })
    }

    /// The place of an element, if the row has it.
    fn find(&self, column: usize) -> Option<usize> {
        match self {
            Row::Dense { start, .. } => Some(start + column),
            Row::Sparse { columns, start } => {
                columns.binary_search(&(column as u32)).ok().map(|at| start + at)
            }
        }
    }
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
