//! [`check_finite`]: names the first number that is none.

use crate::error::Error;
use mediswift_engine::Flat;
use std::ops::Range;

/// Checks that every number of a store, or of a shard, is finite.
/// # Errors
/// The first that is not; `what` says what the store holds.
pub(crate) fn check_finite(what: &'static str, store: &Flat) -> Result<(), Error> {
    check_finite_in(what, store, &store.held())
}

/// The same for some ranges of a store.
/// # Errors
/// As for [`check_finite`].
pub(crate) fn check_finite_in(
    what: &'static str,
    store: &Flat,
    ranges: &[Range<usize>],
) -> Result<(), Error> {
    let layout = store.layout();
    let mut pieces = ranges.iter().flat_map(|range| layout.pieces(range.clone()));
    let broken = pieces.find_map(|(id, piece)| {
        let place = layout.place(id);
        let start = place.range.start;
        let values = store.range(start + piece.start..start + piece.end);
        let at = values.iter().position(|x| !x.is_finite())?;
        let (name, position, value) = (place.name.clone(), piece.start + at, values[at]);
        Some(Error::NonFinite { what, name, position, value })
    });
    broken.map_or(Ok(()), Err)
}
