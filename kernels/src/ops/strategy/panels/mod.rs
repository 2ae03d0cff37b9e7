//! Panels: blocks of rows and columns, rows side by side that share columns, predictable loops.
//!
//! Three families: `panels` multiplies numbers one by one, those of 16 bits widened; `pairs` multiplies two
//! non-zeros of a row at once, or two tokens, where there is an instruction for bf16 ([`crate::isa::Isa::dot`]);
//! `halves` multiplies twice as many tokens where there is one for f16 ([`crate::isa::Isa::fma_halves`]), with sums of f16
//! inside a K block.
//!
//! [`spmm`] computes the products with W and Wᵀ, [`sddmm`] the weight gradient, each with its loop nest, [`walk`] its
//! dot products;
//! [`order`] has what both walk, [`panel`] how rows come together, [`source`] where their values come from.

mod blocking;
mod order;
mod panel;
mod sddmm;
mod source;
mod spmm;
mod walk;

use self::blocking::Blocking;
use self::order::PanelPlan;
use super::{Family, Initial, Method, Planned, Product, Strategy};
use crate::isa::IsaKind;
use crate::ops::arithmetic::Words;
use crate::ops::gather::{gather_pairs, gather_rounded, gather_values};
use crate::parallel::for_each_part;
use crate::rounding::Nearest;
use crate::{AlignedBuffer, Lines, Precision, Scratch, SparsePattern};
use std::sync::Arc;

pub(super) const PANELS: Family = Family {
    grammar: "panels-rR-vV-uU-kK-mM-pP with R of 1, 2, 4, V of 1, 2, 4 (8 where R is 1 or 2), U of 1, \
              or of 2 where R × V ≤ 4, K up to 65536, M and P above 0",
    parse: |name| {
        let sizes = numbers(name.strip_prefix("panels-")?, ["r", "v", "u", "k", "m", "p"])?;
        named(blocking(sizes, Words::Numbers))
    },
    candidates,
};

pub(super) const PAIRS: Family = Family {
    grammar: "pairs-rR-vV-kK-mM-pP, of bf16 alone, with R of 1, 2, 4, V of 2, 4 (8 where R is 1 or 2), K up to \
              65536, M and P above 0",
    parse: |name| {
        let [r, v, k, m, p] = numbers(name.strip_prefix("pairs-")?, ["r", "v", "k", "m", "p"])?;
        named(blocking([r, v, 1, k, m, p], Words::Pairs))
    },
    candidates: |registers| {
        let shapes: &[Shape] = &[
            (4, 4, 128, 1024, 2),
            (4, 4, 256, 1024, 2),
            (2, 4, 128, 1024, 4),
            (2, 4, 256, 1024, 4),
            (2, 4, 384, 2048, 8),
            (2, 2, 512, 2048, 8),
            (2, 2, 1024, 2048, 8),
        ];
        if registers >= 32 {
            shapes.iter().map(|&shape| pairs(shape)).collect()
        } else {
            Vec::new()
        }
    },
};

pub(super) const HALVES: Family = Family {
    grammar: "halves-rR-vV-kK-mM-pP, of f16 alone, with R of 1, 2, 4, V of 1, 2, 4 (8 where R is 1 or 2) lines of 32 \
              tokens, K up to 65536, M and P above 0",
    parse: |name| {
        let [r, v, k, m, p] = numbers(name.strip_prefix("halves-")?, ["r", "v", "k", "m", "p"])?;
        named(blocking([r, v, 1, k, m, p], Words::Halves))
    },
    candidates: |registers| {
        let shapes: &[Shape] = &[
            (4, 2, 320, 1024, 2),
            (2, 4, 160, 1024, 4),
            (2, 2, 320, 1024, 4),
            (2, 8, 80, 1024, 4),
            (2, 2, 640, 2048, 8),
        ];
        if registers >= 32 {
            shapes.iter().map(|&shape| halves(shape)).collect()
        } else {
            Vec::new()
        }
    },
};

