//! Who takes turns in the bench of a layer, and what they work on.

use std::time::Instant;

use half::bf16;

use crate::baseline::{Baseline, Matrix};
use crate::isa::IsaKind;
use crate::ops::gemm::{Left, Out, gemm_on, transpose_tiles};
use crate::ops::{Initial, LinearLayer};
use crate::{AlignedBuffer, HalfTiles, LANES, Lines, Precision};

/// Who takes turns.
pub(super) enum Contestant<'a> {
    Library(&'a Baseline),
    HalfLibrary(&'a Baseline),
    Own,
    Layer(LinearLayer),
}

/// What all of them work on, and where their results go.
pub(super) struct Data {
    rows: usize,
    columns: usize,
    tokens: usize,
    /// Weights, from which sparse layers take as many as they have.
    w: AlignedBuffer,
    /// As tiles and as row-major matrices: what the numbers are does not matter to either.
    x: AlignedBuffer,
    dy: AlignedBuffer,
    y: AlignedBuffer,
    dx: AlignedBuffer,
    dw: AlignedBuffer,
    /// X and dY of 16 bits.
    rounded: Option<[HalfTiles; 2]>,
    /// W, X and dY as matrices of bf16, for libraries.
    matrices: [Vec<bf16>; 3],
}

/// Seconds of forward, dx, dw and refresh.
pub(super) type Parts = [f64; 4];

impl Data {
    pub(super) fn new(precision: Precision, rows: usize, columns: usize, tokens: usize) -> Self {
        let (x, dy) = (numbers(columns * tokens), numbers(rows * tokens));
        let rounded = (precision != Precision::F32).then(|| {
            [(&x, columns), (&dy, rows)].map(|(x, n)| HalfTiles::rounded(precision, x, n))
        });
        Self {
            rows,
            columns,
            tokens,
            w: numbers(rows * columns),
            x,
            dy,
            rounded,
            matrices: [const { Vec::new() }; 3],
            y: AlignedBuffer::zeros(rows * tokens),
            dx: AlignedBuffer::zeros(columns * tokens),
            dw: AlignedBuffer::zeros(rows * columns.next_multiple_of(LANES)),
        }
    }

    pub(super) fn library(&mut self, isa: IsaKind, baseline: &Baseline) -> Parts {
        let (extents, operands) = (self.extents(), [&self.w[..], &self.x, &self.dy]);
        let results = [&mut self.y, &mut self.dx, &mut self.dw].map(|result| &mut result[..]);
        products(extents, operands, results, |a, b, c| baseline.multiply(isa, a, b, c))
    }

    /// Rounds what libraries of bf16 multiply.
    pub(super) fn round_matrices(&mut self) {
        let round = |numbers: &AlignedBuffer| numbers.iter().copied().map(bf16::from_f32).collect();
        self.matrices = [&self.w, &self.x, &self.dy].map(round);
    }

    pub(super) fn half_library(&mut self, baseline: &Baseline) -> Parts {
        let (extents, operands) = (self.extents(), self.matrices.each_ref().map(Vec::as_slice));
        let results = [&mut self.y, &mut self.dx, &mut self.dw].map(|result| &mut result[..]);
        products(extents, operands, results, |a, b, c| baseline.multiply_bf16(a, b, c))
    }

    /// Outputs, inputs and tokens.
    fn extents(&self) -> [usize; 3] {
        [self.rows, self.columns, self.tokens]
    }

    pub(super) fn own(&mut self, isa: IsaKind) -> Parts {
        let (rows, columns) = (self.rows, self.columns);
        [
            time(|| {
                let w = Left::row_major(&self.w, rows, columns);
                gemm_on(isa, w, &self.x, &mut self.y, Out::Tiles, false);
            }),
            time(|| {
                let wt = Left::transposed(&self.w, columns, rows);
                gemm_on(isa, wt, &self.dy, &mut self.dx, Out::Tiles, false);
            }),
            time(|| {
                let xt = transpose_tiles(&self.x, columns);
                let left = Left::tiles(&self.dy, rows);
                gemm_on(isa, left, &xt, &mut self.dw, Out::Rows, false);
            }),
            0.0,
        ]
    }

    pub(super) fn layer(&mut self, layer: &mut LinearLayer) -> Parts {
        let values = &self.w[..layer.nnz()];
        let dw = &mut self.dw[..layer.nnz()];
        let (x, dy) = (&self.x, &self.dy);
        let rounded = self.rounded.as_mut().filter(|_| layer.plan().precision() != Precision::F32);
        let [mut half_x, mut half_dy] = match rounded {
            Some(rounded) => rounded.each_mut().map(Some),
            None => [None, None],
        };
        let refresh = time(|| layer.refresh(values));
        [
            time(|| {
                let x = rounded_over(&mut half_x, x, self.columns);
                layer.forward(values, x, &mut self.y, Initial::Zero);
            }),
            time(|| {
                let dy = rounded_over(&mut half_dy, dy, self.rows);
                layer.input_gradient(values, dy, &mut self.dx, Initial::Zero);
            }),
            time(|| {
                dw.fill(0.0);
                let half =
                    [half_dy.as_deref(), half_x.as_deref()].map(|half| half.map(Lines::from));
                let [half_dy, half_x] = half;
                let (dy, x) = (half_dy.unwrap_or(dy.into()), half_x.unwrap_or(x.into()));
                layer.weight_gradient(dy, x, dw);
            }),
            refresh,
        ]
    }
}

/// Times a library's product on W, X and dY `[outputs, inputs, tokens]`, for Y, dX and dW.
fn products<T: Copy>(
    [rows, columns, tokens]: [usize; 3],
    [w, x, dy]: [&[T]; 3],
    [y, dx, dw]: [&mut [f32]; 3],
    multiply: impl Fn(Matrix<'_, T>, Matrix<'_, T>, &mut [f32]),
) -> Parts {
    let w = Matrix::new(w, rows, columns);
    let x = Matrix::new(x, columns, tokens);
    let dy = Matrix::new(dy, rows, tokens);
    [
        time(|| multiply(w, x, y)),
        time(|| multiply(w.transposed(), dy, dx)),
        time(|| multiply(dy, x.transposed(), &mut dw[..rows * columns])),
        0.0,
    ]
}

/// Tiles as a product takes them: rounded over others, or as they are.
fn rounded_over<'a>(
    half: &'a mut Option<&mut HalfTiles>,
    tiles: &'a [f32],
    features: usize,
) -> Lines<'a> {
    match half {
        Some(half) => {
            half.round(tiles, features);
            half.lines()
        }
        None => Lines::F32(tiles),
    }
}

pub(super) fn numbers(len: usize) -> AlignedBuffer {
    (0..len).map(|i| (i % 1021) as f32 / 1021.0 - 0.5).collect()
}

pub(super) fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
