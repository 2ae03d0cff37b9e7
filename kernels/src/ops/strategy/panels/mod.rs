//! Panels: blocks of rows and columns, rows side by side that share columns, predictable loops.
//!
//! [`spmm`] computes the products with W and Wᵀ, [`sddmm`] the weight gradient, each with its loop nest;
//! [`order`] has what both walk, [`panel`] how rows come together.

mod blocking;
mod order;
mod panel;
mod sddmm;
mod spmm;

use self::blocking::Blocking;
use self::order::PanelPlan;
use super::{Family, Initial, Method, Planned, Product, Strategy};
use crate::isa::IsaKind;
use crate::ops::gather::gather_values;
use crate::{AlignedBuffer, SparsePattern};
use std::sync::Arc;

pub(super) const FAMILY: Family = Family {
    grammar: "panels-rR-vV-uU-kK-mM-pP with R of 1, 2, 4, V of 1, 2, 4 (8 where R is 1 or 2), U of 1, \
              or of 2 where R × V ≤ 4, K up to 65536, M and P above 0",
    parse,
    candidates,
};

/// The letters of a name, in its order.
const LETTERS: [&str; 6] = ["r", "v", "u", "k", "m", "p"];

fn parse(name: &str) -> Option<Strategy> {
    let mut parts = name.strip_prefix("panels-")?.split('-');
    let mut numbers = [0; LETTERS.len()];
    for (number, letter) in numbers.iter_mut().zip(LETTERS) {
        *number = parts.next()?.strip_prefix(letter)?.parse().ok()?;
    }
    let [panel_rows, vectors, unroll, k_block, row_block, k_pass] = numbers;
    let blocking = Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass };
    (parts.next().is_none() && blocking.is_valid()).then(|| Strategy::new(Panels(blocking)))
}

fn candidates(registers: usize) -> Vec<Strategy> {
    let shapes: &[Shape] = if registers >= 32 {
        &[
            (4, 4, 128, 1024, 2),
            (4, 4, 160, 1024, 2),
            (2, 4, 128, 1024, 4),
            (2, 4, 160, 1024, 4),
            (2, 4, 192, 2048, 8),
            (1, 8, 80, 1024, 4),
            (2, 2, 320, 2048, 8),
            (2, 2, 512, 2048, 8),
            (2, 2, 1024, 2048, 8),
        ]
    } else {
        &[
            (1, 4, 128, 1024, 4),
            (1, 4, 160, 1024, 4),
            (2, 2, 128, 1024, 2),
            (2, 2, 256, 1024, 4),
            (2, 2, 384, 1024, 4),
            (2, 2, 1024, 2048, 8),
        ]
    };
    shapes.iter().map(|&shape| panels(registers, shape)).collect()
}

/// Rows, tiles, columns of a K block, rows of a row block and K blocks of a pass.
type Shape = (usize, usize, usize, usize, usize);

/// The strategy of a shape that the kernels can run.
pub(in crate::ops) fn panels(registers: usize, shape: Shape) -> Strategy {
    let (panel_rows, vectors, k_block, row_block, k_pass) = shape;
    // Two FMAs a cycle of four cycles each: eight independent sums, if there are registers for them.
    let unroll = if registers >= 32 && panel_rows * vectors <= 4 { 2 } else { 1 };
    Strategy::new(Panels(Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass }))
}

struct Panels(Blocking);

impl Method for Panels {
    fn name(&self) -> String {
        let Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass } = self.0;
        format!("panels-r{panel_rows}-v{vectors}-u{unroll}-k{k_block}-m{row_block}-p{k_pass}")
    }

    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
    ) -> Box<dyn Planned> {
        let forward = products.contains(&Product::Forward);
        // The weight gradient walks the plan of the forward product.
        let own = (forward || products.contains(&Product::WeightGradient))
            .then(|| PanelPlan::new(pattern, self.0));
        let twin =
            products.contains(&Product::InputGradient).then(|| PanelPlan::of_twin(pattern, self.0));
        let packed = |plan: &Option<PanelPlan>| {
            AlignedBuffer::zeros(plan.as_ref().map_or(0, PanelPlan::packed_len))
        };
        let own_values = if forward { packed(&own) } else { AlignedBuffer::default() };
        Box::new(PlannedPanels { isa, own_values, own, twin_values: packed(&twin), twin })
    }
}

/// Plans and, in their order, the values of W and Wᵀ.
struct PlannedPanels {
    isa: IsaKind,
    own: Option<PanelPlan>,
    /// Empty unless the forward product is planned.
    own_values: AlignedBuffer,
    twin: Option<PanelPlan>,
    twin_values: AlignedBuffer,
}

impl Planned for PlannedPanels {
    fn refresh(&mut self, values: &[f32]) {
        let copies = [(&self.own, &mut self.own_values), (&self.twin, &mut self.twin_values)];
        for (plan, packed) in copies {
            if let (Some(plan), false) = (plan, packed.is_empty()) {
                gather_values(values, plan.source(), packed);
            }
        }
    }

    fn forward(&self, _: &[f32], x: &[f32], y: &mut [f32], initial: Initial<'_>) {
        let plan = self.own.as_ref().expect("a product that was planned");
        spmm::spmm(self.isa, plan, &self.own_values, x, y, initial);
    }

    fn input_gradient(&self, _: &[f32], dy: &[f32], dx: &mut [f32], initial: Initial<'_>) {
        let plan = self.twin.as_ref().expect("a product that was planned");
        spmm::spmm(self.isa, plan, &self.twin_values, dy, dx, initial);
    }

    fn weight_gradient(&self, dy: &[f32], x: &[f32], dw: &mut [f32]) {
        let plan = self.own.as_ref().expect("a product that was planned");
        sddmm::sddmm(self.isa, plan, dy, x, dw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tile_sizes_that_the_kernels_can_run_have_names() {
        for name in ["panels-r4-v4-u1-k128-m1024-p2", "panels-r2-v2-u2-k65536-m1-p1"] {
            assert_eq!(parse(name).unwrap().to_string(), name);
        }
        for name in [
            "panels",
            "panels-r3-v4-u1-k128-m1024-p2",
            "panels-r4-v8-u1-k128-m1024-p2",
            "panels-r4-v4-u2-k1-m1-p1",
            "panels-r4-v4-u1-k0-m1-p1",
            "panels-r4-v4-u1-k65537-m1024-p2",
            "panels-r4-v4-u1-k128-m0-p2",
            "panels-r4-v4-u1-k128-m1024-p2-x",
        ] {
            assert!(parse(name).is_none(), "{name}");
        }
    }
}
