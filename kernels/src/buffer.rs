//! Cache-line aligned storage.

use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// A quarter of a cache line. It is the unit of allocation because memory of no more than this alignment comes from
/// the system as zeros, while stricter ones would have all of it written, by one thread, before it is used.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
struct Quarter([u8; QUARTER]);

/// Bytes of a [`Quarter`].
const QUARTER: usize = LINE / 4;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A fixed-length buffer whose first element lies on a cache-line boundary. The size of an element
/// divides the line.
pub struct AlignedBuffer<E: Pod = f32> {
    /// Never grows, so that the boundary stays where it is.
    quarters: Vec<Quarter>,
    /// The first one on a boundary.
    first: usize,
    len: usize,
    element: PhantomData<E>,
}

impl<E: Pod> AlignedBuffer<E> {
    /// Elements of a cache line.
    pub const PER_LINE: usize = {
        assert!(LINE.is_multiple_of(size_of::<E>()), "elements must fill a line");
        LINE / size_of::<E>()
    };

    /// A buffer of `len` zeros (pages come zeroed from the system, so large ones cost nothing yet).
    pub fn zeros(len: usize) -> Self {
        let lines = len.div_ceil(Self::PER_LINE);
        // As many more as may lie before the boundary.
        let spare = if lines == 0 { 0 } else { 3 };
        let mut quarters = bytemuck::zeroed_vec(4 * lines + spare);
        ask_for_huge_pages(&mut quarters);
        let before = quarters.as_ptr() as usize % LINE / QUARTER;
        let first = if lines == 0 { 0 } else { (4 - before) % 4 };
        Self { quarters, first, len, element: PhantomData }
    }

    /// A buffer holding a copy of `values`.
    pub fn from_slice(values: &[E]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl<E: Pod> Clone for AlignedBuffer<E> {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl<E: Pod> Default for AlignedBuffer<E> {
    fn default() -> Self {
        Self::zeros(0)
    }
}

/// Has the system back a large buffer by huge pages, if it will: kernels walk over many tiles at once,
/// each on pages of its own, and would wait for translations (3 to 4 % of their time when measured).
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(quarters: &mut [Quarter]) {
    use rustix::mm::{Advice, madvise};
    const HUGE: usize = 2 << 20;
    let range = quarters.as_mut_ptr_range();
    let first = (range.start as usize).next_multiple_of(HUGE);
    let end = range.end as usize / HUGE * HUGE;
    if first < end {
        let pages = range.start.wrapping_byte_add(first - range.start as usize);
        // SAFETY: the pages lie inside the buffer, and this advice changes no content. A system that
        // knows no huge pages refuses, which changes nothing.
        let _ = unsafe { madvise(pages.cast(), end - first, Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: &mut [Quarter]) {}

impl<E: Pod> Deref for AlignedBuffer<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        &bytemuck::cast_slice(&self.quarters[self.first..])[..self.len]
    }
}

impl<E: Pod> DerefMut for AlignedBuffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut bytemuck::cast_slice_mut(&mut self.quarters[self.first..])[..self.len]
    }
}

impl<E: Pod + std::fmt::Debug> std::fmt::Debug for AlignedBuffer<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<E: Pod> FromIterator<E> for AlignedBuffer<E> {
    fn from_iter<I: IntoIterator<Item = E>>(iter: I) -> Self {
        Self::from_slice(&iter.into_iter().collect::<Vec<_>>())
    }
}

/// A buffer of unspecified contents, for the length of a computation: taken from a pool that all
/// threads share, and given back when dropped, so that kernels cause no page faults call after call.
pub struct Scratch {
    buffer: AlignedBuffer,
    len: usize,
}

static POOL: Mutex<Vec<AlignedBuffer>> = Mutex::new(Vec::new());

impl Scratch {
    /// A buffer of `len` elements, which hold anything.
    /// # Panics
    /// If there is no memory for them.
    #[track_caller]
    pub fn take(len: usize) -> Self {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = pool.iter().enumerate().filter(|(_, b)| b.len() >= len);
        let best = fits.min_by_key(|(_, b)| b.len()).map(|(at, _)| at);
        let kept = best.map(|at| pool.swap_remove(at));
        drop(pool);
        // Sizes are rounded up, so that similar requests share buffers.
        let rounded = || len.checked_next_power_of_two().expect("a buffer that fits in memory");
        let fresh = || AlignedBuffer::zeros(rounded().max(1 << 12));
        Self { buffer: kept.unwrap_or_else(fresh), len }
    }
}

impl Scratch {
    /// A buffer of `len` zeros.
    /// # Panics
    /// If there is no memory for them.
    #[track_caller]
    pub fn zeros(len: usize) -> Self {
        let mut scratch = Self::take(len);
        scratch.fill(0.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<E: Pod + PartialEq>(len: usize) {
        let buffer = AlignedBuffer::<E>::zeros(len);
        assert_eq!(buffer.len(), len);
        let is_aligned = |x: &AlignedBuffer<E>| (x.as_ptr() as usize).is_multiple_of(LINE);
        assert!(len == 0 || is_aligned(&buffer));
        assert!(buffer.iter().all(|&x| x == E::zeroed()));
        let lines = len.div_ceil(AlignedBuffer::<E>::PER_LINE);
        assert!(buffer.quarters.len() * QUARTER < (lines + 1) * LINE);
        let copy = buffer.clone();
        assert!(len == 0 || is_aligned(&copy));
        assert_eq!(copy.len(), len);
    }

    #[test]
    fn buffers_are_aligned_and_exactly_as_long_as_asked() {
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 1000] {
            check::<f32>(len);
            check::<u16>(len);
            check::<f64>(len);
        }
    }
}
