//! Which weights of a matrix are the largest. Of equal ones those that come first count as larger, so that there is
//! one answer, whoever finds it.

use rayon::prelude::*;

/// Without its sign, the bits of a floating-point number are ordered as its magnitude is.
fn magnitude(x: f32) -> u32 {
    x.abs().to_bits()
}

/// Marks the `count` largest magnitudes.
pub(super) fn largest(values: &[f32], count: usize) -> Vec<bool> {
    let mut magnitudes: Vec<u32> = values.iter().map(|&x| magnitude(x)).collect();
    let smallest_kept = match count {
        0 => return vec![false; values.len()],
        count => *magnitudes.select_nth_unstable_by(count - 1, |a, b| b.cmp(a)).1,
    };
    let larger = values.iter().filter(|&&x| magnitude(x) > smallest_kept).count();
    let mut equal = count - larger;
    let marks = values.iter().map(|&x| {
        let is_equal = magnitude(x) == smallest_kept && equal > 0;
        equal -= usize::from(is_equal);
        magnitude(x) > smallest_kept || is_equal
    });
    marks.collect()
}

/// How many magnitudes there are of each size, roughly: enough to pass over most of those that are too small.
#[derive(Default)]
struct Histogram {
    counts: Vec<usize>,
    /// Room for marks.
    excluded: Vec<bool>,
}

impl Histogram {
    /// Bits of a magnitude that do not count: those left are the exponent and the first three behind it.
    const ROUGH: u32 = 20;

    /// Counts the values that are not marked.
    fn count(&mut self, values: &[f32]) {
        self.counts.resize(1 << (31 - Self::ROUGH), 0);
        for (x, _) in values.iter().zip(&self.excluded).filter(|(_, is_excluded)| !**is_excluded) {
            self.counts[(magnitude(*x) >> Self::ROUGH) as usize] += 1;
        }
    }

    /// With the counts of another.
    fn with(mut self, other: Self) -> Self {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self
    }

    /// A magnitude that at least `count` of them exceed, if there are as many.
    fn floor(&self, count: usize) -> Option<u32> {
        let mut larger = 0;
        let least = self.counts.iter().enumerate().rev().find(|(_, of_size)| {
            larger += **of_size;
            larger >= count
        });
        ((least?.0 as u32) << Self::ROUGH).checked_sub(1)
    }
}

/// The places of the largest magnitudes of a matrix that is seen row block by row block, from the first to the last,
/// and never as a whole.
pub(super) struct LargestPlaces {
    count: usize,
    /// Magnitudes and places, of which some may be too many.
    found: Vec<(u32, u32)>,
    /// The smallest magnitude of `count` places, once there are as many: later ones must exceed it.
    floor: Option<u32>,
}

impl LargestPlaces {
    /// Looks for so many.
    pub fn new(count: usize) -> Self {
        Self { count, found: Vec::new(), floor: None }
    }

    /// Takes rows of `columns` values, the first of which is row `first`. `exclude` marks the columns of a row that are
    /// out of the question.
    pub fn add(
        &mut self,
        first: usize,
        columns: usize,
        values: &[f32],
        exclude: impl Fn(usize, &mut [bool]) + Sync,
    ) {
        let rows = values.par_chunks_exact(columns).with_min_len(8).enumerate();
        let marked = |excluded: &mut Vec<bool>, row: usize| {
            excluded.resize(columns, false);
            excluded.fill(false);
            exclude(first + row, excluded);
        };
        let floor = self.floor.or_else(|| {
            let counts = rows.clone().fold(Histogram::default, |mut histogram, (row, values)| {
                marked(&mut histogram.excluded, row);
                histogram.count(values);
                histogram
            });
            counts.reduce(Histogram::default, Histogram::with).floor(self.count)
        });
        let nothing = || (Vec::<(u32, u32)>::new(), Vec::new());
        let found = rows.fold(nothing, |(mut found, mut excluded), (row, values)| {
            marked(&mut excluded, row);
            let start = (first + row) * columns;
            let free = values.iter().zip(&excluded).enumerate().filter(|(_, (x, is_excluded))| {
                !**is_excluded && floor.is_none_or(|floor| magnitude(**x) > floor)
            });
            found.extend(free.map(|(at, (x, _))| (magnitude(*x), (start + at) as u32)));
            (found, excluded)
        });
        for (found, _) in found.collect::<Vec<_>>() {
            self.found.extend(found);
        }
        self.cut();
    }

    /// Leaves no more than are looked for.
    fn cut(&mut self) {
        if self.count == 0 {
            self.found.clear();
        } else if self.found.len() >= self.count {
            let order = |a: &(u32, u32), b: &(u32, u32)| b.0.cmp(&a.0).then(a.1.cmp(&b.1));
            let (_, last, _) = self.found.select_nth_unstable_by(self.count - 1, order);
            self.floor = Some(last.0);
            self.found.truncate(self.count);
        }
    }

    /// The places, row by row, rising.
    pub fn places(self) -> Vec<u32> {
        let mut places: Vec<u32> = self.found.into_iter().map(|(_, place)| place).collect();
        places.par_sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_in_parts_has_the_largest_of_the_whole() {
        for (seed, (rows, columns, count)) in
            [(7, 5, 12), (40, 33, 400), (13, 1, 4), (1, 90, 0), (9, 9, 81)].into_iter().enumerate()
        {
            // Few different numbers, so that many are equal.
            let value = |at: usize| ((at * 7919 + seed * 31) % 23) as f32 - 11.0;
            let values: Vec<f32> = (0..rows * columns).map(value).collect();
            let is_excluded = |at: usize| count < rows * columns / 2 && at % 3 == 1;
            let mut order: Vec<usize> = (0..values.len()).filter(|&at| !is_excluded(at)).collect();
            order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()).then(a.cmp(&b)));
            order.truncate(count);
            order.sort_unstable();
            for block in [1, 3, rows] {
                let mut found = LargestPlaces::new(count);
                for (number, values) in values.chunks(block * columns).enumerate() {
                    found.add(number * block, columns, values, |row, excluded| {
                        let marks = excluded.iter_mut().enumerate();
                        marks
                            .for_each(|(column, mark)| *mark = is_excluded(row * columns + column));
                    });
                }
                let places: Vec<usize> = found.places().into_iter().map(|at| at as usize).collect();
                assert_eq!(places, order, "{rows} × {columns} in blocks of {block}");
            }
            if count < rows * columns / 2 {
                continue;
            }
            let marked = largest(&values, count);
            let marked: Vec<usize> = (0..values.len()).filter(|&at| marked[at]).collect();
            assert_eq!(marked, order);
        }
    }
}
