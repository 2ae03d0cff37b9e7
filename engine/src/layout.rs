//! [`Layout`]: where the tensors of a model lie in one buffer.

use mediswift_kernels::{LANES, SparsePattern};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Names one tensor of a [`Layout`], and so of every store that has this layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub(crate) usize);

impl ParamId {
    /// Its place among the tensors of the layout, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[n]`: a bias or a LayerNorm gain.
    Vector(usize),
    /// `[rows, columns]`, row-major.
    Matrix(usize, usize),
    /// The non-zeros of a CSR matrix, row by row.
    Sparse(Arc<SparsePattern>),
}

impl Shape {
    /// Stored values.
    pub fn len(&self) -> usize {
        match self {
            Shape::Vector(n) => *n,
            Shape::Matrix(rows, columns) => rows * columns,
            Shape::Sparse(pattern) => pattern.nnz(),
        }
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extents as the outside sees them, zeros of a sparse matrix included.
    pub fn extents(&self) -> Vec<usize> {
        match self {
            Shape::Vector(n) => vec![*n],
            Shape::Matrix(rows, columns) => vec![*rows, *columns],
            Shape::Sparse(pattern) => vec![pattern.rows(), pattern.columns()],
        }
    }

    /// Stored values of a matrix that a mask of the same extents keeps.
    /// # Panics
    /// If this is a vector.
    #[track_caller]
    pub fn in_common(&self, mask: &SparsePattern) -> usize {
        match self {
            Shape::Vector(_) => panic!("a vector has no mask"),
            Shape::Matrix(..) => mask.nnz(),
            Shape::Sparse(pattern) => {
                let of_row = |row| {
                    let mut other = mask.row(row).iter().peekable();
                    let columns = pattern.row(row).iter().filter(|column| {
                        while other.next_if(|other| other < column).is_some() {}
                        other.next_if(|other| other == column).is_some()
                    });
                    columns.count()
                };
                (0..pattern.rows()).into_par_iter().map(of_row).sum()
            }
        }
    }

    /// Whether this is a matrix, dense or sparse.
    pub fn is_matrix(&self) -> bool {
        !matches!(self, Shape::Vector(_))
    }
}

/// The place of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// Unique name, such as `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its elements in the buffer.
    pub range: Range<usize>,
}

/// Tensors start at multiples of so many elements: at cache lines, in stores of 16-bit types too.
pub(crate) const ALIGNMENT: usize = 2 * LANES;

/// Most elements of a block: of four stores, weights, gradients and both moments, one fits the L2 cache.
pub const BLOCK: usize = 1 << 14;

/// Names, shapes and places of all tensors of a model, in a fixed order; shared by all stores of the
/// model. Every tensor starts at a cache line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    places: Vec<TensorPlace>,
    by_name: HashMap<String, ParamId>,
    len: usize,
}

impl Layout {
    /// Lays tensors out one after the other.
    /// # Panics
    /// If a name comes twice.
    #[track_caller]
    pub fn new<N: Into<String>>(tensors: impl IntoIterator<Item = (N, Shape)>) -> Arc<Self> {
        let mut layout = Self::default();
        for (name, shape) in tensors {
            let name = name.into();
            let known = layout.by_name.insert(name.clone(), ParamId(layout.places.len()));
            assert!(known.is_none(), "tensor '{name}' exists already");
            let range = layout.len..layout.len + shape.len();
            layout.len = range.end.next_multiple_of(ALIGNMENT);
            layout.places.push(TensorPlace { name, shape, range });
        }
        Arc::new(layout)
    }

    /// Every tensor's place, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &TensorPlace)> {
        self.places.iter().enumerate().map(|(at, place)| (ParamId(at), place))
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// The place of a tensor.
    pub fn place(&self, id: ParamId) -> &TensorPlace {
        &self.places[id.0]
    }

    /// Elements of the buffer, those between tensors included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of all tensors.
    pub fn count(&self) -> usize {
        self.places.iter().map(|place| place.range.len()).sum()
    }

    /// What parallel work on whole stores is cut into: every tensor in pieces of [`BLOCK`] elements, the
    /// last one shorter, as ranges of the buffer.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        self.places.iter().flat_map(|place| {
            let Range { start, end } = place.range;
            (start..end).step_by(BLOCK).map(move |first| first..end.min(first + BLOCK))
        })
    }

    /// The buffer in `count` parts that follow each other, whose lengths differ by a block at most: shard
    /// r is what rank r of `count` owns. Borders are those of blocks, so that what is computed block by
    /// block does not depend on them; those of tensors they need not be.
    /// # Panics
    /// If `count` is 0.
    pub fn shards(&self, count: usize) -> Vec<Range<usize>> {
        self.shards_of(0..self.len, count)
    }

    /// The same of a range that cuts no block.
    /// # Panics
    /// As for [`Layout::shards`].
    pub fn shards_of(&self, range: Range<usize>, count: usize) -> Vec<Range<usize>> {
        assert!(count > 0, "a store has at least one shard");
        let starts = self.blocks().map(|block| block.start).filter(|start| range.contains(start));
        let borders: Vec<usize> = starts.chain([range.end]).collect();
        let border = |shard: usize| {
            let part = (range.len() as u128 * shard as u128 / count as u128) as usize;
            let wanted = range.start + part;
            let after = borders.partition_point(|&border| border < wanted);
            match (after.checked_sub(1).map(|before| borders[before]), borders[after]) {
                (Some(before), after) if wanted - before < after - wanted => before,
                (_, after) => after,
            }
        };
        let inner = (1..count).map(border).chain([range.end]);
        inner.scan(range.start, |start, end| Some(std::mem::replace(start, end)..end)).collect()
    }

    /// The buffer in ranges that follow each other and cut no tensor. From the last one on, each has as few
    /// tensors as make `least` elements; the first one has what is left.
    pub fn buckets(&self, least: usize) -> Vec<Range<usize>> {
        let (mut buckets, mut end) = (Vec::new(), self.len);
        for (at, place) in self.places.iter().enumerate().rev() {
            let start = place.range.start;
            // Where no tensor has an element, there is one range without any.
            let is_only = at == 0 && buckets.is_empty();
            if is_only || start < end && (end - start >= least || at == 0) {
                buckets.push(start..end);
                end = start;
            }
        }
        buckets.reverse();
        buckets
    }

    /// The tensors that have elements in a range of the buffer, and which of their elements.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (ParamId, Range<usize>)> {
        self.iter().filter_map(move |(id, place)| {
            let start = range.start.max(place.range.start);
            let end = range.end.min(place.range.end);
            (start < end).then(|| (id, start - place.range.start..end - place.range.start))
        })
    }
}
