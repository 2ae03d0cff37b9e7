//! What a strategy does, and what it is to the others.

use crate::isa::IsaKind;
use crate::ops::product::{Initial, Product};
use crate::{Lines, Precision, SparsePattern};
use std::fmt;
use std::sync::Arc;

/// Strategies that differ in their tile sizes alone.
pub(in crate::ops) struct Family {
    /// The names of its members, for help and errors.
    pub(super) grammar: &'static str,
    /// The member of that name, if it is one and the kernels can run it.
    pub(super) parse: fn(&str) -> Option<Strategy>,
    /// What the autotuner tries on a machine with so many [registers](crate::isa::Isa::REGISTERS).
    pub(super) candidates: fn(usize) -> Vec<Strategy>,
}

/// A strategy: what each file of this folder implements.
pub(in crate::ops) trait Method: Send + Sync {
    /// Its name, which says everything.
    fn name(&self) -> String;

    /// The products that it can compute; it declines the others.
    fn products(&self) -> &[Product] {
        &Product::TRAINING
    }

    /// The precisions that it multiplies.
    fn precisions(&self) -> &[Precision] {
        &Precision::ALL
    }

    /// Whether the zeros of W are multiplied too: the fallback below the break-even sparsity.
    fn is_dense(&self) -> bool {
        false
    }

    /// Does for some of its `products` in one of its `precisions` what the pattern alone decides.
    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
        precision: Precision,
    ) -> Box<dyn Planned>;
}

/// Products of one matrix, planned. The caller has checked the extents of W's values and of the
/// result's tiles and the precision of the operands, and asks for no product that was not planned.
pub(in crate::ops) trait Planned: Send + Sync {
    /// Brings packed copies up to date with W's values, in CSR order (row-major for a dense matrix).
    fn refresh(&mut self, values: &[f32]);

    /// Y = initial + W · X.
    fn forward(&self, values: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        let _ = (values, x, y, initial);
        unreachable!("a declined product is never planned");
    }

    /// dX = initial + Wᵀ · dY.
    fn input_gradient(&self, values: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        let _ = (values, dy, dx, initial);
        unreachable!("a declined product is never planned");
    }

    /// dw += dY · Xᵀ, at the non-zeros of a sparse matrix.
    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        let _ = (dy, x, dw);
        unreachable!("a declined product is never planned");
    }
}

/// How a product of a sparse layer is computed. Two are equal if their names are.
#[derive(Clone)]
pub struct Strategy(Arc<dyn Method>);

impl Strategy {
    pub(super) fn new(method: impl Method + 'static) -> Self {
        Self(Arc::new(method))
    }

    /// Whether it can compute a product.
    pub fn can(&self, product: Product) -> bool {
        self.0.products().contains(&product)
    }

    /// Whether it multiplies numbers of a precision.
    pub fn multiplies(&self, precision: Precision) -> bool {
        self.0.precisions().contains(&precision)
    }

    /// Whether the zeros of W are multiplied too: the fallback below the break-even sparsity.
    pub fn is_dense(&self) -> bool {
        self.0.is_dense()
    }

    pub(in crate::ops) fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
        precision: Precision,
    ) -> Box<dyn Planned> {
        self.0.plan(isa, pattern, products, precision)
    }
}

impl PartialEq for Strategy {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name())
    }
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
