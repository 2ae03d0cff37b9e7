//! [`check_finite`]: names the first number that is none.

use crate::error::Error;
use mediswift_engine::Flat;

/// Checks that every number of a store is finite.
/// # Errors
/// The first that is not; `what` says what the store holds.
pub(crate) fn check_finite(what: &'static str, store: &Flat) -> Result<(), Error> {
    let broken = store.iter().find_map(|(_, tensor)| {
        let position = tensor.values.iter().position(|x| !x.is_finite())?;
        let (name, value) = (tensor.name.to_string(), tensor.values[position]);
        Some(Error::NonFinite { what, name, position, value })
    });
    broken.map_or(Ok(()), Err)
}