/// The numbers of a name, behind their letters.
fn numbers<const N: usize>(name: &str, letters: [&str; N]) -> Option<[usize; N]> {
    let mut parts = name.split('-');
    let mut numbers = [0; N];
    for (number, letter) in numbers.iter_mut().zip(letters) {
        *number = parts.next()?.strip_prefix(letter)?.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Tile sizes in the order of the longer name.
fn blocking(sizes: [usize; 6], words: Words) -> Blocking {
    let [panel_rows, vectors, unroll, k_block, row_block, k_pass] = sizes;
    Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass, words }
}

/// The strategy of those sizes, if the kernels can run it.
fn named(blocking: Blocking) -> Option<Strategy> {
    blocking.is_valid().then(|| Strategy::new(Panels(blocking)))
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
            (1, 4, 128, 256, 4),
            (1, 4, 128, 512, 4),
            (1, 4, 160, 1024, 4),
            (2, 2, 128, 1024, 2),
            (2, 2, 256, 512, 4),
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
pub(in crate::ops) fn panels(registers: usize, (r, v, k, m, p): Shape) -> Strategy {
    // Two FMAs a cycle of four cycles each: eight independent sums, if there are registers for them.
    let unroll = if registers >= 32 && r * v <= 4 { 2 } else { 1 };
    Strategy::new(Panels(blocking([r, v, unroll, k, m, p], Words::Numbers)))
}

/// The same with non-zeros in pairs.
pub(in crate::ops) fn pairs((r, v, k, m, p): Shape) -> Strategy {
    Strategy::new(Panels(blocking([r, v, 1, k, m, p], Words::Pairs)))
}

/// The same with lines of f16 in the place of tiles.
pub(in crate::ops) fn halves((r, v, k, m, p): Shape) -> Strategy {
    Strategy::new(Panels(blocking([r, v, 1, k, m, p], Words::Halves)))
}

struct Panels(Blocking);

impl Method for Panels {
    fn name(&self) -> String {
        let Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass, words } = self.0;
        let (family, unroll) = match words {
            Words::Numbers => ("panels", format!("-u{unroll}")),
            Words::Pairs => ("pairs", String::new()),
            Words::Halves => ("halves", String::new()),
        };
        format!("{family}-r{panel_rows}-v{vectors}{unroll}-k{k_block}-m{row_block}-p{k_pass}")
    }

    fn precisions(&self) -> &[Precision] {
        self.0.words.precisions()
    }

    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
        precision: Precision,
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
        let twin_values = packed(&twin);
        Box::new(PlannedPanels { isa, precision, own, own_values, twin, twin_values })
    }
}

/// Plans and, in their order, the values of W and Wᵀ.
struct PlannedPanels {
    isa: IsaKind,
    precision: Precision,
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
                for_each_part(plan.split(packed), |(block, packed)| {
                    let mut room = Scratch::take(block.values.len());
                    let source = plan.positions(&block, &mut room);
                    match (plan.blocking().words, self.precision) {
                        (Words::Numbers, Precision::F32) => gather_values(values, source, packed),
                        (Words::Numbers, precision) => {
                            gather_rounded(values, source, Nearest::Number(precision), packed);
                        }
                        (Words::Pairs, _) => gather_pairs(values, source, packed),
                        (Words::Halves, _) => {
                            gather_rounded(values, source, Nearest::TwiceF16, packed);
                        }
                    }
                });
            }
        }
    }

    fn forward(&self, _: &[f32], x: Lines<'_>, y: &mut [f32], initial: Initial<'_>) {
        let plan = self.own.as_ref().expect("a product that was planned");
        spmm::spmm(self.isa, plan, &self.own_values, x, y, initial);
    }

    fn input_gradient(&self, _: &[f32], dy: Lines<'_>, dx: &mut [f32], initial: Initial<'_>) {
        let plan = self.twin.as_ref().expect("a product that was planned");
        spmm::spmm(self.isa, plan, &self.twin_values, dy, dx, initial);
    }

    fn weight_gradient(&self, dy: Lines<'_>, x: Lines<'_>, dw: &mut [f32]) {
        let plan = self.own.as_ref().expect("a product that was planned");
        sddmm::sddmm(self.isa, plan, dy, x, dw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tile_sizes_that_the_kernels_can_run_have_names() {
        let families = [PANELS, PAIRS, HALVES];
        let parse = |name| families.iter().find_map(|family| (family.parse)(name));
        for name in [
            "panels-r4-v4-u1-k128-m1024-p2",
            "panels-r2-v2-u2-k65536-m1-p1",
            "pairs-r4-v4-k256-m1024-p2",
            "halves-r2-v8-k80-m1024-p4",
        ] {
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
            "pairs-r4-v4-u1-k128-m1024-p2",
            "pairs-r4-v1-k128-m1024-p2",
            "pairs-r4-v8-k128-m1024-p2",
            "halves-r4-v8-k128-m1024-p2",
        ] {
            assert!(parse(name).is_none(), "{name}");
        }
    }
}
