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

/// The records of an input, and all damage as messages: what was stepped over, and then what ended it.
pub fn damages(name: &str, bytes: &[u8]) -> (Vec<Record>, Vec<String>) {
    let (events, error) = parse(name, bytes);
    let (mut records, mut damages) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Record(record) => records.push(record),
            Event::Damaged(damage) => damages.push(damage.to_string()),
            Event::Deleted(_) | Event::Noted(_) => {}
        }
    }
    damages.extend(error.map(|error| error.to_string()));
    (records, damages)
}

/// The records of an undamaged input.
pub fn records(name: &str, bytes: &[u8]) -> Vec<Record> {
    let (records, damages) = damages(name, bytes);
    assert!(damages.is_empty(), "{damages:?}");
    records
}

/// What is noted of an input, as messages.
pub fn notes(name: &str, bytes: &[u8]) -> Vec<String> {
    let note = |event| match event {
        Event::Noted(note) => Some(note.to_string()),
        _ => None,
    };
    parse(name, bytes).0.into_iter().filter_map(note).collect()
}
