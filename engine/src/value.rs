//! [`Value`]: what a tape keeps of what an operator computed.

use crate::{Need, Operand, Tiles};
use mediswift_kernels::{AlignedBuffer, HalfTiles, half_words};

/// A value of the forward pass, or what is left of it.
pub(crate) enum Value {
    Gone,
    Rounded(HalfTiles<AlignedBuffer>),
    Exact(Tiles),
}

impl Value {
    /// As operators read it.
    pub(crate) fn operand(&self) -> Operand<'_> {
        match self {
            Value::Gone => Operand::Gone,
            Value::Rounded(tiles) => Operand::Rounded(tiles),
            Value::Exact(tiles) => Operand::Exact(tiles),
        }
    }

    /// What a need leaves of tiles, in a buffer that `take` finds for so many words.
    pub(crate) fn left(
        tiles: &Tiles,
        need: Need,
        take: impl FnOnce(usize) -> AlignedBuffer,
    ) -> Self {
        match need {
            Need::Nothing => Value::Gone,
            Need::Rounded(precision) => {
                let buffer = take(half_words(tiles.layout().tiles(), tiles.features()));
                let (data, features) = (tiles.data(), tiles.features());
                Value::Rounded(HalfTiles::rounded_in(buffer, precision, data, features))
            }
            Need::Exact => Value::Exact(tiles.clone()),
        }
    }

    /// The buffer, if there is one.
    pub(crate) fn into_buffer(self) -> Option<AlignedBuffer> {
        match self {
            Value::Gone => None,
            Value::Rounded(tiles) => Some(tiles.into_buffer()),
            Value::Exact(tiles) => Some(tiles.into_buffer()),
        }
    }
}
