//! Strategies: which kernel computes a product of a sparse layer, with which tile sizes.
//!
//! A strategy has a name that says everything (`panels-r4-v4-k128-m1024-p2`), so it can be chosen
//! on the command line, stored in a checkpoint and read back. **The strategy decides the order of
//! the sums**, and with it the last bits of a result; the number of threads does not.

use super::plan::Blocking;
use super::sddmm::StripBlocking;
use std::fmt;
use std::str::FromStr;

/// How Y = W · X is computed, and dX = Wᵀ · dY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpmmStrategy {
    /// The textbook loop over CSR ([`csr`](super::csr)).
    Csr,
    /// Pattern-sorted panels ([`spmm`](super::spmm)).
    Panels(Blocking),
    /// A dense copy of W and the dense product ([`gemm`](super::gemm)): below the break-even
    /// sparsity.
    Dense,
}

/// How dW is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SddmmStrategy {
    /// The textbook loop over CSR ([`csr`](super::csr)).
    Csr,
    /// Register strips over cache-resident blocks ([`sddmm`](super::sddmm)).
    Strips(StripBlocking),
    /// The whole dense gradient, of which the elements at the non-zeros are kept.
    Dense,
}

/// The strategies of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Of Y = W · X.
    pub forward: SpmmStrategy,
    /// Of dX = Wᵀ · dY.
    pub input_gradient: SpmmStrategy,
    /// Of dW.
    pub weight_gradient: SddmmStrategy,
}

impl SpmmStrategy {
    /// The default of the cost model. Measured on AVX-512 and AVX2 (see *Studying the kernels*):
    ///
    /// * From nine in ten non-zeros on, the dense product wins.
    /// * While the rows of a panel share many columns, many rows per panel save loads of X; with
    ///   few registers, more tiles per row do better than more rows.
    /// * Reading and writing Y once per K block is what very sparse rows pay for, so K blocks grow
    ///   and tiles shrink: V · K lines of X still fit in L1.
    pub fn estimate(density: f64, registers: usize) -> Self {
        let panels = |panel_rows, vectors, k_block, k_pass| {
            Self::Panels(Blocking { panel_rows, vectors, k_block, row_block: 1024, k_pass })
        };
        match (density, registers) {
            (0.88.., _) => Self::Dense,
            (0.15.., 32..) => panels(4, 4, 128, 2),
            (0.15.., _) => panels(1, 4, 128, 4),
            (0.02.., _) => panels(2, 2, 256, 8),
            _ => panels(2, 2, 1024, 8),
        }
    }

    /// What the autotuner tries.
    pub fn candidates(registers: usize) -> Vec<Self> {
        let shapes: &[(usize, usize, usize, usize)] = if registers >= 32 {
            &[
                (4, 4, 96, 2),
                (4, 4, 128, 2),
                (4, 4, 192, 2),
                (2, 4, 96, 4),
                (2, 4, 192, 8),
                (2, 2, 256, 8),
                (1, 4, 192, 8),
                (2, 2, 384, 8),
                (2, 2, 1024, 8),
            ]
        } else {
            &[(1, 4, 96, 4), (1, 4, 128, 4), (2, 2, 128, 2), (2, 2, 256, 8), (2, 2, 1024, 8)]
        };
        let panels = shapes.iter().map(|&(panel_rows, vectors, k_block, k_pass)| {
            Self::Panels(Blocking { panel_rows, vectors, k_block, row_block: 1024, k_pass })
        });
        panels.chain([Self::Csr, Self::Dense]).collect()
    }
}

impl SddmmStrategy {
    /// The default of the cost model: a dot product has no row to share its loads with, so only
    /// the break-even decides.
    pub fn estimate(density: f64, registers: usize) -> Self {
        if density > 0.85 {
            Self::Dense
        } else {
            Self::Strips(StripBlocking::estimate(density, registers))
        }
    }

    /// What the autotuner tries.
    pub fn candidates(registers: usize) -> Vec<Self> {
        let shapes: &[(usize, usize, usize)] = if registers >= 32 {
            &[(8, 64, 1024), (8, 96, 2048), (8, 128, 2048), (4, 128, 1024)]
        } else {
            &[(4, 128, 1024), (4, 192, 2048), (8, 64, 1024), (2, 256, 1024)]
        };
        let strips = shapes.iter().map(|&(vectors, column_block, row_block)| {
            Self::Strips(StripBlocking { vectors, column_block, row_block })
        });
        strips.chain([Self::Csr, Self::Dense]).collect()
    }
}

impl LayerPlan {
    /// The default of the cost model for a density in [0, 1] and
    /// [registers](crate::isa::Isa::REGISTERS).
    pub fn estimate(density: f64, registers: usize) -> Self {
        Self {
            forward: SpmmStrategy::estimate(density, registers),
            input_gradient: SpmmStrategy::estimate(density, registers),
            weight_gradient: SddmmStrategy::estimate(density, registers),
        }
    }

    /// The name under which the plan of a layer is kept in files: `OUTxIN@nnz`.
    pub fn key(rows: usize, columns: usize, nnz: usize) -> String {
        format!("{rows}x{columns}@{nnz}")
    }

