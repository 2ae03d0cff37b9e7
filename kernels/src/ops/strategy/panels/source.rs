//! [`Sources`]: where packed values come from, in two bytes each.

/// In the place of a CSR position: a zero that is no value of the matrix.
pub(super) const ZERO: u32 = u32::MAX;

/// The same beside the first non-zero of a row.
const NEAR_ZERO: u16 = u16::MAX;

/// The CSR position of every packed value, or [`ZERO`]: how far it is behind the first non-zero of its row, which
/// whoever walks the panels knows.
pub(super) enum Sources {
    /// Of a matrix in which no row has more than 65,535 non-zeros.
    Near(Vec<u16>),
    /// The positions as they are.
    Far(Vec<u32>),
}

impl Sources {
    /// None yet, of a matrix with so many non-zeros in its longest row, and room for `len`.
    pub(super) fn with_room(longest_row: usize, len: usize) -> Self {
        if longest_row <= usize::from(NEAR_ZERO) {
            Sources::Near(Vec::with_capacity(len))
        } else {
            Sources::Far(Vec::with_capacity(len))
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Sources::Near(all) => all.len(),
            Sources::Far(all) => all.len(),
        }
    }

    pub(super) fn shrink_to_fit(&mut self) {
        match self {
            Sources::Near(all) => all.shrink_to_fit(),
            Sources::Far(all) => all.shrink_to_fit(),
        }
    }

    /// Adds CSR positions, of values whose rows begin at the `heads`.
    pub(super) fn extend(&mut self, positions: &[u32], heads: &[u32]) {
        let near = |(&position, head)| match position {
            ZERO => NEAR_ZERO,
            _ => (position - head) as u16,
        };
        match self {
            Sources::Near(all) => all.extend(positions.iter().zip(heads).map(near)),
            Sources::Far(all) => all.extend_from_slice(positions),
        }
    }

    /// Adds those of another of the same matrix.
    pub(super) fn append(&mut self, other: &Self) {
        match (self, other) {
            (Sources::Near(all), Sources::Near(other)) => all.extend_from_slice(other),
            (Sources::Far(all), Sources::Far(other)) => all.extend_from_slice(other),
            _ => unreachable!("both are of one matrix"),
        }
    }
}

/// The CSR position of a value, or [`ZERO`], from that of the first non-zero of its row.
#[inline(always)]
pub(super) fn position(head: u32, near: u16) -> u32 {
    if near == NEAR_ZERO { ZERO } else { head + u32::from(near) }
}
