//! Parallel loops over blocks, and how blocks share what they write.
//!
//! Every block writes memory of its own and a sum lies inside one block, in a fixed order: results
//! are bitwise the same for any thread count. How large blocks are may depend on the threads only
//! where it changes no sum.

use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// Runs `task(0), …, task(count − 1)` on the current rayon pool.
pub fn for_each_block(count: usize, task: impl Fn(usize) + Sync + Send) {
    match count {
        0 => {}
        1 => task(0),
        _ => (0..count).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Runs `task(i, chunk)` for every chunk of `len` elements of `data`, whose last may be shorter, on the
/// current rayon pool.
/// # Panics
/// If `len` is 0 and there is data.
#[track_caller]
pub fn for_each_chunk(
    data: &mut [f32],
    len: usize,
    task: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    match data.len() {
        0 => {}
        all if all <= len => task(0, data),
        _ => {
            let chunks = data.par_chunks_mut(len).with_max_len(1).enumerate();
            chunks.for_each(|(i, chunk)| task(i, chunk));
        }
    }
}

/// Runs `task` on every part of the work, on the current rayon pool.
pub fn for_each_part<P: Send>(parts: Vec<P>, task: impl Fn(P) + Sync + Send) {
    match parts.len() {
        0 | 1 => parts.into_iter().for_each(task),
        _ => parts.into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Some rows and columns of a row-major matrix: a block's own part, which no other block can reach.
///
/// A part is made of a whole matrix and cut into smaller ones.
pub struct Part<'a> {
    /// First element.
    start: *mut f32,
    rows: usize,
    columns: usize,
    /// Distance of the rows.
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a part is the one way to its elements, like a mutable slice.
unsafe impl Send for Part<'_> {}
// SAFETY: a shared part gives nothing away.
unsafe impl Sync for Part<'_> {}

impl<'a> Part<'a> {
    /// A whole matrix with rows of `columns` elements.
    /// # Panics
    /// If `data` is not made of whole rows.
    #[track_caller]
    pub fn whole(data: &'a mut [f32], columns: usize) -> Self {
        assert!(data.len().is_multiple_of(columns), "matrix is not made of rows of {columns}");
        let rows = data.len().checked_div(columns).unwrap_or(0);
        let start = data.as_mut_ptr();
        Self { start, rows, columns, stride: columns, matrix: PhantomData }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Parts of `rows` rows each, of which the last may have fewer.
    /// # Panics
    /// If `rows` is 0.
    #[track_caller]
    pub fn into_rows(self, rows: usize) -> Vec<Self> {
        let starts = (0..self.rows).step_by(rows);
        let part = |first: usize| {
            let rows = rows.min(self.rows - first);
            self.sub(first, rows, 0, self.columns)
        };
        starts.map(part).collect()
    }

    /// Parts of `columns` columns each, of which the last may have fewer.
    /// # Panics
    /// If `columns` is 0.
    #[track_caller]
    pub fn into_columns(self, columns: usize) -> Vec<Self> {
        let starts = (0..self.columns).step_by(columns);
        let part = |first: usize| {
            let columns = columns.min(self.columns - first);
            self.sub(0, self.rows, first, columns)
        };
        starts.map(part).collect()
    }

    /// A part of the part; those that a caller makes of one do not overlap.
    fn sub(&self, row: usize, rows: usize, column: usize, columns: usize) -> Self {
        // Without rows there may be no such place, and nobody goes there.
        let start = self.start.wrapping_add(row * self.stride + column);
        Self { start, rows, columns, ..*self }
    }

    /// The elements of one row.
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    #[track_caller]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of a part of {}", self.rows);
        // SAFETY: the row lies inside the matrix, and its elements of these columns belong to this
        // part alone, which is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }

    /// The first element of the first of some rows, and the distance of the rows.
    /// # Panics
    /// If there are no such rows, or they have fewer than `len` elements.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn pointer(&mut self, rows: Range<usize>, len: usize) -> (*mut f32, usize) {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(len <= self.columns, "{len} elements of rows of {}", self.columns);
        (self.start.wrapping_add(rows.start * self.stride), self.stride)
    }
}

/// A pointer that blocks of a parallel loop share, each to write elements of its own: for kernels,
/// whose blocks are no chunks and no [`Part`]s.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a>(*mut f32, PhantomData<&'a mut [f32]>);

// SAFETY: the pointer is only dereferenced through `get`, whose callers promise disjoint access.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    /// Shares `slice` for as long as it is borrowed.
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self(slice.as_mut_ptr(), PhantomData)
    }

    /// The pointer to element `offset`.
    /// # Safety
    /// `offset` lies inside the slice, and no two concurrent users touch the same element.
    #[inline(always)]
    pub(crate) unsafe fn get(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller promises that the offset is in bounds.
        unsafe { self.0.add(offset) }
    }

    /// The elements `from..from + len` as a slice of this block's own.
    /// # Safety
    /// The range lies inside the shared slice, and no concurrent user touches any of it.
    #[inline(always)]
    pub(crate) unsafe fn slice(self, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller promises a range in bounds and exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_matrix_once() {
        let mut data = vec![0.0; 7 * 10];
        let blocks = Part::whole(&mut data, 10).into_columns(4);
        let parts: Vec<Part<'_>> = blocks.into_iter().flat_map(|part| part.into_rows(3)).collect();
        assert_eq!(parts.len(), 9);
        for_each_part(parts.into_iter().enumerate().collect(), |(i, mut part)| {
            for row in 0..part.rows() {
                part.row(row).iter_mut().for_each(|x| *x += 1.0 + i as f32);
            }
        });
        for (at, &x) in data.iter().enumerate() {
            assert_eq!(x, 1.0 + (at % 10 / 4 * 3 + at / 10 / 3) as f32);
        }
        assert!(Part::whole(&mut [], 0).into_columns(4).is_empty());
        assert!(Part::whole(&mut [], 5).into_rows(4).is_empty());
    }

    #[test]
    #[should_panic(expected = "row 2 of a part of 2")]
    fn rows_of_other_parts_are_out_of_reach() {
        let mut data = vec![0.0; 12];
        let mut parts = Part::whole(&mut data, 3).into_rows(2);
        parts[0].row(2)[0] = 1.0;
    }
}
