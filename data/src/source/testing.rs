//! Running a parser on bytes.

use std::path::Path;

use super::{Event, Record, read_bytes};
use crate::DataError;

/// What the parser of `name`'s format makes of `bytes`.
pub fn parse(name: &str, bytes: &[u8]) -> (Vec<Event>, Option<DataError>) {
    let mut events = Vec::new();
    let outcome = read_bytes(Path::new(name), bytes, &mut |event| {
        events.push(event);
        Ok(())
    });
    (events, outcome.err())
}

/// The records of an undamaged input.
pub fn records(name: &str, bytes: &[u8]) -> Vec<Record> {
    let (events, error) = parse(name, bytes);
    assert!(error.is_none(), "{error:?}");
    let record = |event| match event {
        Event::Record(record) => Some(record),
        Event::Damaged(damage) => panic!("{damage}"),
        Event::Deleted(_) => None,
    };
    events.into_iter().filter_map(record).collect()
}
