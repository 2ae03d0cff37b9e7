//! [`Tiles`]: activations with tokens in the SIMD lanes.

use mediswift_kernels::{AlignedBuffer, LANES};

/// How the tokens of a batch lie in tiles: every sequence starts a new tile, and the lanes after
/// its last token are padding, which no loss ever weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLayout {
    /// Sequences in the batch.
    pub sequences: usize,
    /// Tokens in each sequence.
    pub context: usize,
}

impl TokenLayout {
    /// Tiles of one sequence.
    pub fn tiles_per_sequence(self) -> usize {
        self.context.div_ceil(LANES)
    }

    /// Tiles of the batch.
    /// # Panics
    /// If no machine can address so many.
    #[track_caller]
    pub fn tiles(self) -> usize {
        product([self.sequences, self.tiles_per_sequence()])
    }

    /// Tokens of the batch, padding excluded.
    /// # Panics
    /// If no machine can address so many.
    #[track_caller]
    pub fn tokens(self) -> usize {
        product([self.sequences, self.context])
    }

    /// Real tokens in tile `tile` of the batch.
    pub fn tokens_in_tile(self, tile: usize) -> usize {
        let first = tile % self.tiles_per_sequence() * LANES;
        LANES.min(self.context - first)
    }
}

#[track_caller]
fn product<const N: usize>(extents: [usize; N]) -> usize {
    let product = extents.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    product.unwrap_or_else(|| panic!("extents {extents:?} have more elements than fit in memory"))
}

/// Activations of a batch: `[tile][feature][LANES]`, cache-line aligned.
#[derive(Clone, Debug)]
pub struct Tiles {
    layout: TokenLayout,
    features: usize,
    data: AlignedBuffer,
}

impl Tiles {
    /// All zeros.
    /// # Panics
    /// If there is no memory for them.
    #[track_caller]
    pub fn zeros(layout: TokenLayout, features: usize) -> Self {
        Self::from_buffer(layout, features, AlignedBuffer::zeros(Self::len(layout, features)))
    }

    /// Elements of a batch.
    #[track_caller]
    pub(crate) fn len(layout: TokenLayout, features: usize) -> usize {
        product([layout.tiles(), features, LANES])
    }

    /// Takes a buffer of the right length, whatever it holds.
    #[track_caller]
    pub(crate) fn from_buffer(layout: TokenLayout, features: usize, data: AlignedBuffer) -> Self {
        assert_eq!(data.len(), Self::len(layout, features), "buffer and shape disagree");
        Self { layout, features, data }
    }

    pub(crate) fn into_buffer(self) -> AlignedBuffer {
        self.data
    }

    /// How tokens lie in the tiles.
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }

    /// Features per token.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Elements of one tile: `features · LANES`.
    pub fn tile_len(&self) -> usize {
        self.features * LANES
    }

    /// All elements, `[tile][feature][LANES]`.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All elements, to change.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// One tile, `[feature][LANES]`.
    pub fn tile(&self, tile: usize) -> &[f32] {
        &self.data[tile * self.tile_len()..(tile + 1) * self.tile_len()]
    }

    /// Sets the lanes without a token to `value`.
    pub fn set_padding(&mut self, value: f32) {
        let (layout, tile_len) = (self.layout, self.tile_len());
        for (tile, lines) in self.data.chunks_exact_mut(tile_len.max(1)).enumerate() {
            for line in lines.chunks_exact_mut(LANES) {
                line[layout.tokens_in_tile(tile)..].fill(value);
            }
        }
    }

    /// Gathers `[sequence][token][feature]`, row-major and without padding: the layout of the
    /// world outside.
    pub fn to_rows(&self) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.layout.tokens() * self.features);
        for tile in 0..self.layout.tiles() {
            let lines = self.tile(tile);
            for lane in 0..self.layout.tokens_in_tile(tile) {
                rows.extend((0..self.features).map(|feature| lines[feature * LANES + lane]));
            }
        }
        rows
    }

    /// Scatters `[sequence][token][feature]` into tiles; padding is zero.
    #[track_caller]
    pub fn from_rows(layout: TokenLayout, features: usize, rows: &[f32]) -> Self {
        assert_eq!(rows.len(), layout.tokens() * features, "rows and layout disagree");
        let mut tiles = Self::zeros(layout, features);
        let mut rows = rows.chunks_exact(features.max(1));
        let tile_len = tiles.tile_len();
        for (tile, lines) in tiles.data.chunks_exact_mut(tile_len.max(1)).enumerate() {
            for (lane, row) in rows.by_ref().take(layout.tokens_in_tile(tile)).enumerate() {
                for (feature, &value) in row.iter().enumerate() {
                    lines[feature * LANES + lane] = value;
                }
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_overflow_are_refused() {
        for (sequences, context, features) in
            [(1 << 60, 16, 1), (1 << 60, 1, 1), (1, usize::MAX, 16), (2, 16, 1 << 60)]
        {
            let zeros = || Tiles::zeros(TokenLayout { sequences, context }, features);
            assert!(std::panic::catch_unwind(zeros).is_err(), "{sequences}, {context}");
        }
    }

    #[test]
    fn rows_survive_the_round_trip_and_padding_is_zero() {
        let layout = TokenLayout { sequences: 2, context: 19 };
        let rows: Vec<f32> = (1..=2 * 19 * 3).map(|x| x as f32).collect();
        let tiles = Tiles::from_rows(layout, 3, &rows);
        assert_eq!(tiles.data().len(), 4 * 3 * LANES);
        assert_eq!(tiles.to_rows(), rows);
        assert_eq!(tiles.data().iter().filter(|&&x| x != 0.0).count(), rows.len());
    }
}
