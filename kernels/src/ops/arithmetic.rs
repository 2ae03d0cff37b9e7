//! What a word of 32 bits holds in a kernel, and how words are multiplied: loops over words are the same for all.

use crate::Precision;
use crate::isa::{Isa, IsaKind, Kernel};

/// What the words of a kernel's operands hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// A number of `f32`.
    Numbers,
    /// Two bf16 of a row, or of neighbouring tokens: their products are added up ([`Isa::dot`]).
    Pairs,
    /// Two f16 of neighbouring tokens, each for itself ([`Isa::fma_halves`]); of a weight, twice the same.
    Halves,
}

impl Words {
    /// Tiles that a register of words has tokens of.
    pub(super) const fn tiles(self) -> usize {
        match self {
            Words::Numbers | Words::Pairs => 1,
            Words::Halves => 2,
        }
    }

    /// What numbers of a precision are multiplied as on an instruction set.
    pub fn of(precision: Precision, isa: IsaKind) -> Self {
        match precision {
            Precision::Bf16 if isa.multiplies(precision) => Words::Pairs,
            Precision::F16 if isa.multiplies(precision) => Words::Halves,
            _ => Words::Numbers,
        }
    }

    /// The precisions whose numbers they can hold; those of 16 bits become numbers when they are widened.
    pub(super) fn precisions(self) -> &'static [Precision] {
        match self {
            Words::Numbers => &Precision::ALL,
            Words::Pairs => &[Precision::Bf16],
            Words::Halves => &[Precision::F16],
        }
    }

    /// Whether an instruction set multiplies them by an instruction. Emulations run for their bits alone, so what
    /// changes none is compiled for them in one size.
    pub(super) const fn is_native<I: Isa>(self) -> bool {
        match self {
            Words::Numbers => true,
            Words::Pairs => I::MULTIPLIES_PAIRS,
            Words::Halves => I::MULTIPLIES_HALVES,
        }
    }
}

/// The arithmetic of one kind of words.
pub trait Arithmetic {
    /// The kind.
    const WORDS: Words;
    /// Whether words are pairs.
    const PAIRS: bool = matches!(Self::WORDS, Words::Pairs);
    /// Whether words are halves.
    const HALVES: bool = matches!(Self::WORDS, Words::Halves);

    /// Runs a kernel that multiplies such words compiled for an instruction set.
    /// # Panics
    /// If the machine lacks it.
    #[track_caller]
    fn run<K: Kernel>(isa: IsaKind, kernel: K) -> K::Output;

    /// The same for a part of such a kernel, which is compiled as a function of its own.
    fn run_on<I: Isa, K: Kernel>(isa: I, kernel: K) -> K::Output;

    /// `a · b + c`.
    fn multiply_add<I: Isa>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V;

    /// `a · b`, the first product of a sum.
    #[inline(always)]
    fn multiply<I: Isa>(isa: I, a: I::V, b: I::V) -> I::V {
        Self::multiply_add(isa, a, b, isa.splat(0.0))
    }

    /// `f32` sums over parts of four sums of products, for [`Isa::sum_over_quarters`] to complete.
    #[inline(always)]
    fn sum_within_quarters<I: Isa>(isa: I, sums: [I::V; 4]) -> I::V {
        isa.sum_within_quarters(sums)
    }
}

/// [`Words::Numbers`].
#[derive(Clone, Copy)]
pub struct Numbers;

impl Arithmetic for Numbers {
    const WORDS: Words = Words::Numbers;

    fn run<K: Kernel>(isa: IsaKind, kernel: K) -> K::Output {
        isa.run(kernel)
    }

    #[inline(always)]
    fn run_on<I: Isa, K: Kernel>(isa: I, kernel: K) -> K::Output {
        isa.run(kernel)
    }

    #[inline(always)]
    fn multiply_add<I: Isa>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V {
        isa.fma(a, b, c)
    }

    #[inline(always)]
    fn multiply<I: Isa>(isa: I, a: I::V, b: I::V) -> I::V {
        isa.mul(a, b)
    }
}

/// [`Words::Pairs`].
#[derive(Clone, Copy)]
pub struct Pairs;

impl Arithmetic for Pairs {
    const WORDS: Words = Words::Pairs;

    fn run<K: Kernel>(isa: IsaKind, kernel: K) -> K::Output {
        isa.run_pairs(kernel)
    }

    #[inline(always)]
    fn run_on<I: Isa, K: Kernel>(isa: I, kernel: K) -> K::Output {
        isa.run_pairs(kernel)
    }

    #[inline(always)]
    fn multiply_add<I: Isa>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V {
        isa.dot(a, b, c)
    }
}

/// [`Words::Halves`].
pub(super) struct Halves;

impl Arithmetic for Halves {
    const WORDS: Words = Words::Halves;

    fn run<K: Kernel>(isa: IsaKind, kernel: K) -> K::Output {
        isa.run_halves(kernel)
    }

    #[inline(always)]
    fn run_on<I: Isa, K: Kernel>(isa: I, kernel: K) -> K::Output {
        isa.run_halves(kernel)
    }

    #[inline(always)]
    fn multiply_add<I: Isa>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V {
        isa.fma_halves(a, b, c)
    }

    #[inline(always)]
    fn sum_within_quarters<I: Isa>(isa: I, sums: [I::V; 4]) -> I::V {
        isa.sum_halves(sums)
    }
}

/// A kernel over words.
pub(super) trait Multiplication {
    /// The code, as [`Kernel::run`].
    fn run<I: Isa, W: Arithmetic>(self, isa: I);
}

/// Runs it on an instruction set, over words of a kind.
/// # Panics
/// If the machine lacks it.
#[track_caller]
pub(super) fn run(isa: IsaKind, words: Words, work: impl Multiplication) {
    match words {
        Words::Numbers => Numbers::run(isa, Over(work, Numbers)),
        Words::Pairs => Pairs::run(isa, Over(work, Pairs)),
        Words::Halves => Halves::run(isa, Over(work, Halves)),
    }
}

struct Over<M, W>(M, W);

impl<M: Multiplication, W: Arithmetic> Kernel for Over<M, W> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        self.0.run::<I, W>(isa);
    }
}
