//! What the fuzz targets share.

use std::path::Path;

use mediswift_data::DataError;
use mediswift_data::clean::Cleaning;
use mediswift_data::source::{Event, read_bytes};

/// Reads and cleans what would be the file `name`, and checks what must hold whatever it is.
pub fn read(name: &str, bytes: &[u8]) {
    let cleaning = Cleaning { languages: Vec::new(), min_words: 0, ..Cleaning::default() };
    let outcome = read_bytes(Path::new(name), bytes, &mut |event| {
        match event {
            Event::Record(record) => {
                if let Ok(document) = cleaning.clean(record) {
                    assert!(!document.text.trim().is_empty());
                    assert!(!document.text.contains("\n\n") && !document.text.contains("  "));
                }
            }
            Event::Damaged(error) | Event::Noted(error) => check(&error),
            Event::Deleted(_) => {}
        }
        Ok(())
    });
    if let Err(error) = outcome {
        check(&error);
    }
}

/// An error is a line that names its file.
pub fn check(error: &DataError) {
    let message = error.to_string();
    assert!(message.contains("input"), "{message}");
    assert!(!message.contains(char::is_control) && message.len() < 2000, "{message}");
}
