//! The instruction-set layer: sixteen-lane `f32` vectors.
//!
//! Every kernel is written once, generic over [`Isa`], whose vector always has [`LANES`](crate::LANES) lanes,
//! whatever the registers of the machine: one on AVX-512, two on AVX2, four on NEON. All
//! instruction sets use fused multiply-adds and the same reduction tree, so a kernel gives the same
//! bits on each of them. Products of [pairs](Isa::dot) alone are those of the architecture: Arm's instruction rounds
//! otherwise than x86's, and each is imitated on CPUs of its architecture that lack it.
//!
//! An [`Isa`] value is a proof that the CPU has the instructions: it comes from `detect` alone.
//! [`dispatch`] chooses one at run time; `MEDISWIFT_ISA` forces one, and it is an error to force
//! what the machine lacks.

mod half_words;
pub mod math;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod pairs;
mod vector;

use crate::Precision;
use std::sync::OnceLock;

pub use vector::{Isa, Kernel};

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "MEDISWIFT_ISA";

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use self::{
    avx2::Avx2,
    avx512::{Avx512, Avx512Bf16, Avx512Fp16},
};
#[cfg(target_arch = "aarch64")]
pub use neon::{Neon, NeonBf16, NeonFp16};
pub use scalar::Scalar;

/// Declares instruction sets, best first: the type, its name, and the architecture that it is compiled
/// for. The kinds are known on every machine.
macro_rules! instruction_sets {
    // A method of the kind that runs a kernel by the method of that name of its type.
    (@runner #[doc = $about:literal] $run:ident; $($name:ident $(on $arch:literal)?),+) => {
        #[doc = $about]
        /// # Panics
        /// If the machine lacks it.
        #[track_caller]
        pub fn $run<K: Kernel>(self, kernel: K) -> K::Output {
            match self {
                $(
                    $(#[cfg(target_arch = $arch)])?
                    IsaKind::$name => match $name::detect() {
                        Some(isa) => isa.$run(kernel),
                        None => panic!("this CPU lacks {self}"),
                    },
                )+
                #[allow(unreachable_patterns)]
                _ => panic!("{self} is missing on this architecture"),
            }
        }
    };
    ($(#[doc = $about:literal] $name:ident: $label:literal $(on $arch:literal)?, registers $registers:literal;)+) => {

        /// The instruction sets this crate knows, best first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum IsaKind {
            $(#[doc = $about] $name,)+
        }

        impl IsaKind {
            /// Every kind, best first.
            pub const ALL: &[IsaKind] = &[$(IsaKind::$name),+];

            /// The name used on the command line and in `MEDISWIFT_ISA`.
            pub fn name(self) -> &'static str {
                match self {
                    $(IsaKind::$name => $label,)+
                }
            }

            /// Sixteen-lane vectors that its registers hold ([`Isa::REGISTERS`]).
            pub fn registers(self) -> usize {
                match self {
                    $(IsaKind::$name => $registers,)+
                }
            }

            /// Whether this machine has it.
            pub fn is_available(self) -> bool {
                match self {
                    $(
                        $(#[cfg(target_arch = $arch)])?
                        IsaKind::$name => $name::detect().is_some(),
                    )+
                    #[allow(unreachable_patterns)]
                    _ => false,
                }
            }

            instruction_sets!(
                @runner
                /// Runs `kernel` on this instruction set.
                run; $($name $(on $arch)?),+
            );
            instruction_sets!(
                @runner
                /// Runs a kernel of [pairs](Isa::dot) on this instruction set.
                run_pairs; $($name $(on $arch)?),+
            );
            instruction_sets!(
                @runner
                /// Runs a kernel of [halves](Isa::fma_halves) on this instruction set.
                run_halves; $($name $(on $arch)?),+
            );
        }
    };
}

instruction_sets! {
    /// AVX-512 F, VL, BW, DQ and BF16, which multiplies pairs of bf16.
    Avx512Bf16: "avx512bf16" on "x86_64", registers 32;
    /// AVX-512 F, VL, BW, DQ and FP16, which multiplies 32 f16 at once.
    Avx512Fp16: "avx512fp16" on "x86_64", registers 32;
    /// AVX-512 F, VL, BW, DQ.
    Avx512: "avx512" on "x86_64", registers 32;
    /// AVX2 with FMA and F16C.
    Avx2: "avx2" on "x86_64", registers 8;
    /// 64-bit Arm NEON with FP16 and BF16, which multiplies pairs of bf16, and eight f16 at once.
    NeonBf16: "neonbf16" on "aarch64", registers 8;
    /// 64-bit Arm NEON with FP16.
    NeonFp16: "neonfp16" on "aarch64", registers 8;
    /// 64-bit Arm NEON.
    Neon: "neon" on "aarch64", registers 8;
    /// Portable code.
    Scalar: "scalar", registers 8;
}

/// An instruction set was asked for that is unknown or that this machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of [`IsaKind::ALL`].
    #[error("unknown instruction set '{0}': choose {names}", names = IsaKind::names())]
    Unknown(String),
    /// The CPU does not have it.
    #[error("instruction set '{0}' was asked for, but this CPU lacks it (it has: {1})")]
    Missing(&'static str, String),
    /// The kernels of this process use another one already.
    #[error("instruction set '{0}' was decided on, but '{1}' is in use already")]
    InUse(&'static str, &'static str),
}

impl IsaKind {
    /// The names of all, as a sentence lists them.
    pub fn names() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
        let (last, others) = names.split_last().expect("there are kinds");
        format!("{} or {last}", others.join(", "))
    }

    /// Whether it has instructions that multiply numbers of a precision as they are, two in the time of one of `f32`:
    /// [`Isa::dot`] for bf16, [`Isa::fma_halves`] for f16. Those of `f32` are multiplied by all.
    pub fn multiplies(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => true,
            Precision::Bf16 => matches!(self, IsaKind::Avx512Bf16 | IsaKind::NeonBf16),
            Precision::F16 => {
                matches!(self, IsaKind::Avx512Fp16 | IsaKind::NeonFp16 | IsaKind::NeonBf16)
            }
        }
    }

    /// The kinds this machine has, best first.
    pub fn available() -> Vec<IsaKind> {
        Self::ALL.iter().copied().filter(|kind| kind.is_available()).collect()
    }

    /// Looks a name up and checks that the machine has it.
    pub fn by_name(name: &str) -> Result<IsaKind, IsaError> {
        let kind = Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| IsaError::Unknown(name.to_string()))?;
        if kind.is_available() {
            return Ok(kind);
        }
        Err(kind.missing())
    }

    fn missing(self) -> IsaError {
        let have: Vec<_> = Self::available().into_iter().map(IsaKind::name).collect();
        IsaError::Missing(self.name(), have.join(", "))
    }

    /// Whether what it has besides the next kind is faster too. CPUs are known that multiply pairs at a quarter
    /// of the speed of an FMA (Intel's Emerald Rapids), so it is measured, once; all else is.
    fn pays(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        type OfPairs = Avx512Bf16;
        #[cfg(target_arch = "aarch64")]
        type OfPairs = NeonBf16;
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if let (true, Some(isa)) = (self.multiplies(Precision::Bf16), OfPairs::detect()) {
            static PAYS: OnceLock<bool> = OnceLock::new();
            return *PAYS.get_or_init(|| pairs::are_fast(isa));
        }
        true
    }

    /// The kind that `MEDISWIFT_ISA` names, else the best available that is faster than those after it.
    pub fn preferred() -> Result<IsaKind, IsaError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::by_name(&name),
            _ => Ok(Self::available().into_iter().find(|kind| kind.pays()).unwrap_or(Self::Scalar)),
        }
    }

    /// The kind every kernel of this process uses: the one [decided](Self::decide) on, else the
    /// [preferred](Self::preferred) one. From the first call on it stays the same.
    pub fn active() -> Result<IsaKind, IsaError> {
        ACTIVE.get_or_init(Self::preferred).clone()
    }

    /// Lets every kernel of this process use this kind, for programs that know better than one
    /// machine can. Comes before anything computes.
    /// # Errors
    /// If this machine lacks it, or another one is in use already.
    pub fn decide(self) -> Result<(), IsaError> {
        if !self.is_available() {
            return Err(self.missing());
        }
        match ACTIVE.get_or_init(|| Ok(self)).clone()? {
            active if active == self => Ok(()),
            active => Err(IsaError::InUse(self.name(), active.name())),
        }
    }
}

/// What [`IsaKind::active`] says, once it is asked.
static ACTIVE: OnceLock<Result<IsaKind, IsaError>> = OnceLock::new();

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
