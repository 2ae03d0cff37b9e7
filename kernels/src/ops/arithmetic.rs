//! Kernels whose loops are the same for numbers and for pairs of bf16 in the place of each.

use crate::isa::{Isa, IsaKind, Kernel};

/// A kernel that multiplies by [`multiply_add`].
pub(super) trait Multiplication {
    /// The code, as [`Kernel::run`].
    fn run<I: Isa, const PAIRS: bool>(self, isa: I);
}

/// Runs it on an instruction set, with pairs or with numbers.
/// # Panics
/// If the machine lacks it.
#[track_caller]
pub(super) fn run(isa: IsaKind, pairs: bool, work: impl Multiplication) {
    match pairs {
        true => isa.run_pairs(Pairs(work)),
        false => isa.run(Numbers(work)),
    }
}

/// `a · b + c`: of a number in each lane rounded once, of two as [`Isa::dot`].
#[inline(always)]
pub(super) fn multiply_add<I: Isa, const PAIRS: bool>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V {
    if PAIRS { isa.dot(a, b, c) } else { isa.fma(a, b, c) }
}

struct Numbers<M>(M);

impl<M: Multiplication> Kernel for Numbers<M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        self.0.run::<I, false>(isa);
    }
}

struct Pairs<M>(M);

impl<M: Multiplication> Kernel for Pairs<M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        self.0.run::<I, true>(isa);
    }
}
