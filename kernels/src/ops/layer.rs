//! [`SparseLayer`]: everything that the three products of one sparse linear layer need.

use super::csr::{sddmm_csr, spmm_csr};
use super::gemm::{Left, OutLayout, gemm_on, transpose_tiles};
use super::plan::PanelPlan;
use super::sddmm::sddmm;
use super::spmm::{Start, spmm};
use super::strategy::{LayerPlan, Strategy};
use crate::isa::IsaKind;
use crate::parallel::{SharedMut, for_each_block};
use crate::{AlignedBuffer, LANES, Scratch, SparsePattern};
use std::sync::Arc;

/// Values packed per parallel task of a refresh.
const REFRESH_BLOCK: usize = 1 << 15;

/// A sparse matrix with its values packed in the order of its three products.
///
/// The CSR values stay the master copy, outside; [`SparseLayer::refresh`] must follow every change
/// of them.
#[derive(Clone, Debug)]
pub struct SparseLayer {
    isa: IsaKind,
    pattern: Arc<SparsePattern>,
    plan: LayerPlan,
    forward: Spmm,
    transposed: Spmm,
    gradient: Sddmm,
    /// W as `[rows][columns]`, empty unless a product is dense.
    dense: AlignedBuffer,
}

/// One of the two sparse products, planned.
#[derive(Clone, Debug)]
enum Spmm {
    Csr { pattern: Arc<SparsePattern>, source: Vec<u32>, values: AlignedBuffer },
    Panels { plan: Arc<PanelPlan>, values: AlignedBuffer },
    Dense,
}

/// The weight gradient, planned.
#[derive(Clone, Debug)]
enum Sddmm {
    Csr,
    Panels(Arc<PanelPlan>),
    Dense,
}

impl Spmm {
    /// Plans products with a matrix whose value i is the layer's value `positions[i]`.
    fn new(strategy: Strategy, pattern: &Arc<SparsePattern>, positions: Vec<u32>) -> Self {
        match strategy {
            Strategy::Csr => {
                let values = AlignedBuffer::zeros(pattern.nnz());
                Self::Csr { pattern: pattern.clone(), source: positions, values }
            }
            Strategy::Panels(blocking) => {
                let plan = Arc::new(PanelPlan::new(pattern, blocking).compose(&positions));
                Self::Panels { values: AlignedBuffer::zeros(plan.packed_len()), plan }
            }
            Strategy::Dense => Self::Dense,
        }
    }

    fn refresh(&mut self, from: &[f32]) {
        match self {
            Self::Csr { source, values, .. } => gather(from, source, values),
            Self::Panels { plan, values } => gather(from, plan.source(), values),
            Self::Dense => {}
        }
    }

    fn run(
        &self,
        isa: IsaKind,
        dense: Left<'_>,
        rows: usize,
        x: &[f32],
        y: &mut [f32],
        start: Start<'_>,
    ) {
        match self {
            Self::Csr { pattern, values, .. } => spmm_csr(isa, pattern, values, x, y, start),
            Self::Panels { plan, values } => spmm(isa, plan, values, x, y, start),
            Self::Dense => {
                if let Start::Bias(bias) = start {
                    fill_bias(bias, y);
                }
                let accumulate = !matches!(start, Start::Zero);
                gemm_on(isa, dense, x, y, OutLayout::tiles(rows), accumulate);
            }
        }
    }
}

impl SparseLayer {
    /// Plans the products of a pattern on the active instruction set, as the cost model advises;
    /// the values are zeros until the first refresh.
    /// # Panics
    /// If `MEDISWIFT_ISA` names an instruction set that this machine lacks.
    #[track_caller]
    pub fn new(pattern: Arc<SparsePattern>) -> Self {
        let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
        let plan = LayerPlan::of(pattern.density(), isa);
        Self::with_plan(isa, pattern, plan)
    }

    /// Plans the products of a pattern with given strategies on a given instruction set.
    #[track_caller]
    pub fn with_plan(isa: IsaKind, pattern: Arc<SparsePattern>, plan: LayerPlan) -> Self {
        let (twin, positions) = pattern.transpose();
        let forward = Spmm::new(plan.forward, &pattern, (0..pattern.nnz() as u32).collect());
        let gradient = match (plan.weight_gradient, &forward) {
            (Strategy::Csr, _) => Sddmm::Csr,
            (Strategy::Panels(blocking), Spmm::Panels { plan, .. })
                if blocking == plan.blocking() =>
            {
                Sddmm::Panels(plan.clone())
            }
            (Strategy::Panels(blocking), _) => {
                Sddmm::Panels(Arc::new(PanelPlan::new(&pattern, blocking)))
            }
            (Strategy::Dense, _) => Sddmm::Dense,
        };
        let keeps_dense = plan.forward == Strategy::Dense || plan.input_gradient == Strategy::Dense;
        let dense = if keeps_dense { pattern.rows() * pattern.columns() } else { 0 };
        Self {
            isa,
            plan,
            forward,
            transposed: Spmm::new(plan.input_gradient, &Arc::new(twin), positions),
            gradient,
            dense: AlignedBuffer::zeros(dense),
            pattern,
        }
    }

