//! Parallel loops over blocks.
//!
//! Every block writes memory of its own and a sum lies inside one block, in a fixed order: results
//! are bitwise the same for any thread count. How large blocks are may depend on the threads only
//! where it changes no sum.

use rayon::prelude::*;

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
        _ => data
            .par_chunks_mut(len)
            .with_max_len(1)
            .enumerate()
            .for_each(|(i, chunk)| task(i, chunk)),
    }
}

/// A pointer that blocks of a parallel loop share, each to write elements of its own.
#[derive(Clone, Copy)]
pub struct SharedMut(*mut f32);

// SAFETY: the pointer is only dereferenced through `get`, whose callers promise disjoint access.
unsafe impl Send for SharedMut {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// Shares `slice` for the lifetime of the caller's mutable borrow.
    pub fn new(slice: &mut [f32]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The pointer to element `offset`.
    /// # Safety
    /// `offset` lies inside the slice, and no two concurrent users touch the same element.
    #[inline(always)]
    pub unsafe fn get(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller promises that the offset is in bounds.
        unsafe { self.0.add(offset) }
    }

    /// The elements `from..from + len` as a slice of this block's own.
    /// # Safety
    /// The range lies inside the shared slice, and no concurrent user touches any of it.
    #[inline(always)]
    pub unsafe fn slice<'a>(self, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller promises a range in bounds and exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), len) }
    }
}
