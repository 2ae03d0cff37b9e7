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
mod method;
pub(super) mod panels;

pub use method::Strategy;
pub(super) use method::{Family, Method, Planned};

use super::product::{Initial, Product};
use crate::{Precision, UnknownPrecision};
use std::str::FromStr;

/// Every family of strategies.
const FAMILIES: &[Family] = &[
    panels::PANELS,
    panels::PAIRS,
    panels::HALVES,
    csr::FAMILY,
    dense::NUMBERS,
    dense::PAIRS,
    dense::HALVES,
];

impl Strategy {
    /// What the autotuner tries on a machine with so many [registers](crate::isa::Isa::REGISTERS).
    pub fn candidates(precision: Precision, registers: usize) -> Vec<Self> {
        let all = FAMILIES.iter().flat_map(|family| (family.candidates)(registers));
        all.filter(|strategy| strategy.multiplies(precision)).collect()
    }

    /// The forms of all names, apart by "; ".
    pub fn grammar() -> String {
        FAMILIES.iter().map(|family| family.grammar).collect::<Vec<_>>().join("; ")
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
    /// The plan's precision has another name.
    #[error(transparent)]
    Precision(#[from] UnknownPrecision),
    /// The strategy cannot multiply numbers of the precision.
    #[error("strategy '{name}' does not multiply {precision}")]
    Unable {
        /// The strategy's name.
        name: String,
        /// The precision.
        precision: Precision,
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
        let all = Precision::ALL.iter().flat_map(|&precision| [(precision, 8), (precision, 32)]);
        for (precision, registers) in all {
            let candidates = Strategy::candidates(precision, registers);
            for (at, strategy) in candidates.iter().enumerate() {
                assert_eq!(strategy.to_string().parse().as_ref(), Ok(strategy));
                assert!(!candidates[..at].contains(strategy), "{strategy} is a candidate twice");
                assert!(Product::TRAINING.iter().any(|&product| strategy.can(product)));
            }
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "panels", "pairs", "Csr", "dense-", "panels-r3-v4-u1-k128-m1024-p2"] {
            let error = name.parse::<Strategy>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{name}'")), "{error}");
            for family in FAMILIES {
                assert!(error.contains(family.grammar), "{error}");
            }
        }
    }
}