    /// The structure of the matrix.
    pub fn pattern(&self) -> &Arc<SparsePattern> {
        &self.pattern
    }

    /// The strategies of the products.
    pub fn plan(&self) -> LayerPlan {
        self.plan
    }

    /// Packs the CSR `values` in the orders of the products.
    /// # Panics
    /// If there is not one value per non-zero.
    #[track_caller]
    pub fn refresh(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.pattern.nnz(), "values and pattern disagree");
        self.forward.refresh(values);
        self.transposed.refresh(values);
        if !self.dense.is_empty() {
            scatter(&self.pattern, values, &mut self.dense);
        }
    }

    /// Y = start + W · X: X `[tiles][columns][LANES]`, Y `[tiles][rows][LANES]`.
    #[track_caller]
    pub fn forward(&self, x: &[f32], y: &mut [f32], start: Start<'_>) {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        let w = Left::row_major(&self.dense, self.dense_rows(rows, columns), columns);
        self.forward.run(self.isa, w, rows, x, y, start);
    }

    /// dX = start + Wᵀ · dY: dY `[tiles][rows][LANES]`, dX `[tiles][columns][LANES]`.
    #[track_caller]
    pub fn input_gradient(&self, dy: &[f32], dx: &mut [f32], start: Start<'_>) {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        let wt = Left::transposed(&self.dense, columns, self.dense_rows(rows, columns));
        self.transposed.run(self.isa, wt, columns, dy, dx, start);
    }

    /// dw += (dY · Xᵀ) at the non-zeros, in CSR order.
    #[track_caller]
    pub fn weight_gradient(&self, dy: &[f32], x: &[f32], dw: &mut [f32]) {
        match &self.gradient {
            Sddmm::Csr => sddmm_csr(self.isa, &self.pattern, dy, x, dw),
            Sddmm::Panels(plan) => sddmm(self.isa, plan, dy, x, dw),
            Sddmm::Dense => sampled_gemm(self.isa, &self.pattern, dy, x, dw),
        }
    }

    /// The rows of the dense copy: none unless a product uses it.
    fn dense_rows(&self, rows: usize, columns: usize) -> usize {
        if self.dense.len() == rows * columns { rows } else { 0 }
    }
}

/// dw += (dY · Xᵀ) at the pattern's non-zeros, from the whole dense product.
#[track_caller]
pub(super) fn sampled_gemm(
    isa: IsaKind,
    pattern: &SparsePattern,
    dy: &[f32],
    x: &[f32],
    dw: &mut [f32],
) {
    assert_eq!(dw.len(), pattern.nnz(), "gradient and pattern disagree");
    if pattern.nnz() == 0 {
        return;
    }
    // The product writes whole lines, so rows are padded to lines.
    let padded = pattern.columns().next_multiple_of(LANES);
    let mut full = Scratch::take(pattern.rows() * padded);
    let xt = transpose_tiles(x, pattern.columns());
    let left = Left::tiles(dy, pattern.rows());
    gemm_on(isa, left, &xt, &mut full, OutLayout::row_major(padded), false);
    let shared = SharedMut::new(dw);
    for_each_block(pattern.rows(), |row| {
        let range = pattern.row_range(row);
        // SAFETY: rows own disjoint ranges of the non-zeros.
        let dw = unsafe { shared.slice(range.start, range.len()) };
        for (dw, &column) in dw.iter_mut().zip(&pattern.column_indices()[range]) {
            *dw += full[row * padded + column as usize];
        }
    });
}

/// packed[i] = values[source[i]].
fn gather(values: &[f32], source: &[u32], packed: &mut [f32]) {
    let len = packed.len();
    let shared = SharedMut::new(packed);
    for_each_block(len.div_ceil(REFRESH_BLOCK), |block| {
        let from = block * REFRESH_BLOCK;
        // SAFETY: the blocks are disjoint ranges of the packed values.
        let packed = unsafe { shared.slice(from, REFRESH_BLOCK.min(len - from)) };
        for (packed, &at) in packed.iter_mut().zip(&source[from..]) {
            *packed = values.get(at as usize).copied().unwrap_or(0.0);
        }
    });
}

/// Writes the values to their places in a dense matrix that is zero elsewhere.
fn scatter(pattern: &SparsePattern, values: &[f32], dense: &mut [f32]) {
    let columns = pattern.columns();
    let shared = SharedMut::new(dense);
    for_each_block(pattern.rows(), |row| {
        // SAFETY: rows are disjoint ranges of the matrix.
        let dense = unsafe { shared.slice(row * columns, columns) };
        for at in pattern.row_range(row) {
            dense[pattern.column_indices()[at] as usize] = values[at];
        }
    });
}

/// Sets every line of Y to its row's bias.
fn fill_bias(bias: &[f32], y: &mut [f32]) {
    let tile_len = bias.len() * LANES;
    let tiles = y.len().checked_div(tile_len).unwrap_or(0);
    let shared = SharedMut::new(y);
    for_each_block(tiles, |tile| {
        // SAFETY: tiles are disjoint ranges of y.
        let lines = unsafe { shared.slice(tile * tile_len, tile_len) };
        for (line, &b) in lines.chunks_exact_mut(LANES).zip(bias) {
            line.fill(b);
        }
    });
}
