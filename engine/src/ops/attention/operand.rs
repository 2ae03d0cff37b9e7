//! [`Operand`]: Q, K, V or dO of one head, as the products read it.

use super::super::lines::{Line, lines, lines_mut, load, store};
use super::head::{BLOCK, Head};
use mediswift_kernels::LANES;
use mediswift_kernels::isa::{Isa, IsaKind, Kernel};
use mediswift_kernels::ops::Arithmetic;
use mediswift_kernels::ops::gemm::LeftForm;

/// Words that so many numbers take, of which two meet the same two of another operand.
pub(super) const fn words<W: Arithmetic>(numbers: usize) -> usize {
    if W::PAIRS { numbers.div_ceil(2) } else { numbers }
}

/// Elements that an [`Operand`] of packed pairs takes for each of its two forms.
pub(super) fn packed<W: Arithmetic>(at: Head) -> usize {
    if W::PAIRS { at.packed() } else { 0 }
}

/// Writes two lines of numbers, which are neighbours of each other, as words.
#[inline(always)]
pub(super) fn put_words<I: Isa, W: Arithmetic>(
    isa: I,
    lines: &mut [Line],
    pair: usize,
    [first, second]: [I::V; 2],
) {
    if W::PAIRS {
        store(isa, &mut lines[pair], isa.pair_bf16(first, second));
    } else {
        store(isa, &mut lines[2 * pair], first);
        store(isa, &mut lines[2 * pair + 1], second);
    }
}

/// The lines of a head, to be multiplied over its features or over its tokens: numbers where they lie, or pairs that
/// were [packed](Pack) for one of the two or for both.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    /// `[tile][words of all features][LANES]`.
    over_features: &'a [f32],
    /// Numbers: the same. Pairs: `[block of tiles][feature][words of its tokens]`.
    over_tokens: &'a [f32],
    /// Distance of tiles of the first.
    tile: usize,
    /// Distance of blocks of the second, if they are pairs.
    block: usize,
}

impl<'a> Operand<'a> {
    /// The lines as words of a kind, from the head's first line and the distance of tiles. Pairs are packed into a
    /// place of [`packed`] elements for each form that products read; the other is empty.
    pub(super) fn new<W: Arithmetic>(
        isa: IsaKind,
        at: Head,
        from: (&'a [f32], usize),
        over_features: &'a mut [f32],
        over_tokens: &'a mut [f32],
    ) -> Self {
        let (lines, tile) = from;
        if !W::PAIRS {
            return Self { over_features: lines, over_tokens: lines, tile, block: 0 };
        }
        let (features, tokens) = (&mut *over_features, &mut *over_tokens);
        W::run(isa, Pack { at, from, over_features: features, over_tokens: tokens });
        Self { over_features, over_tokens, tile: at.packed_tile(), block: at.packed_block() }
    }

    /// Its lines of words of features, from a tile on.
    #[inline(always)]
    pub(super) fn lines(self, tile: usize) -> &'a [f32] {
        &self.over_features[tile * self.tile..]
    }

    /// Distance of tiles of [`Operand::lines`].
    pub(super) fn tile(self) -> usize {
        self.tile
    }

    /// Its rows of words of tokens, from a tile to the end of its block.
    #[inline(always)]
    pub(super) fn tokens<W: Arithmetic>(self, tile: usize) -> (&'a [f32], LeftForm) {
        if W::PAIRS {
            let at = tile / BLOCK * self.block + tile % BLOCK * words::<W>(LANES);
            (&self.over_tokens[at..], LeftForm::Rows(words::<W>(BLOCK * LANES)))
        } else {
            (&self.over_tokens[tile * self.tile..], LeftForm::Tiles(self.tile))
        }
    }
}

/// Rounds the lines of a head to pairs of bf16.
struct Pack<'a> {
    at: Head,
    /// The head's first line, and the distance of tiles.
    from: (&'a [f32], usize),
    /// Where pairs of features go, if any are wanted.
    over_features: &'a mut [f32],
    /// Where pairs of tokens go.
    over_tokens: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { at, from: (from, distance), over_features, over_tokens } = self;
        // Words of a feature of a tile, and of a block.
        const TOKENS: usize = LANES / 2;
        const ROW: usize = BLOCK * TOKENS;
        for tile in 0..at.tiles {
            let lines = lines(&from[tile * distance..][..at.head_features * LANES]);
            let pairs = 0..at.head_features.div_ceil(2);
            if !over_features.is_empty() {
                let to = &mut over_features[tile * at.packed_tile()..][..at.packed_tile()];
                for (to, pair) in lines_mut(to).iter_mut().zip(pairs.clone()) {
                    let [even, odd] = both(isa, lines, pair);
                    store(isa, to, isa.pair_bf16(even, odd));
                }
            }
            if !over_tokens.is_empty() {
                let start = tile / BLOCK * at.packed_block() + tile % BLOCK * TOKENS;
                for pair in pairs {
                    let [even, odd] = both(isa, lines, pair);
                    let words = isa.to_array(isa.pack_bf16(even, odd));
                    for (half, words) in words.as_chunks::<TOKENS>().0.iter().enumerate() {
                        let row = start + (2 * pair + half) * ROW;
                        over_tokens[row..row + TOKENS].copy_from_slice(words);
                    }
                }
            }
        }
    }
}

/// Two neighbouring lines, of which the second may be missing: then it is zeros.
#[inline(always)]
fn both<I: Isa>(isa: I, lines: &[Line], pair: usize) -> [I::V; 2] {
    let odd = match lines.get(2 * pair + 1) {
        Some(line) => load(isa, line),
        None => isa.splat(0.0),
    };
    [load(isa, &lines[2 * pair]), odd]
}
