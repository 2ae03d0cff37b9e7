//! Extents: how many elements a shape has, checked.

use crate::{LANES, Lines};

/// The elements of a tensor with these extents.
/// # Panics
/// If no machine can address so many.
#[track_caller]
pub(crate) fn size(extents: &[usize]) -> usize {
    let product = extents.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    product.unwrap_or_else(|| panic!("extents {extents:?} have more elements than fit in memory"))
}

/// The tiles of `lines` lines each that the operand `name` is made of; without lines, none.
/// # Panics
/// If they are not whole.
#[track_caller]
pub(crate) fn tiles(name: &str, data: &[f32], lines: usize) -> usize {
    let tile = size(&[lines, LANES]);
    let whole = data.len().is_multiple_of(tile);
    assert!(whole, "{name} is not made of tiles of {lines} lines: {} elements", data.len());
    data.len().checked_div(tile).unwrap_or(0)
}

/// Checks that the operand `name` is `tiles` tiles of `lines` lines each.
/// # Panics
/// If it is not.
#[track_caller]
pub(crate) fn check_tiles(name: &str, data: &[f32], tiles: usize, lines: usize) {
    let expected = size(&[tiles, lines, LANES]);
    let found = data.len();
    assert_eq!(found, expected, "{name} does not have {tiles} tiles of {lines} lines");
}

/// Tiles that a line holds.
#[inline(always)]
pub(crate) fn tiles_per_line(data: Lines<'_>) -> usize {
    data.line() / LANES
}

/// Checks that the operand `name` is `tiles` tiles of `features` features, the last pair filled up.
/// # Panics
/// If it is not.
#[track_caller]
pub(crate) fn check_lines(name: &str, data: Lines<'_>, tiles: usize, features: usize) {
    let expected = size(&[tiles.div_ceil(tiles_per_line(data)), features, data.line()]);
    let (found, precision) = (data.len(), data.precision());
    assert_eq!(
        found, expected,
        "{name} does not have {tiles} {precision} tiles of {features} lines"
    );
}

/// Checks the operands of a weight gradient; returns how many lines each feature has.
/// # Panics
/// If they have different precisions or numbers of tiles, or those are not whole.
#[track_caller]
pub(crate) fn check_whole(dy: Lines<'_>, rows: usize, x: Lines<'_>, columns: usize) -> usize {
    assert_eq!(dy.precision(), x.precision(), "dY and X have different precisions");
    let count = |name: &str, data: Lines<'_>, features: usize| {
        let whole = size(&[features, data.line()]);
        let found = data.len();
        assert!(
            found.is_multiple_of(whole),
            "{name} is not made of tiles of {features} lines: {found} elements"
        );
        found.checked_div(whole).unwrap_or(0)
    };
    let (lines, of_x) = (count("dY", dy, rows), count("X", x, columns));
    assert_eq!(of_x, lines, "X does not have the tiles of dY");
    lines
}
