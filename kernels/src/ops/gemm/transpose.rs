//! Activations with features in the lanes.

use crate::isa::{Isa, IsaKind, Kernel};
use crate::ops::extent::{size, tiles};
use crate::parallel::for_each_chunk;
use crate::{LANES, Scratch};

/// Lays activations `[tile][feature][LANES tokens]` out as `[feature tile][token][LANES features]`,
/// the B operand of the weight gradient; features are padded with zeros to whole tiles.
/// # Panics
/// If there are no features, or `x` is not made of whole tiles.
#[track_caller]
pub fn transpose_tiles(x: &[f32], features: usize) -> Scratch {
    assert!(features > 0, "tiles without features have no transpose");
    let tiles = tiles("X", x, features);
    let len = size(&[tiles, LANES, LANES]);
    let mut out = Scratch::take(size(&[features.div_ceil(LANES), len]));
    let isa = IsaKind::active().unwrap_or_else(|e| panic!("{e}"));
    for_each_chunk(&mut out, len, |feature_tile, to| {
        isa.run(Transpose { x, features, first: feature_tile * LANES, to });
    });
    out
}

struct Transpose<'a> {
    x: &'a [f32],
    features: usize,
    first: usize,
    to: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = LANES.min(self.features - self.first);
        let tiles = self.x.chunks_exact(self.features * LANES);
        for (tile, to) in tiles.zip(self.to.chunks_exact_mut(LANES * LANES)) {
            let from = &tile[self.first * LANES..(self.first + rows) * LANES];
            let mut block = [isa.splat(0.0); LANES];
            for (row, from) in block.iter_mut().zip(from.as_chunks().0) {
                *row = isa.load_line(from);
            }
            let block = isa.transpose(block);
            for (to, row) in to.as_chunks_mut().0.iter_mut().zip(block) {
                isa.store_line(to, row);
            }
        }
    }
}
