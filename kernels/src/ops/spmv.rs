//! Matrix times one token, y = W · x, sparse and dense: generation.
//!
//! There is no token dimension to put into lanes and no reuse of W, so lanes run along a row and
//! the product goes at the speed at which W streams from memory. A row keeps independent partial
//! sums, which hide the latency of the additions, and adds them in a fixed order.

use super::extent::size;
use crate::isa::{Isa, IsaKind, Kernel};
use crate::parallel::for_each_chunk;
use crate::{LANES, SparsePattern};

/// Rows per parallel task.
const ROW_BLOCK: usize = 64;

/// Columns that a gather can address: its indices are signed.
const GATHERED: usize = 1 << 31;

/// y = W · x with CSR W. 2 · nnz FLOPs.
/// # Panics
/// If the lengths disagree or the machine lacks `isa`.
#[track_caller]
pub(super) fn spmv_on(
    isa: IsaKind,
    pattern: &SparsePattern,
    values: &[f32],
    x: &[f32],
    y: &mut [f32],
) {
    assert_eq!(values.len(), pattern.nnz(), "values and pattern disagree");
    assert_eq!(x.len(), pattern.columns(), "x and columns disagree");
    assert_eq!(y.len(), pattern.rows(), "y and rows disagree");
    for_each_rows(y, |first, y| isa.run(Sparse { pattern, values, x, first, y }));
}

/// y = W · x with row-major W `[y.len(), x.len()]`, on the active instruction set.
/// 2 · rows · columns FLOPs.
/// # Panics
/// If the lengths disagree.
#[track_caller]
pub fn gemv(w: &[f32], x: &[f32], y: &mut [f32]) {
    gemv_on(IsaKind::active().unwrap_or_else(|e| panic!("{e}")), w, x, y);
}

/// [`gemv`] on a given instruction set.
/// # Panics
/// If the lengths disagree or the machine lacks `isa`.
#[track_caller]
pub(super) fn gemv_on(isa: IsaKind, w: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(w.len(), size(&[y.len(), x.len()]), "matrix, x and y disagree");
    for_each_rows(y, |first, y| isa.run(Dense { w: &w[first * x.len()..], x, y }));
}

fn for_each_rows(y: &mut [f32], task: impl Fn(usize, &mut [f32]) + Sync + Send) {
    for_each_chunk(y, ROW_BLOCK, |block, y| task(block * ROW_BLOCK, y));
}

struct Sparse<'a> {
    pattern: &'a SparsePattern,
    values: &'a [f32],
    x: &'a [f32],
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Sparse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (row, y) in self.y.iter_mut().enumerate() {
            let range = self.pattern.row_range(self.first + row);
            let (columns, values) =
                (&self.pattern.column_indices()[range.clone()], &self.values[range]);
            let (mut a, mut b) = (isa.splat(0.0), isa.splat(0.0));
            // Without a gather, everything is left to the tail.
            let gathered = if self.x.len() <= GATHERED { columns.len() } else { 0 };
            let whole = gathered / (2 * LANES) * (2 * LANES);
            let pairs = columns[..whole].chunks_exact(2 * LANES);
            for (columns, values) in pairs.zip(values.chunks_exact(2 * LANES)) {
                // SAFETY: both chunks hold 32 elements, and a pattern's columns are below
                // `columns()`, the length of x, which is at most 2³¹.
                unsafe {
                    let x = isa.gather(self.x.as_ptr(), columns.as_ptr());
                    a = isa.fma(isa.load(values.as_ptr()), x, a);
                    let x = isa.gather(self.x.as_ptr(), columns.as_ptr().add(LANES));
                    b = isa.fma(isa.load(values.as_ptr().add(LANES)), x, b);
                }
            }
            let tail = columns[whole..].iter().zip(&values[whole..]);
            *y = tail.fold(isa.sum(isa.add(a, b)), |y, (&c, w)| w.mul_add(self.x[c as usize], y));
        }
    }
}

struct Dense<'a> {
    w: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Dense<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        const STEP: usize = 4 * LANES;
        for (row, y) in self.y.iter_mut().enumerate() {
            let w = &self.w[row * self.x.len()..][..self.x.len()];
            let mut acc = [isa.splat(0.0); 4];
            for (w, x) in w.chunks_exact(STEP).zip(self.x.chunks_exact(STEP)) {
                for (part, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: both chunks hold four lines.
                    unsafe {
                        let (w, x) = (w.as_ptr().add(part * LANES), x.as_ptr().add(part * LANES));
                        *acc = isa.fma(isa.load(w), isa.load(x), *acc);
                    }
                }
            }
            let sum = isa.sum(isa.add(isa.add(acc[0], acc[1]), isa.add(acc[2], acc[3])));
            let rest = w.len() / STEP * STEP;
            let tail = w[rest..].iter().zip(&self.x[rest..]);
            *y = tail.fold(sum, |y, (w, x)| w.mul_add(*x, y));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index that is negative as a signed number is still a column. The pages of x between are never
    /// touched.
    #[test]
    fn columns_beyond_the_reach_of_a_gather_are_found() {
        let columns = GATHERED + 64;
        let indices = (columns - 32..columns).map(|column| column as u32).collect();
        let pattern = SparsePattern::new(1, columns, vec![0, 32], indices).unwrap();
        let mut x = vec![0.0; columns];
        x[columns - 32..].fill(1.0);
        for isa in IsaKind::available() {
            let mut y = [f32::NAN];
            spmv_on(isa, &pattern, &[0.5; 32], &x, &mut y);
            assert_eq!(y[0], 16.0, "{isa}");
        }
    }
}
