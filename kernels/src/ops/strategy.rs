//! Strategies: which kernel computes a product of a sparse layer, with which tile sizes.
//!
//! A strategy has a name that says everything (`panels-r4-v4-u1-k128-m1024-p2`), so it can be chosen
//! on the command line, stored in a checkpoint and read back. **The strategy decides the order of
//! the sums**, and with it the last bits of a result; the number of threads does not.

use super::plan::Blocking;
use crate::isa::IsaKind;
use crate::probe;
use std::fmt;
use std::str::FromStr;

/// How a product of a sparse layer is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The textbook loop over CSR ([`csr`](super::csr)).
    Csr,
    /// Pattern-sorted panels ([`spmm`](super::spmm), [`sddmm`](super::sddmm)).
    Panels(Blocking),
    /// Dense code: below the break-even sparsity. Products with W take a dense copy of it; of the
    /// weight gradient the elements at the non-zeros are kept.
    Dense,
}

/// The strategies of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Of Y = W · X.
    pub forward: Strategy,
    /// Of dX = Wᵀ · dY.
    pub input_gradient: Strategy,
    /// Of dW.
    pub weight_gradient: Strategy,
}

/// Panels by rows, tiles, columns of a K block, rows of a row block and K blocks of a pass.
fn panels(
    registers: usize,
    (panel_rows, vectors, k_block, row_block, k_pass): (usize, usize, usize, usize, usize),
) -> Strategy {
    // Two FMAs a cycle of four cycles each: eight independent sums, if there are registers for them.
    let unroll = if registers >= 32 && panel_rows * vectors <= 4 { 2 } else { 1 };
    Strategy::Panels(Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass })
}

impl Strategy {
    /// What the autotuner tries.
    pub fn candidates(registers: usize) -> Vec<Self> {
        let shapes: &[(usize, usize, usize, usize, usize)] = if registers >= 32 {
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
        let panels = shapes.iter().map(|&shape| panels(registers, shape));
        panels.chain([Self::Csr, Self::Dense]).collect()
    }
}

impl LayerPlan {
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
        let all = |strategy| Self {
            forward: strategy,
            input_gradient: strategy,
            weight_gradient: strategy,
        };
        match (density, registers) {
            (0.87.., _) => all(Strategy::Dense),
            (0.35.., 32..) => all(panels(registers, (4, 4, lines / 4, 1024, 2))),
            (0.2.., 32..) => all(panels(registers, (2, 4, lines / 4, 1024, 4))),
            (0.07.., 32..) => all(panels(registers, (2, 4, lines / 4, 2048, 8))),
            (0.35.., _) => Self {
                weight_gradient: panels(registers, (1, 4, 128, 1024, 4)),
                ..all(panels(registers, (2, 2, 256, 1024, 4)))
            },
            (0.07.., _) => all(panels(registers, (2, 2, 256, 1024, 4))),
            (0.02.., _) => all(panels(registers, (2, 2, 512, 2048, 8))),
            _ => all(panels(registers, (2, 2, 1024, 2048, 8))),
        }
    }

    /// The name under which the plan of a layer is kept in files: `OUTxIN@nnz`.
    pub fn key(rows: usize, columns: usize, nnz: usize) -> String {
        format!("{rows}x{columns}@{nnz}")
    }

    /// Textbook CSR for all three products.
    pub const CSR: Self = Self {
        forward: Strategy::Csr,
        input_gradient: Strategy::Csr,
        weight_gradient: Strategy::Csr,
    };

    /// Whether any product falls back to dense code.
    pub fn has_fallback(&self) -> bool {
        self.forward == Strategy::Dense
            || self.input_gradient == Strategy::Dense
            || self.weight_gradient == Strategy::Dense
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csr => f.write_str("csr"),
            Self::Dense => f.write_str("dense"),
            Self::Panels(Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass }) => {
                write!(
                    f,
                    "panels-r{panel_rows}-v{vectors}-u{unroll}-k{k_block}-m{row_block}-p{k_pass}"
                )
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

impl FromStr for Strategy {
    type Err = StrategyError;

    fn from_str(name: &str) -> Result<Self, StrategyError> {
        let panels = || {
            let letters = ["r", "v", "u", "k", "m", "p"];
            let [panel_rows, vectors, unroll, k_block, row_block, k_pass] =
                numbers(name, "panels", letters)?;
            let blocking = Blocking { panel_rows, vectors, unroll, k_block, row_block, k_pass };
            blocking.is_valid().then_some(Self::Panels(blocking))
        };
        match name {
            "csr" => Ok(Self::Csr),
            "dense" => Ok(Self::Dense),
            _ => panels().ok_or_else(|| StrategyError {
                name: name.into(),
                kind: "strategy of a product",
                expected: "csr, dense or panels-rR-vV-uU-kK-mM-pP with R and V of 1, 2, 4, \
                           U of 1, or of 2 where R × V ≤ 4, K up to 65536, M and P above 0",
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
                let plan = LayerPlan::estimate(density, registers, 32 << 10);
                assert_eq!(plan.to_string().parse(), Ok(plan));
            }
            for strategy in Strategy::candidates(registers) {
                assert_eq!(strategy.to_string().parse(), Ok(strategy));
            }
        }
        assert_eq!(LayerPlan::CSR.to_string(), "csr/csr/csr");
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "csr", "csr/csr", "csr/csr/csr/csr", "csr/csr/panels-r4-v4-u2-k1-m1-p1"] {
            assert!(name.parse::<LayerPlan>().is_err(), "{name}");
        }
        for name in ["panels", "panels-r3-v4-u1-k128-m1024-p2", "panels-r4-v4-u1-k0-m1-p1"] {
            let error = name.parse::<Strategy>().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("panels-rR-vV"), "{error}");
        }
        assert!("panels-r4-v4-u1-k128-m1024-p2-x".parse::<Strategy>().is_err());
        assert!("panels-r4-v4-u1-k99999-m1024-p2".parse::<Strategy>().is_err());
    }
}
