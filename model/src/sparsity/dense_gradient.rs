//! [`DenseGradients`]: where the gradient of a whole matrix is largest, without ever holding it.
//!
//! dL/dW = dY · Xᵀ has as many elements as a dense W. On the way back of one micro-batch it is computed block of rows by
//! block of rows, and of each block only places are kept that may be among the largest. With several micro-batches
//! in a step, it is the first one's gradient that counts: to add all of them up would take what is avoided here. It is
//! the same micro-batch for any number of ranks.

use super::selection::LargestPlaces;
use mediswift_engine::ops::Observer;
use mediswift_engine::{ParamId, Shape};
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::precision::LINE;
use mediswift_kernels::{AlignedBuffer, LANES, LinearLayer, Lines};
use mediswift_ranks::collectives::from_first;
use mediswift_ranks::{Lost, Ranks};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Elements of a block of rows, at most, unless a row has more: 4 MiB.
const BLOCK: usize = 1 << 20;

/// What a mask keeps of its weights, and how many other places each of its parts is to gain.
pub(crate) struct Kept {
    pub shape: Shape,
    /// One mark for every weight.
    pub marks: Vec<bool>,
    pub gains: Vec<usize>,
}

/// What masks keep and the places, rising, that every part of them gains.
pub(crate) type Decided = HashMap<ParamId, (Kept, Vec<Vec<u32>>)>;

/// Looks for the places to gain of all weights whose masks move.
pub(crate) struct DenseGradients {
    kept: HashMap<ParamId, Kept>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    places: HashMap<ParamId, Vec<Vec<u32>>>,
    time: Duration,
}

impl DenseGradients {
    pub(super) fn new(kept: HashMap<ParamId, Kept>) -> Self {
        Self { kept, found: Mutex::default() }
    }

    /// What is decided, and how long that took here. Rank 0 has seen the gradient, and tells the others.
    /// # Errors
    /// If a rank is lost.
    pub fn decided(self, ranks: &dyn Ranks) -> Result<(Decided, Duration), Lost> {
        let Found { mut places, time } =
            self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(ParamId, Kept)> = self.kept.into_iter().collect();
        all.sort_by_key(|(id, _)| id.index());
        if ranks.count() > 1 {
            let mine = all.iter().filter_map(|(id, _)| places.get(id)).flatten().flatten();
            let mine: Vec<u32> = mine.copied().collect();
            let said = from_first(ranks, bytemuck::cast_slice(&mine))?;
            let mut said = said.chunks_exact(size_of::<u32>()).map(bytemuck::pod_read_unaligned);
            for (id, kept) in &all {
                let parts = kept.gains.iter().map(|&gain| said.by_ref().take(gain).collect());
                places.insert(*id, parts.collect());
            }
        }
        let of_layer = |(id, kept)| {
            let places = places.remove(&id).expect("the gradient of every weight is seen");
            (id, (kept, places))
        };
        Ok((all.into_iter().map(of_layer).collect(), time))
    }
}

impl Observer for DenseGradients {
    fn sees(&self, weight: ParamId, dy: Lines<'_>, x: Lines<'_>) {
        let Some(kept) = self.kept.get(&weight) else { return };
        let started = Instant::now();
        let places = kept.largest(dy, x);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.places.insert(weight, places);
        found.time += started.elapsed();
    }
}

impl Kept {
    /// The places where dY · Xᵀ is largest.
    fn largest(&self, dy: Lines<'_>, x: Lines<'_>) -> Vec<Vec<u32>> {
        let extents = self.shape.extents();
        let (rows, columns) = (extents[0], extents[1]);
        let isa = IsaKind::active().expect("layers were planned on it");
        let rows_of_part = rows / self.gains.len();
        let rows_of_block = (BLOCK / columns).clamp(1, rows_of_part);
        let mut block = AlignedBuffer::zeros(rows_of_block * columns);
        let of_part = |(part, &count): (usize, &usize)| {
            let mut largest = LargestPlaces::new(count);
            let starts = (0..rows_of_part).step_by(rows_of_block);
            for first in starts.take_while(|_| count > 0) {
                let some = first..rows_of_part.min(first + rows_of_block);
                let start = part * rows_of_part;
                let gradient = &mut block[..some.len() * columns];
                gradient.fill(0.0);
                let layer = LinearLayer::dense_gradient(isa, dy.precision(), some.len(), columns);
                let in_all = start + some.start..start + some.end;
                Cut::new(dy, rows, in_all).with(|dy| layer.weight_gradient(dy, x, gradient));
                largest.add(first, columns, gradient, |row, excluded| {
                    self.mark_kept(start + row, excluded);
                });
            }
            largest.places()
        };
        self.gains.iter().enumerate().map(of_part).collect()
    }

