//! The instruction-set layer: sixteen-lane `f32` vectors.
//!
//! Every kernel is written once, generic over [`Isa`], whose vector always has [`LANES`](crate::LANES) lanes,
//! whatever the registers of the machine: one on AVX-512, two on AVX2, four on NEON. All
//! instruction sets use fused multiply-adds and the same reduction tree, so a kernel gives the same
//! bits on each of them.
//!
//! An [`Isa`] value is a proof that the CPU has the instructions: it comes from `detect` alone.
//! [`dispatch`] chooses one at run time; `MEDISWIFT_ISA` forces one, and it is an error to force
//! what the machine lacks.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod vector;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;
pub use vector::{Isa, Kernel};

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "MEDISWIFT_ISA";

/// The instruction sets this crate knows, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsaKind {
    /// AVX-512 F, VL, BW, DQ.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// 64-bit Arm NEON.
    Neon,
    /// Portable code.
    Scalar,
}

/// An instruction set was asked for that is unknown or that this machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of [`IsaKind::ALL`].
    #[error("unknown instruction set '{0}': choose avx512, avx2, neon or scalar")]
    Unknown(String),
    /// The CPU does not have it.
    #[error("instruction set '{0}' was asked for, but this CPU lacks it (it has: {1})")]
    Missing(&'static str, String),
}

impl IsaKind {
    /// Every kind, best first.
    pub const ALL: [IsaKind; 4] = [IsaKind::Avx512, IsaKind::Avx2, IsaKind::Neon, IsaKind::Scalar];

    /// The name used on the command line and in `MEDISWIFT_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Neon => "neon",
            IsaKind::Scalar => "scalar",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            IsaKind::Neon => Neon::detect().is_some(),
            IsaKind::Scalar => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Sixteen-lane vectors that its registers hold ([`Isa::REGISTERS`]).
    pub fn registers(self) -> usize {
        match self {
            IsaKind::Avx512 => 32,
            IsaKind::Avx2 | IsaKind::Neon | IsaKind::Scalar => 8,
        }
    }

    /// The kinds this machine has, best first.
    pub fn available() -> Vec<IsaKind> {
        Self::ALL.into_iter().filter(|kind| kind.is_available()).collect()
    }

    /// Looks a name up and checks that the machine has it.
    pub fn by_name(name: &str) -> Result<IsaKind, IsaError> {
        let kind = Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| IsaError::Unknown(name.to_string()))?;
        if kind.is_available() {
            return Ok(kind);
        }
        let have: Vec<_> = Self::available().into_iter().map(IsaKind::name).collect();
        Err(IsaError::Missing(kind.name(), have.join(", ")))
    }

    /// The kind every kernel of this process uses: the one `MEDISWIFT_ISA` names, else the best
    /// available. Decided once.
    pub fn active() -> Result<IsaKind, IsaError> {
        static ACTIVE: OnceLock<Result<IsaKind, IsaError>> = OnceLock::new();
        ACTIVE
            .get_or_init(|| match std::env::var(ISA_VARIABLE) {
                Ok(name) if !name.is_empty() => Self::by_name(&name),
                _ => Ok(Self::available()[0]),
            })
            .clone()
    }

    /// Runs `kernel` on this instruction set.
    /// # Panics
    /// If the machine lacks it.
    #[track_caller]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => Avx512::detect().expect("AVX-512 is missing").run(kernel),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => Avx2::detect().expect("AVX2 is missing").run(kernel),
            #[cfg(target_arch = "aarch64")]
            IsaKind::Neon => Neon::detect().expect("NEON is missing").run(kernel),
            IsaKind::Scalar => Scalar.run(kernel),
            #[allow(unreachable_patterns)]
            other => panic!("{} is missing on this architecture", other.name()),
        }
    }
}

impl std::fmt::Display for IsaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs `kernel` on the active instruction set ([`IsaKind::active`]).
/// # Panics
/// If `MEDISWIFT_ISA` names an instruction set that this machine lacks; programs check
/// [`IsaKind::active`] once at their start.
#[track_caller]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match IsaKind::active() {
        Ok(kind) => kind.run(kernel),
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests;
