//! Copies in another order: values in that of a product, and lines of several tiles side by side.

use crate::LANES;
use crate::isa::Isa;
use crate::parallel::for_each_chunk;
use std::ops::Range;

/// Values packed per parallel task.
const PACK_BLOCK: usize = 1 << 15;

/// packed[i] = values[source[i]], or 0 where `source` names no value.
pub(super) fn gather_values(values: &[f32], source: &[u32], packed: &mut [f32]) {
    assert_eq!(packed.len(), source.len(), "one source per value is needed");
    for_each_chunk(packed, PACK_BLOCK, |block, packed| {
        for (packed, &at) in packed.iter_mut().zip(&source[block * PACK_BLOCK..]) {
            *packed = values.get(at as usize).copied().unwrap_or(0.0);
        }
    });
}

/// How micro-kernels get their operand into L1: the lines of `columns` in `V` tiles from `tile`, as
/// `[column][tile][LANES]`, one tile as it lies, several gathered into `lines`. Side by side they need
/// one address, and power-of-two strides between tiles cannot make them fight for the same sets of L1.
#[inline(always)]
pub(super) fn gather_tiles<'a, I: Isa, const V: usize>(
    isa: I,
    x: &'a [f32],
    features: usize,
    tile: usize,
    columns: Range<usize>,
    lines: &'a mut [f32],
) -> &'a [f32] {
    let of = |v: usize| {
        let from = ((tile + v) * features + columns.start) * LANES;
        &x[from..from + columns.len() * LANES]
    };
    if V == 1 {
        return of(0);
    }
    let lines = &mut lines[..columns.len() * V * LANES];
    for v in 0..V {
        for (from, to) in of(v).chunks_exact(LANES).zip(lines.chunks_exact_mut(V * LANES)) {
            // SAFETY: `from` holds one line and `to` V of them, v < V.
            unsafe { isa.store(to.as_mut_ptr().add(v * LANES), isa.load(from.as_ptr())) };
        }
    }
    lines
}
