//! [`Parameters`] and their [`Gradients`]: named flat tensors.

use mediswift_kernels::{AlignedBuffer, SparsePattern};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Names one tensor of a [`Parameters`] and of the [`Gradients`] made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(usize);

/// The shape of a parameter.
#[derive(Clone, Debug)]
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

    /// Whether this is a matrix, dense or sparse: what weight decay applies to.
    pub fn is_matrix(&self) -> bool {
        !matches!(self, Shape::Vector(_))
    }
}

/// One trainable tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Unique name, such as `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its values.
    pub values: AlignedBuffer,
}

/// All trainable tensors of a model, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Adds a tensor.
    /// # Panics
    /// If the name is taken or the number of values is not that of the shape.
    #[track_caller]
    pub fn add(&mut self, name: impl Into<String>, shape: Shape, values: AlignedBuffer) -> ParamId {
        let name = name.into();
        assert!(self.find(&name).is_none(), "parameter '{name}' exists already");
        assert_eq!(values.len(), shape.len(), "values and shape of '{name}' disagree");
        self.0.push(Parameter { name, shape, values });
        ParamId(self.0.len() - 1)
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.0.iter().position(|p| p.name == name).map(ParamId)
    }

    /// Every tensor, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &Parameter)> {
        self.0.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// Every tensor, to change.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &mut Parameter)> {
        self.0.iter_mut().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// A tensor with its name and shape.
    pub fn get(&self, id: ParamId) -> &Parameter {
        &self.0[id.0]
    }

    /// Values over all tensors.
    pub fn count(&self) -> usize {
        self.0.iter().map(|p| p.values.len()).sum()
    }
}

impl Index<ParamId> for Parameters {
    type Output = [f32];
    fn index(&self, id: ParamId) -> &[f32] {
        &self.0[id.0].values
    }
}

impl IndexMut<ParamId> for Parameters {
    fn index_mut(&mut self, id: ParamId) -> &mut [f32] {
        &mut self.0[id.0].values
    }
}

/// One gradient per parameter, of the same length.
#[derive(Clone, Debug)]
pub struct Gradients(Vec<AlignedBuffer>);

impl Gradients {
    /// Zeros, for every tensor of `parameters`.
    pub fn zeros(parameters: &Parameters) -> Self {
        Self(parameters.0.iter().map(|p| AlignedBuffer::zeros(p.values.len())).collect())
    }

    /// Every gradient, in the order of the parameters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &[f32])> {
        self.0.iter().enumerate().map(|(i, g)| (ParamId(i), &**g))
    }

    /// Every gradient, to change.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &mut [f32])> {
        self.0.iter_mut().enumerate().map(|(i, g)| (ParamId(i), &mut **g))
    }
}

impl Index<ParamId> for Gradients {
    type Output = [f32];
    fn index(&self, id: ParamId) -> &[f32] {
        &self.0[id.0]
    }
}

impl IndexMut<ParamId> for Gradients {
    fn index_mut(&mut self, id: ParamId) -> &mut [f32] {
        &mut self.0[id.0]
    }
}
