//! [`SparseLayer`]: everything that the three products of one sparse linear layer need.

use super::plan::{Blocking, PanelPlan};
use super::sddmm::{StripBlocking, StripPlan, sddmm};
use super::spmm::{Start, spmm};
use crate::isa::IsaKind;
use crate::parallel::{SharedMut, for_each_block};
use crate::{AlignedBuffer, SparsePattern};
use std::sync::Arc;

/// Values packed per parallel task of a refresh.
const REFRESH_BLOCK: usize = 1 << 15;

/// A sparse matrix with the plans of its products and its values packed in their order.
///
/// The CSR values stay the master copy, outside; [`SparseLayer::refresh`] must follow every change
/// of them.
#[derive(Clone, Debug)]
pub struct SparseLayer {
    isa: IsaKind,
    pattern: Arc<SparsePattern>,
    forward: PanelPlan,
    transposed: PanelPlan,
    gradient: StripPlan,
    forward_values: AlignedBuffer,
    transposed_values: AlignedBuffer,
}

impl SparseLayer {
    /// Plans the products of a pattern; the values are zeros until the first refresh.
    /// # Panics
    /// If `MEDISWIFT_ISA` names an instruction set that this machine lacks.
    #[track_caller]
    pub fn new(pattern: Arc<SparsePattern>) -> Self {
        let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
        let blocking = Blocking::for_density(pattern.density(), isa.registers());
        let strips = StripBlocking::for_shape(pattern.rows(), pattern.columns(), isa.registers());
        Self::with_blocking(isa, pattern, blocking, strips)
    }

    /// Plans with given tile sizes on a given instruction set.
    #[track_caller]
    pub fn with_blocking(
        isa: IsaKind,
        pattern: Arc<SparsePattern>,
        panels: Blocking,
        strips: StripBlocking,
    ) -> Self {
        let (twin, positions) = pattern.transpose();
        Self {
            isa,
            forward: PanelPlan::new(&pattern, panels),
            transposed: PanelPlan::new(&twin, panels).compose(&positions),
            gradient: StripPlan::new(&pattern, strips),
            forward_values: AlignedBuffer::zeros(pattern.nnz()),
            transposed_values: AlignedBuffer::zeros(pattern.nnz()),
            pattern,
        }
    }

    /// The structure of the matrix.
    pub fn pattern(&self) -> &Arc<SparsePattern> {
        &self.pattern
    }

    /// Packs the CSR `values` in the order of both plans.
    /// # Panics
    /// If there is not one value per non-zero.
    #[track_caller]
    pub fn refresh(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.pattern.nnz(), "values and pattern disagree");
        gather(values, self.forward.source(), &mut self.forward_values);
        gather(values, self.transposed.source(), &mut self.transposed_values);
    }

    /// Y = start + W · X: X `[tiles][columns][LANES]`, Y `[tiles][rows][LANES]`.
    #[track_caller]
    pub fn forward(&self, x: &[f32], y: &mut [f32], start: Start<'_>) {
        spmm(self.isa, &self.forward, &self.forward_values, x, y, start);
    }

    /// dX = start + Wᵀ · dY: dY `[tiles][rows][LANES]`, dX `[tiles][columns][LANES]`.
    #[track_caller]
    pub fn input_gradient(&self, dy: &[f32], dx: &mut [f32], start: Start<'_>) {
        spmm(self.isa, &self.transposed, &self.transposed_values, dy, dx, start);
    }

    /// dw += (dY · Xᵀ) at the non-zeros, in CSR order.
    #[track_caller]
    pub fn weight_gradient(&self, dy: &[f32], x: &[f32], dw: &mut [f32]) {
        sddmm(self.isa, &self.gradient, dy, x, dw);
    }
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
            *packed = values[at as usize];
        }
    });
}