    /// Marks the columns of a row that are kept.
    fn mark_kept(&self, row: usize, excluded: &mut [bool]) {
        match &self.shape {
            Shape::Sparse(pattern) => {
                for at in pattern.row_range(row) {
                    excluded[pattern.column_indices()[at] as usize] = self.marks[at];
                }
            }
            _ => {
                let columns = excluded.len();
                excluded.copy_from_slice(&self.marks[row * columns..(row + 1) * columns]);
            }
        }
    }
}

/// Some features of activations.
enum Cut {
    F32(AlignedBuffer),
    Bf16(AlignedBuffer<half::bf16>),
    F16(AlignedBuffer<half::f16>),
}

impl Cut {
    /// Those of `some`, of all `features`.
    fn new(lines: Lines<'_>, features: usize, some: Range<usize>) -> Self {
        match lines {
            Lines::F32(data) => Self::F32(cut(data, LANES, features, some)),
            Lines::Bf16(data) => Self::Bf16(cut(data, LINE, features, some)),
            Lines::F16(data) => Self::F16(cut(data, LINE, features, some)),
        }
    }

    fn with(&self, then: impl FnOnce(Lines<'_>)) {
        then(match self {
            Self::F32(data) => Lines::F32(data),
            Self::Bf16(data) => Lines::Bf16(data),
            Self::F16(data) => Lines::F16(data),
        });
    }
}

fn cut<E: bytemuck::Pod + Send + Sync>(
    data: &[E],
    line: usize,
    features: usize,
    some: Range<usize>,
) -> AlignedBuffer<E> {
    let mut cut = AlignedBuffer::zeros(data.len() / features * some.len());
    let tiles = data.par_chunks_exact(features * line);
    cut.par_chunks_exact_mut(some.len() * line)
        .zip(tiles)
        .for_each(|(to, from)| to.copy_from_slice(&from[some.start * line..some.end * line]));
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_kernels::sparse::mask::uniform_random;
    use mediswift_kernels::{InPrecision, Precision};

    /// Small whole numbers, so that all sums are exact in every precision and many are equal.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|at| ((at * 7919 + seed * 104_729) % 31 % 7) as f32 - 3.0).collect()
    }

    #[test]
    fn what_is_gained_is_what_the_whole_gradient_says() {
        for (seed, (rows, columns, parts, tiles)) in
            [(6, 8, 1, 1), (30, 21, 3, 3), (64, 33, 1, 2), (3, 1 << 19, 1, 1)]
                .into_iter()
                .enumerate()
        {
            let mask = uniform_random(rows, columns, 0.7, seed as u64).unwrap();
            let marks: Vec<bool> = (0..mask.nnz()).map(|at| at % 3 != 0).collect();
            let gains: Vec<usize> =
                (0..parts).map(|part| part + rows * columns / parts / 8).collect();
            let (dy, x) =
                (numbers(tiles * rows * LANES, seed), numbers(tiles * columns * LANES, 9));
            let mut gradient = vec![0.0; rows * columns];
            for tile in 0..tiles {
                for (row, line) in dy[tile * rows * LANES..].chunks(LANES).take(rows).enumerate() {
                    for column in 0..columns {
                        let x = &x[(tile * columns + column) * LANES..][..LANES];
                        gradient[row * columns + column] +=
                            line.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
                    }
                }
            }
            let places_of_part = rows * columns / parts;
            let kept = Kept { shape: Shape::Sparse(mask.into()), marks, gains };
            let expected: Vec<Vec<u32>> = (0..parts)
                .map(|part| {
                    let mut excluded = vec![false; rows * columns];
                    excluded
                        .chunks_mut(columns)
                        .enumerate()
                        .for_each(|(row, marks)| kept.mark_kept(row, marks));
                    let start = part * places_of_part;
                    let mut places: Vec<usize> =
                        (start..start + places_of_part).filter(|&at| !excluded[at]).collect();
                    places.sort_by(|&a, &b| {
                        gradient[b].abs().total_cmp(&gradient[a].abs()).then(a.cmp(&b))
                    });
                    places.truncate(kept.gains[part]);
                    places.sort_unstable();
                    places.into_iter().map(|at| (at - start) as u32).collect()
                })
                .collect();
            for precision in Precision::ALL {
                let of = |data, features| InPrecision::new(precision, data, features);
                let found = kept.largest(of(&dy, rows).lines(), of(&x, columns).lines());
                assert_eq!(found, expected, "{rows} × {columns} in {precision}");
            }
        }
    }
}
