//! Strategies: which kernel computes a product of a sparse layer, with which tile sizes.
//!
//! A strategy has a name that says everything (`panels-r4-v4-u1-k128-m1024-p2`), so it can be chosen
//! on the command line, stored in a checkpoint and read back. **The strategy decides the order of
//! the sums**, and with it the last bits of a result; the number of threads does not.
//!
//! A new strategy is one file (or folder) beside this one and one line in [`FAMILIES`]: names, their
//! parsing and help, the autotuner's candidates, tests and benchmarks follow from the list.

mod csr;
pub(super) mod dense;
pub(super) mod panels;

use super::product::{Initial, Product};
use crate::SparsePattern;
use crate::isa::IsaKind;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Every family of strategies.
const FAMILIES: &[Family] = &[panels::FAMILY, csr::FAMILY, dense::FAMILY];

/// Strategies that differ in their tile sizes alone.
pub(super) struct Family {
    /// The names of its members, for help and errors.
    grammar: &'static str,
    /// The member of that name, if it is one and the kernels can run it.
    parse: fn(&str) -> Option<Strategy>,
    /// What the autotuner tries on a machine with so many [registers](crate::isa::Isa::REGISTERS).
    candidates: fn(usize) -> Vec<Strategy>,
}

/// A strategy: what each file of this folder implements.
pub(super) trait Method: Send + Sync {
    /// Its name, which says everything.
    fn name(&self) -> String;

    /// The products that it can compute; it declines the others.
    fn products(&self) -> &[Product] {
        &Product::TRAINING
    }

    /// Whether the zeros of W are multiplied too: the fallback below the break-even sparsity.
    fn is_dense(&self) -> bool {
        false
    }

    /// Does for some of its `products` what the pattern alone decides.
    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
    ) -> Box<dyn Planned>;
}

/// Products of one matrix, planned. The caller has checked the extents of W's values and of the
/// result's tiles, and asks for no product that was not planned.
pub(super) trait Planned: Send + Sync {
    /// Brings packed copies up to date with W's values, in CSR order (row-major for a dense matrix).
    fn refresh(&mut self, values: &[f32]);

    /// Y = initial + W · X.
    fn forward(&self, values: &[f32], x: &[f32], y: &mut [f32], initial: Initial<'_>) {
        let _ = (values, x, y, initial);
        unreachable!("a declined product is never planned");
    }

    /// dX = initial + Wᵀ · dY.
    fn input_gradient(&self, values: &[f32], dy: &[f32], dx: &mut [f32], initial: Initial<'_>) {
        let _ = (values, dy, dx, initial);
        unreachable!("a declined product is never planned");
    }

    /// dw += dY · Xᵀ, at the non-zeros of a sparse matrix.
    fn weight_gradient(&self, dy: &[f32], x: &[f32], dw: &mut [f32]) {
        let _ = (dy, x, dw);
        unreachable!("a declined product is never planned");
    }
}

/// How a product of a sparse layer is computed. Two are equal if their names are.
#[derive(Clone)]
pub struct Strategy(Arc<dyn Method>);

impl Strategy {
    fn new(method: impl Method + 'static) -> Self {
        Self(Arc::new(method))
    }

    /// What the autotuner tries on a machine with so many [registers](crate::isa::Isa::REGISTERS).
    pub fn candidates(registers: usize) -> Vec<Self> {
        FAMILIES.iter().flat_map(|family| (family.candidates)(registers)).collect()
    }

    /// The forms of all names, apart by "; ".
    pub fn grammar() -> String {
        FAMILIES.iter().map(|family| family.grammar).collect::<Vec<_>>().join("; ")
    }

    /// Whether it can compute a product.
    pub fn can(&self, product: Product) -> bool {
        self.0.products().contains(&product)
    }

    /// Whether the zeros of W are multiplied too: the fallback below the break-even sparsity.
    pub fn is_dense(&self) -> bool {
        self.0.is_dense()
    }

    pub(super) fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
    ) -> Box<dyn Planned> {
        self.0.plan(isa, pattern, products)
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

/// What strategies and plans of layers cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// No family knows the name.
    #[error("'{name}' is no strategy of a product: {}", Strategy::grammar())]
    Unknown {
        /// The name.
        name: String,
    },
    /// A plan names too few or too many strategies.
    #[error("'{name}' is no plan of a layer: three strategies, forward/dx/dw")]
    Parts {
        /// The plan's name.
        name: String,
    },
    /// The strategy cannot compute the product.
    #[error("strategy '{name}' cannot compute the product {}", product.name())]
    Declined {
        /// The strategy's name.
        name: String,
        /// The product.
        product: Product,
    },
}

impl FromStr for Strategy {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let found = FAMILIES.iter().find_map(|family| (family.parse)(name));
        found.ok_or_else(|| StrategyError::Unknown { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_the_same_strategy() {
        for registers in [8, 32] {
            let candidates = Strategy::candidates(registers);
            for (at, strategy) in candidates.iter().enumerate() {
                assert_eq!(strategy.to_string().parse().as_ref(), Ok(strategy));
                assert!(!candidates[..at].contains(strategy), "{strategy} is a candidate twice");
                assert!(Product::TRAINING.iter().any(|&product| strategy.can(product)));
            }
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "panels", "Csr", "dense-", "panels-r3-v4-u1-k128-m1024-p2"] {
            let error = name.parse::<Strategy>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{name}'")), "{error}");
            for family in FAMILIES {
                assert!(error.contains(family.grammar), "{error}");
            }
        }
    }
}
