//! The texts of one file, to be used as they are and not to become a dataset.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use crate::DataError;
use crate::clean::{Document, text_of};
use crate::source::{self, Event};

/// Texts that are read ahead of their user.
const AHEAD: usize = 256;

/// The records of a file in any format that [`source`] reads as texts, cleaned as
/// [`prepare`](crate::prepare()) cleans them but none left out; they may be empty. They are read on a
/// thread of its own while earlier ones are worked on.
/// # Errors
/// The first damage is the last item: a part of a file is not what was asked for.
pub fn texts(path: PathBuf) -> impl Iterator<Item = Result<Document, DataError>> {
    let (send, receive) = mpsc::sync_channel(AHEAD);
    thread::spawn(move || {
        let read = source::read(&path, &mut |event| match event {
            Event::Record(record) => {
                let document = Document { text: text_of(&record), identity: record.identity };
                // Nobody listens any more.
                send.send(Ok(document)).map_err(|_| DataError::Interrupted)
            }
            Event::Damaged(damage) => Err(damage),
            Event::Deleted(_) | Event::Noted(_) => Ok(()),
        });
        if let Err(error) = read {
            let _ = send.send(Err(error));
        }
    });
    receive.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_in_order_and_end_at_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let lines = "{\"id\": 7, \"text\": \"One.\"}\n{\"text\": \"Two.\"}\n{\"text\": 3}\n{}\n";
        std::fs::write(&path, lines).unwrap();
        let found: Vec<_> = texts(path).collect();
        let text = |at: usize| found[at].as_ref().unwrap();
        assert_eq!((text(0).text.as_str(), text(1).text.as_str()), ("One.", "Two."));
        assert!(text(0).identity.is_some() && text(1).identity.is_none());
        assert!(found[2].is_err());
        assert_eq!(found.len(), 3);
        let mut unread = texts(folder.path().join("none.jsonl"));
        assert!(unread.next().unwrap().is_err() && unread.next().is_none());
    }
}
