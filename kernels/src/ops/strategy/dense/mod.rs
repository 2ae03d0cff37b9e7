//! Dense code: for dense weights, and for sparse ones below the break-even sparsity.
//!
//! A dense weight `[out, in]` is read where it is by the forward product. Products with a sparse W take
//! a dense copy of it; of its weight gradient the elements at the non-zeros are kept. Wᵀ is packed for
//! the first input gradient and brought up to date from then on, so that what never runs backward
//! never holds it.

mod halves;
mod numbers;
mod pairs;
mod sampled;

pub(super) use self::halves::FAMILY as HALVES;
pub(super) use self::numbers::FAMILY;
pub(super) use self::pairs::FAMILY as PAIRS;

use super::{Planned, Strategy};
use crate::Precision;
use crate::isa::IsaKind;

/// The strategy of a precision on an instruction set; there is one, without tile sizes.
pub(in crate::ops) fn strategy(precision: Precision, isa: IsaKind) -> Strategy {
    match precision {
        Precision::Bf16 if isa.multiplies(precision) => Strategy::new(pairs::DensePairs),
        Precision::F16 if isa.multiplies(precision) => Strategy::new(halves::DenseHalves),
        _ => Strategy::new(numbers::Dense),
    }
}

/// All products of a dense weight `[rows, columns]`.
pub(in crate::ops) fn planned(
    isa: IsaKind,
    precision: Precision,
    rows: usize,
    columns: usize,
) -> Box<dyn Planned> {
    match precision {
        Precision::Bf16 if isa.multiplies(precision) => pairs::planned(isa, rows, columns),
        Precision::F16 if isa.multiplies(precision) => halves::planned(isa, rows, columns),
        _ => numbers::planned(isa, precision, rows, columns),
    }
}
