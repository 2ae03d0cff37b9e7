//! [`LinearLayer`]: everything that the products of one linear layer need, dense or sparse.

use super::extent::{check_lines, check_whole, size, tiles};
use super::plan::LayerPlan;
use super::product::{Initial, Product};
use super::spmv::{gemv_on, spmv_on};
use super::strategy::{Planned, dense};
use crate::isa::IsaKind;
use crate::{Lines, Precision, SparsePattern};
use std::sync::Arc;

/// A weight W `[rows, columns]` that a linear layer multiplies with, planned for its products.
///
/// W's values stay outside, where the optimiser changes them: the non-zeros in CSR order, or all of
/// them row by row. Products are handed the values and use copies in the order of their loops where
/// they have some; [`LinearLayer::refresh`] must follow every change of the values.
///
/// ```
/// use mediswift_kernels::isa::IsaKind;
/// use mediswift_kernels::ops::{Initial, LayerPlan};
/// use mediswift_kernels::{LANES, LinearLayer, Precision, SparsePattern};
///
/// // Rows (0 2 0) and (0 0 3) times sixteen tokens of features 1, 10 and 100.
/// let pattern = SparsePattern::new(2, 3, vec![0, 1, 2], vec![1, 2])?;
/// let isa = IsaKind::active()?;
/// let plan = LayerPlan::of(Precision::F32, pattern.density(), isa);
/// let mut layer = LinearLayer::sparse(isa, pattern.into(), plan);
/// let values = [2.0, 3.0];
/// layer.refresh(&values);
/// let x = [[1.0; LANES], [10.0; LANES], [100.0; LANES]].concat();
/// let mut y = [0.0; 2 * LANES];
/// layer.forward(&values, &x, &mut y, Initial::Bias(&[0.5, 0.0]));
/// assert_eq!((y[0], y[LANES]), (20.5, 300.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LinearLayer {
    isa: IsaKind,
    weight: Weight,
    plan: LayerPlan,
    /// One for each different strategy of the plan.
    planned: Vec<Box<dyn Planned>>,
    /// Which of them computes each of [`Product::TRAINING`].
    by_product: [usize; 3],
}

/// Where the weights are.
enum Weight {
    Dense { rows: usize, columns: usize },
    Sparse(Arc<SparsePattern>),
}

impl LinearLayer {
    /// Plans the products with a dense weight `[rows, columns]` on an instruction set.
    /// # Panics
    /// If no machine can address so many weights.
    #[track_caller]
    pub fn dense(isa: IsaKind, precision: Precision, rows: usize, columns: usize) -> Self {
        Self::of_dense(isa, precision, rows, columns, &Product::TRAINING)
    }

    /// The same for the weight gradient alone, which needs no copy of the weight.
    /// # Panics
    /// If no machine can address so many weights.
    #[track_caller]
    pub fn dense_gradient(isa: IsaKind, precision: Precision, rows: usize, columns: usize) -> Self {
        Self::of_dense(isa, precision, rows, columns, &[Product::WeightGradient])
    }

    #[track_caller]
    fn of_dense(
        isa: IsaKind,
        precision: Precision,
        rows: usize,
        columns: usize,
        products: &[Product],
    ) -> Self {
        size(&[rows, columns]);
        let plan = LayerPlan::dense(precision, isa);
        let planned = vec![dense::planned(isa, precision, rows, columns, products)];
        let weight = Weight::Dense { rows, columns };
        Self { isa, weight, plan, planned, by_product: [0; 3] }
    }

    /// Plans the products with a sparse weight on an instruction set. Packed copies are zeros until the
    /// first refresh.
    pub fn sparse(isa: IsaKind, pattern: Arc<SparsePattern>, plan: LayerPlan) -> Self {
        let strategies = plan.strategies();
        // Products of equal strategies are planned together, so that they can share.
        let first = |strategy| strategies.iter().position(|s| s == strategy).expect("itself");
        let groups: [usize; 3] = std::array::from_fn(|at| first(&strategies[at]));
        let (mut planned, mut by_product) = (Vec::new(), [0; 3]);
        for (at, strategy) in strategies.iter().enumerate().filter(|&(at, _)| groups[at] == at) {
            let mut products = Vec::new();
            for (which, product) in Product::TRAINING.into_iter().enumerate() {
                if groups[which] == at {
                    by_product[which] = planned.len();
                    products.push(product);
                }
            }
            planned.push(strategy.plan(isa, &pattern, &products, plan.precision()));
        }
        Self { isa, weight: Weight::Sparse(pattern), plan, planned, by_product }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        match &self.weight {
            Weight::Dense { rows, .. } => *rows,
            Weight::Sparse(pattern) => pattern.rows(),
        }
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        match &self.weight {
            Weight::Dense { columns, .. } => *columns,
            Weight::Sparse(pattern) => pattern.columns(),
        }
    }

    /// Stored weights.
    pub fn nnz(&self) -> usize {
        match &self.weight {
            Weight::Dense { rows, columns } => rows * columns,
            Weight::Sparse(pattern) => pattern.nnz(),
        }
    }

