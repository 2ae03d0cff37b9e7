//! [`LayerPlan`]: the strategies of a layer's products, and the cost model that picks them.

use super::arithmetic::Words;
use super::product::Product;
use super::strategy::{
    Strategy, StrategyError, dense,
    panels::{halves, pairs, panels},
};
use crate::Precision;
use crate::isa::IsaKind;
use crate::probe;
use std::fmt;
use std::str::FromStr;

/// The strategies of one layer: one for each of [`Product::TRAINING`], which it can compute in the plan's
/// precision.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    precision: Precision,
    strategies: [Strategy; 3],
}

/// Density from which on dense products win.
const DENSE: f64 = 0.87;

impl LayerPlan {
    /// A plan of the strategies of [`Product::TRAINING`].
    /// # Errors
    /// If one cannot compute its product, or not in that precision.
    pub fn new(precision: Precision, strategies: [Strategy; 3]) -> Result<Self, StrategyError> {
        for (strategy, product) in strategies.iter().zip(Product::TRAINING) {
            let name = || strategy.to_string();
            if !strategy.can(product) {
                return Err(StrategyError::Declined { name: name(), product });
            }
            if !strategy.multiplies(precision) {
                return Err(StrategyError::Unable { name: name(), precision });
            }
        }
        Ok(Self { precision, strategies })
    }

    /// One strategy, which can compute all of them.
    fn all(precision: Precision, strategy: Strategy) -> Self {
        Self { precision, strategies: [strategy.clone(), strategy.clone(), strategy] }
    }

    /// The plan of a dense weight.
    pub(super) fn dense(precision: Precision, isa: IsaKind) -> Self {
        Self::all(precision, dense::strategy(Words::of(precision, isa)))
    }

    /// What activations and weights are rounded to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The strategies, in the order of [`Product::TRAINING`].
    pub fn strategies(&self) -> &[Strategy; 3] {
        &self.strategies
    }

    /// The default of the cost model for a density in [0, 1] on this machine's caches.
    pub fn of(precision: Precision, density: f64, isa: IsaKind) -> Self {
        let l1 = probe::l1_bytes();
        if density >= DENSE {
            return Self::dense(precision, isa);
        }
        match Words::of(precision, isa) {
            Words::Pairs => Self::estimate_pairs(density, l1),
            Words::Halves => Self::estimate_halves(density, l1),
            Words::Numbers => {
                let is_intel = probe::is_intel();
                Self { precision, ..Self::estimate(density, isa.registers(), l1, is_intel) }
            }
        }
    }

    /// The default of the cost model for a density in [0, 1],
    /// [registers](crate::isa::Isa::REGISTERS), the bytes of a core's L1 data cache and the maker of the CPU. Measured on
    /// AVX-512 and AVX2 (see *Studying the kernels*):
    ///
    /// * From nine in ten non-zeros on, dense products win.
    /// * Panels of more rows save loads of X, but need registers, and padding where rows share few
    ///   columns.
    /// * Reading and writing Y once per K block is what very sparse rows pay for, so K blocks grow
    ///   and tiles shrink: V · K lines of X still fit in L1, with room for a panel's other lines.
    /// * The weight gradient reads the plan of the forward product, and again and again the sums of a block of rows,
    ///   which must stay in L2: twice the rows cost it a third of its speed and more, and save the others 3 %. A sum
    ///   takes four bytes a non-zero for each of four lanes. CPUs with few registers have small L2s as well: a Zen 3's
    ///   512 KB make smaller blocks pay. There, one row on four tiles reduces dots half as often as two rows on two.
    /// * Intel's CPUs multiply, add and shuffle 512 bits on the same two ports, where eight tiles in a dot leave a quarter
    ///   more time for FMAs than four: the weight gradient is a fifth faster at half of the weights (Cascade Lake). At a
    ///   quarter of them one row on four tiles is 4 % faster, which a plan of its own is not worth.
    fn estimate(density: f64, registers: usize, l1: usize, is_intel: bool) -> Self {
        let lines = if l1 >= 48 << 10 { 640 } else { 512 };
        let precision = Precision::F32;
        let all = |shape| Self::all(precision, panels(registers, shape));
        let apart = |product, weight_gradient| {
            let [forward, input_gradient, _] = all(product).strategies;
            let weight_gradient = panels(registers, weight_gradient);
            Self { precision, strategies: [forward, input_gradient, weight_gradient] }
        };
        match (density, registers) {
            (DENSE.., _) => Self::all(precision, dense::strategy(Words::Numbers)),
            (0.35.., 32..) if is_intel => {
                apart((4, 4, lines / 4, 1024, 2), (1, 8, lines / 8, 512, 2))
            }
            (0.35.., 32..) => all((4, 4, lines / 4, 1024, 2)),
            (0.2.., 32..) => all((2, 4, lines / 4, 1024, 4)),
            (0.07.., 32..) => all((2, 4, lines / 4, 1024, 8)),
            (0.35.., _) => apart((2, 2, 256, 1024, 4), (1, 4, 128, 256, 4)),
            (0.2.., _) => all((1, 4, 128, 512, 4)),
            (0.07.., _) => all((2, 2, 256, 512, 4)),
            (0.02.., _) => all((2, 2, 512, 2048, 8)),
            _ => all((2, 2, 1024, 2048, 8)),
        }
    }

