//! [`LayerPlan`]: the strategies of a layer's products, and the cost model that picks them.

use super::product::Product;
use super::strategy::{Strategy, StrategyError, dense, panels::panels};
use crate::isa::IsaKind;
use crate::probe;
use std::fmt;
use std::str::FromStr;

/// The strategies of one layer: one for each of [`Product::TRAINING`], which it can compute.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan([Strategy; 3]);

impl LayerPlan {
    /// A plan of the strategies of [`Product::TRAINING`].
    /// # Errors
    /// If one cannot compute its product.
    pub fn new(strategies: [Strategy; 3]) -> Result<Self, StrategyError> {
        for (strategy, product) in strategies.iter().zip(Product::TRAINING) {
            if !strategy.can(product) {
                return Err(StrategyError::Declined { name: strategy.to_string(), product });
            }
        }
        Ok(Self(strategies))
    }

    /// One strategy, which can compute all of them.
    fn all(strategy: Strategy) -> Self {
        Self([strategy.clone(), strategy.clone(), strategy])
    }

    /// The plan of a dense weight.
    pub(super) fn dense() -> Self {
        Self::all(dense::strategy())
    }

    /// The strategies, in the order of [`Product::TRAINING`].
    pub fn strategies(&self) -> &[Strategy; 3] {
        &self.0
    }

    /// The default of the cost model for a density in [0, 1] on this machine's caches.
    pub fn of(density: f64, isa: IsaKind) -> Self {
        Self::estimate(density, isa.registers(), probe::l1_bytes())
    }

    /// The default of the cost model for a density in [0, 1],
    /// [registers](crate::isa::Isa::REGISTERS) and the bytes of a core's L1 data cache. Measured on
    /// AVX-512 and AVX2 (see *Studying the kernels*):
    ///
    /// * From nine in ten non-zeros on, dense products win.
    /// * Panels of more rows save loads of X, but need registers, and padding where rows share few
    ///   columns.
    /// * Reading and writing Y once per K block is what very sparse rows pay for, so K blocks grow
    ///   and tiles shrink: V · K lines of X still fit in L1, with room for a panel's other lines.
    /// * The weight gradient reads the plan of the forward product.
    pub fn estimate(density: f64, registers: usize, l1: usize) -> Self {
        let lines = if l1 >= 48 << 10 { 640 } else { 512 };
        let all = |shape| Self::all(panels(registers, shape));
        match (density, registers) {
            (0.87.., _) => Self::dense(),
            (0.35.., 32..) => all((4, 4, lines / 4, 1024, 2)),
            (0.2.., 32..) => all((2, 4, lines / 4, 1024, 4)),
            (0.07.., 32..) => all((2, 4, lines / 4, 2048, 8)),
            (0.35.., _) => {
                let Self([forward, input_gradient, _]) = all((2, 2, 256, 1024, 4));
                Self([forward, input_gradient, panels(registers, (1, 4, 128, 1024, 4))])
            }
            (0.07.., _) => all((2, 2, 256, 1024, 4)),
            (0.02.., _) => all((2, 2, 512, 2048, 8)),
            _ => all((2, 2, 1024, 2048, 8)),
        }
    }

    /// The name under which the plan of a layer is kept in files: `OUTxIN@nnz`.
    pub fn key(rows: usize, columns: usize, nnz: usize) -> String {
        format!("{rows}x{columns}@{nnz}")
    }
}

/// The three names, `forward/dx/dw`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forward, input_gradient, weight_gradient] = &self.0;
        write!(f, "{forward}/{input_gradient}/{weight_gradient}")
    }
}

impl FromStr for LayerPlan {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let parts: Vec<&str> = name.split('/').collect();
        let [forward, input_gradient, weight_gradient] = parts[..] else {
            return Err(StrategyError::Parts { name: name.into() });
        };
        Self::new([forward.parse()?, input_gradient.parse()?, weight_gradient.parse()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_the_same_plan() {
        for registers in [8, 32] {
            for density in [1.0, 0.8, 0.5, 0.25, 0.05, 0.001] {
                let plan = LayerPlan::estimate(density, registers, 32 << 10);
                assert_eq!(plan.to_string().parse(), Ok(plan.clone()));
                assert_eq!(LayerPlan::new(plan.strategies().clone()), Ok(plan));
            }
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "csr", "csr/csr", "csr/csr/csr/csr", "csr/csr/panels-r4-v4-u2-k1-m1-p1"] {
            assert!(name.parse::<LayerPlan>().is_err(), "{name}");
        }
    }
}
