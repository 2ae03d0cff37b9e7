//! Extents: how many elements a shape has, checked.

use crate::LANES;

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