    /// What the layer is called in reports of its time.
    pub fn name(&self) -> &'static str {
        match &self.weight {
            Weight::Dense { .. } => "dense linear",
            Weight::Sparse(_) => "sparse linear",
        }
    }

    /// The strategies of the products.
    pub fn plan(&self) -> &LayerPlan {
        &self.plan
    }

    /// The name under which files keep the plan ([`LayerPlan::key`]); none where there is no choice,
    /// because the weight is dense.
    pub fn plan_key(&self) -> Option<String> {
        match &self.weight {
            Weight::Dense { .. } => None,
            Weight::Sparse(_) => Some(LayerPlan::key(self.rows(), self.columns(), self.nnz())),
        }
    }

    /// Brings all copies of the values up to date.
    /// # Panics
    /// If there is not one value per stored weight.
    #[track_caller]
    pub fn refresh(&mut self, values: &[f32]) {
        self.check_values(values);
        self.planned.iter_mut().for_each(|planned| planned.refresh(values));
    }

    /// Y = initial + W · X: X `[tiles][columns]` in the plan's precision, Y `[tiles][rows][LANES]`.
    /// 2 · nnz · tiles · LANES FLOPs.
    /// # Panics
    /// If the shapes disagree, or X has another precision.
    #[track_caller]
    pub fn forward<'a>(
        &self,
        values: &[f32],
        x: impl Into<Lines<'a>>,
        y: &mut [f32],
        initial: Initial<'_>,
    ) {
        let x = x.into();
        self.check_values(values);
        self.check_operands(x, self.columns(), y, self.rows(), initial);
        self.of(0).forward(values, x, y, initial);
    }

    /// dX = initial + Wᵀ · dY: dY `[tiles][rows]` in the plan's precision, dX `[tiles][columns][LANES]`.
    /// 2 · nnz · tiles · LANES FLOPs.
    /// # Panics
    /// If the shapes disagree, or dY has another precision.
    #[track_caller]
    pub fn input_gradient<'a>(
        &self,
        values: &[f32],
        dy: impl Into<Lines<'a>>,
        dx: &mut [f32],
        initial: Initial<'_>,
    ) {
        let dy = dy.into();
        self.check_values(values);
        self.check_operands(dy, self.rows(), dx, self.columns(), initial);
        self.of(1).input_gradient(values, dy, dx, initial);
    }

    /// dw += dY · Xᵀ at the stored weights: dY `[tiles][rows]`, X `[tiles][columns]`, both in the plan's
    /// precision. 2 · nnz · tiles · LANES FLOPs.
    /// # Panics
    /// If the shapes disagree, or dY or X has another precision.
    #[track_caller]
    pub fn weight_gradient<'a, 'b>(
        &self,
        dy: impl Into<Lines<'a>>,
        x: impl Into<Lines<'b>>,
        dw: &mut [f32],
    ) {
        let (dy, x) = (dy.into(), x.into());
        self.check_values(dw);
        if dw.is_empty() {
            return;
        }
        self.check_precision(dy);
        check_whole(dy, self.rows(), x, self.columns());
        self.of(2).weight_gradient(dy, x, dw);
    }

    /// y = W · x for one token, from the values as they are: x `[columns]`, y `[rows]`. 2 · nnz FLOPs.
    /// # Panics
    /// If the lengths disagree.
    #[track_caller]
    pub fn one_token(&self, values: &[f32], x: &[f32], y: &mut [f32]) {
        match &self.weight {
            Weight::Dense { .. } => {
                assert_eq!((x.len(), y.len()), (self.columns(), self.rows()), "shapes disagree");
                gemv_on(self.isa, values, x, y);
            }
            Weight::Sparse(pattern) => spmv_on(self.isa, pattern, values, x, y),
        }
    }

    fn of(&self, product: usize) -> &dyn Planned {
        &*self.planned[self.by_product[product]]
    }

    #[track_caller]
    fn check_values(&self, values: &[f32]) {
        assert_eq!(values.len(), self.nnz(), "one value per stored weight is needed");
    }

    #[track_caller]
    fn check_precision(&self, operand: Lines<'_>) {
        let (found, needed) = (operand.precision(), self.plan.precision());
        assert_eq!(found, needed, "the operand has another precision than the plan");
    }

    /// Checks operand and result of a product that writes tiles.
    #[track_caller]
    fn check_operands(
        &self,
        x: Lines<'_>,
        inputs: usize,
        y: &[f32],
        outputs: usize,
        initial: Initial<'_>,
    ) {
        self.check_precision(x);
        // A side without features has no tiles to count.
        if outputs > 0 {
            check_lines("the operand", x, tiles("the result", y, outputs), inputs);
        }
        assert!(outputs > 0 || y.is_empty(), "the result of no features is empty");
        if let Initial::Bias(bias) = initial {
            assert_eq!(bias.len(), outputs, "bias and outputs disagree");
        }
    }
}

impl std::fmt::Debug for LinearLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns, nnz) = (self.rows(), self.columns(), self.nnz());
        write!(f, "LinearLayer({rows} × {columns}, {nnz} weights, {})", self.plan)
    }
}