    /// The default for bf16 where pairs are multiplied at once. A line holds two tiles, so K blocks are
    /// twice as wide as those of `f32`; the weight gradient takes as many lines as that, which are twice as
    /// many tokens, and half the columns.
    fn estimate_pairs(density: f64, l1: usize) -> Self {
        let lines = if l1 >= 48 << 10 { 640 } else { 512 };
        let precision = Precision::Bf16;
        let plan = |rows, row_block, k_pass| {
            let product = pairs((rows, 4, lines / 2, row_block, k_pass));
            let weight_gradient = pairs((rows, 4, lines / 4, row_block, k_pass));
            Self { precision, strategies: [product.clone(), product, weight_gradient] }
        };
        match density {
            0.35.. => plan(4, 1024, 2),
            0.2.. => plan(2, 1024, 4),
            _ => plan(2, 2048, 8),
        }
    }

    /// The default for f16 where 32 of them are multiplied at once. Sums are widened and added to Y once per panel and
    /// K block, so K blocks are wide, and few lines are taken at once. The weight gradient widens its sums once per V
    /// lines, of any plan.
    fn estimate_halves(density: f64, l1: usize) -> Self {
        let lines = if l1 >= 48 << 10 { 640 } else { 512 };
        let precision = Precision::F16;
        let plan = |product| {
            let (product, weight_gradient) = (halves(product), halves((2, 4, lines / 4, 1024, 4)));
            Self { precision, strategies: [product.clone(), product, weight_gradient] }
        };
        match density {
            0.2.. => plan((2, 2, lines / 2, 1024, 4)),
            _ => plan((2, 2, lines, 2048, 8)),
        }
    }

    /// The name under which the plan of a layer is kept in files: `OUTxIN@nnz`.
    pub fn key(rows: usize, columns: usize, nnz: usize) -> String {
        format!("{rows}x{columns}@{nnz}")
    }
}

/// The three names, `forward/dx/dw`; of 16 bits, `precision:forward/dx/dw`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.precision != Precision::F32 {
            write!(f, "{}:", self.precision)?;
        }
        let [forward, input_gradient, weight_gradient] = &self.strategies;
        write!(f, "{forward}/{input_gradient}/{weight_gradient}")
    }
}

impl FromStr for LayerPlan {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let (precision, strategies) = match name.split_once(':') {
            Some((precision, strategies)) => (precision.parse()?, strategies),
            None => (Precision::F32, name),
        };
        let parts: Vec<&str> = strategies.split('/').collect();
        let [forward, input_gradient, weight_gradient] = parts[..] else {
            return Err(StrategyError::Parts { name: name.into() });
        };
        let strategies = [forward.parse()?, input_gradient.parse()?, weight_gradient.parse()?];
        Self::new(precision, strategies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_the_same_plan() {
        for registers in [8, 32] {
            for density in [1.0, 0.8, 0.5, 0.25, 0.05, 0.001] {
                let plan = LayerPlan::estimate(density, registers, 32 << 10, density < 0.6);
                let pairs = LayerPlan::estimate_pairs(density, 32 << 10);
                let halves = LayerPlan::estimate_halves(density, 32 << 10);
                let widened = LayerPlan { precision: Precision::F16, ..plan.clone() };
                for plan in [plan, pairs, halves, widened] {
                    assert_eq!(plan.to_string().parse(), Ok(plan.clone()));
                    let strategies = plan.strategies().clone();
                    assert_eq!(LayerPlan::new(plan.precision(), strategies), Ok(plan));
                }
            }
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "csr",
            "csr/csr",
            "csr/csr/csr/csr",
            "csr/csr/panels-r4-v4-u2-k1-m1-p1",
            "bf16:csr/csr/csr",
            "f16:dense-pairs/dense-pairs/dense-pairs",
            "f64:dense/dense/dense",
        ] {
            assert!(name.parse::<LayerPlan>().is_err(), "{name}");
        }
    }
}