    /// Textbook CSR for all three products.
    pub const CSR: Self = Self {
        forward: SpmmStrategy::Csr,
        input_gradient: SpmmStrategy::Csr,
        weight_gradient: SddmmStrategy::Csr,
    };

    /// Whether any product falls back to dense code.
    pub fn has_fallback(&self) -> bool {
        self.forward == SpmmStrategy::Dense
            || self.input_gradient == SpmmStrategy::Dense
            || self.weight_gradient == SddmmStrategy::Dense
    }
}

impl fmt::Display for SpmmStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csr => f.write_str("csr"),
            Self::Dense => f.write_str("dense"),
            Self::Panels(Blocking { panel_rows, vectors, k_block, row_block, k_pass }) => {
                write!(f, "panels-r{panel_rows}-v{vectors}-k{k_block}-m{row_block}-p{k_pass}")
            }
        }
    }
}

impl fmt::Display for SddmmStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csr => f.write_str("csr"),
            Self::Dense => f.write_str("dense"),
            Self::Strips(StripBlocking { vectors, column_block, row_block }) => {
                write!(f, "strips-v{vectors}-k{column_block}-m{row_block}")
            }
        }
    }
}

/// The three names, `forward/dx/dw`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.forward, self.input_gradient, self.weight_gradient)
    }
}

/// A name is none of a strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no {kind}: {expected}")]
pub struct StrategyError {
    name: String,
    kind: &'static str,
    expected: &'static str,
}

/// The numbers of a name like `panels-r4-v4`, whose letters are given.
fn numbers<const N: usize>(name: &str, kind: &str, letters: [&str; N]) -> Option<[usize; N]> {
    let mut parts = name.split('-');
    if parts.next() != Some(kind) {
        return None;
    }
    let mut found = [0; N];
    for (found, letter) in found.iter_mut().zip(letters) {
        *found = parts.next()?.strip_prefix(letter)?.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

impl FromStr for SpmmStrategy {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let panels = || {
            let letters = ["r", "v", "k", "m", "p"];
            let [panel_rows, vectors, k_block, row_block, k_pass] =
                numbers(name, "panels", letters)?;
            let blocking = Blocking { panel_rows, vectors, k_block, row_block, k_pass };
            blocking.is_valid().then_some(Self::Panels(blocking))
        };
        match name {
            "csr" => Ok(Self::Csr),
            "dense" => Ok(Self::Dense),
            _ => panels().ok_or_else(|| StrategyError {
                name: name.into(),
                kind: "strategy of a sparse product",
                expected: "csr, dense or panels-rR-vV-kK-mM-pP with R and V of 1, 2, 4, \
                           K up to 65536, M and P above 0",
            }),
        }
    }
}

impl FromStr for SddmmStrategy {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let strips = || {
            let [vectors, column_block, row_block] = numbers(name, "strips", ["v", "k", "m"])?;
            let blocking = StripBlocking { vectors, column_block, row_block };
            blocking.is_valid().then_some(Self::Strips(blocking))
        };
        match name {
            "csr" => Ok(Self::Csr),
            "dense" => Ok(Self::Dense),
            _ => strips().ok_or_else(|| StrategyError {
                name: name.into(),
                kind: "strategy of a weight gradient",
                expected: "csr, dense or strips-vV-kK-mM with V of 2, 4, 8, K up to 65536, \
                           M above 0",
            }),
        }
    }
}

impl FromStr for LayerPlan {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let parts: Vec<&str> = name.split('/').collect();
        let [forward, input_gradient, weight_gradient] = parts[..] else {
            return Err(StrategyError {
                name: name.into(),
                kind: "plan of a layer",
                expected: "three strategies, forward/dx/dw",
            });
        };
        Ok(Self {
            forward: forward.parse()?,
            input_gradient: input_gradient.parse()?,
            weight_gradient: weight_gradient.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_the_same_plan() {
        for registers in [8, 32] {
            for density in [1.0, 0.8, 0.5, 0.25, 0.05, 0.001] {
                let plan = LayerPlan::estimate(density, registers);
                assert_eq!(plan.to_string().parse(), Ok(plan));
            }
            for spmm in SpmmStrategy::candidates(registers) {
                assert_eq!(spmm.to_string().parse(), Ok(spmm));
            }
            for sddmm in SddmmStrategy::candidates(registers) {
                assert_eq!(sddmm.to_string().parse(), Ok(sddmm));
            }
        }
        assert_eq!(LayerPlan::CSR.to_string(), "csr/csr/csr");
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "csr", "csr/csr", "csr/csr/csr/csr", "csr/csr/panels-r4-v4-k1-m1-p1"] {
            assert!(name.parse::<LayerPlan>().is_err(), "{name}");
        }
        for name in ["panels", "panels-r3-v4-k128-m1024-p2", "panels-r4-v4-k0-m1-p1"] {
            let error = name.parse::<SpmmStrategy>().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("panels-rR-vV"), "{error}");
        }
        assert!("strips-v8-k64-m512-x".parse::<SddmmStrategy>().is_err());
        assert!("strips-v8-k99999-m512".parse::<SddmmStrategy>().is_err());
    }
}
