//! Lines: the sixteen token lanes of one feature, as arrays.

use mediswift_kernels::LANES;
use mediswift_kernels::isa::Isa;

/// One feature of one tile.
pub(super) type Line = [f32; LANES];

/// Elements per task of an elementwise operator: 32 KB of each operand.
pub(super) const BLOCK: usize = 1 << 13;

/// A slice of whole lines.
#[inline(always)]
pub(super) fn lines(data: &[f32]) -> &[Line] {
    data.as_chunks().0
}

/// A slice of whole lines, to change.
#[inline(always)]
pub(super) fn lines_mut(data: &mut [f32]) -> &mut [Line] {
    data.as_chunks_mut().0
}

/// Reads a line.
#[inline(always)]
pub(super) fn load<I: Isa>(isa: I, line: &Line) -> I::V {
    isa.load_line(line)
}

/// Writes a line.
#[inline(always)]
pub(super) fn store<I: Isa>(isa: I, line: &mut Line, v: I::V) {
    isa.store_line(line, v);
}

/// Writes a line, or adds to it.
#[inline(always)]
pub(super) fn put<I: Isa>(isa: I, line: &mut Line, v: I::V, accumulate: bool) {
    let v = if accumulate { isa.add(load(isa, line), v) } else { v };
    store(isa, line, v);
}

/// Reads up to sixteen values, and zeros after them.
#[inline(always)]
pub(super) fn load_part<I: Isa>(isa: I, part: &[f32]) -> I::V {
    match part.first_chunk() {
        Some(line) => load(isa, line),
        None => {
            let mut line = [0.0; LANES];
            line[..part.len()].copy_from_slice(part);
            load(isa, &line)
        }
    }
}

/// Adds the first lanes to up to sixteen values.
#[inline(always)]
pub(super) fn add_part<I: Isa>(isa: I, part: &mut [f32], v: I::V) {
    match part.first_chunk_mut() {
        Some(line) => put(isa, line, v, true),
        None => {
            for (value, v) in part.iter_mut().zip(isa.to_array(v)) {
                *value += v;
            }
        }
    }
}
