//! Dense code: for dense weights, and for sparse ones below the break-even sparsity.
//!
//! A dense weight `[out, in]` is read where it is by the forward product. Products with a sparse W take
//! a dense copy of it; of its weight gradient the elements at the non-zeros are kept. Wᵀ is packed for
//! the first input gradient and brought up to date from then on, so that what never runs backward
//! never holds it.
//!
//! Three families without tile sizes, one for each kind of [`Words`], each with its products in a file.

mod halves;
mod numbers;
mod pairs;
mod sampled;

use super::{Family, Method, Planned, Strategy};
use crate::isa::IsaKind;
use crate::ops::arithmetic::Words;
use crate::ops::product::Product;
use crate::{Precision, SparsePattern};
use std::sync::Arc;

pub(super) const NUMBERS: Family = Family {
    grammar: "dense",
    parse: |name| named(name, Words::Numbers),
    candidates: |_| vec![strategy(Words::Numbers)],
};

pub(super) const PAIRS: Family = Family {
    grammar: "dense-pairs, of bf16 alone",
    parse: |name| named(name, Words::Pairs),
    candidates: |registers| with_registers(registers, Words::Pairs),
};

pub(super) const HALVES: Family = Family {
    grammar: "dense-halves, of f16 alone",
    parse: |name| named(name, Words::Halves),
    candidates: |registers| with_registers(registers, Words::Halves),
};

/// The strategy of a kind of words.
pub(in crate::ops) fn strategy(words: Words) -> Strategy {
    Strategy::new(Dense(words))
}

fn named(name: &str, words: Words) -> Option<Strategy> {
    (Dense(words).name() == name).then(|| strategy(words))
}

fn with_registers(registers: usize, words: Words) -> Vec<Strategy> {
    if registers >= 32 { vec![strategy(words)] } else { Vec::new() }
}

struct Dense(Words);

impl Method for Dense {
    fn name(&self) -> String {
        let name = match self.0 {
            Words::Numbers => "dense",
            Words::Pairs => "dense-pairs",
            Words::Halves => "dense-halves",
        };
        name.into()
    }

    fn precisions(&self) -> &[Precision] {
        self.0.precisions()
    }

    fn is_dense(&self) -> bool {
        true
    }

    fn plan(
        &self,
        isa: IsaKind,
        pattern: &Arc<SparsePattern>,
        products: &[Product],
        precision: Precision,
    ) -> Box<dyn Planned> {
        match self.0 {
            Words::Numbers => numbers::of_sparse(isa, precision, pattern, products),
            Words::Pairs => pairs::of_sparse(isa, pattern, products),
            Words::Halves => halves::of_sparse(isa, pattern, products),
        }
    }
}

/// Products with a dense weight `[rows, columns]`.
pub(in crate::ops) fn planned(
    isa: IsaKind,
    precision: Precision,
    rows: usize,
    columns: usize,
    products: &[Product],
) -> Box<dyn Planned> {
    match Words::of(precision, isa) {
        Words::Numbers => numbers::planned(isa, precision, rows, columns, products),
        Words::Pairs => pairs::planned(isa, rows, columns, products),
        Words::Halves => halves::planned(isa, rows, columns, products),
    }
}
