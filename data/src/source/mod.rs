//! Input files → records: what every format has to say, in one form.
//!
//! | module | reads | by its name |
//! |---|---|---|
//! | `pubmed` | PubMed citations, baseline and update files | `.xml` |
//! | `jats` | PubMed Central articles | `.nxml`, `.xml` |
//! | `jsonl` | one JSON object a line | `.jsonl` |
//! | `text` | plain text, a blank line between documents | `.txt` |
//!
//! each plain, gzip (several members too) or zstd, or inside a `.tar` (`archive`). Whether XML is
//! PubMed's or JATS is told by its elements. Parsers push [`Event`]s and hold one record at a time.
//! Damage is an event like a record, with path and place, and costs the record that it lies in, no other:
//! lines are told apart by their ends, records of XML by their tags, members of archives by their headers.
//! Only what cannot be gone on from (a compressed file that breaks off) is an error.
//!
//! ```
//! use std::path::Path;
//!
//! use mediswift_data::source::{Event, read_bytes};
//!
//! let lines = b"{\"pmid\": 7, \"title\": \"Aspirin\", \"abstract\": \"It inhibits platelets.\"}\n";
//! let mut records = Vec::new();
//! read_bytes(Path::new("memory.jsonl"), lines, &mut |event| {
//!     match event {
//!         Event::Record(record) => records.push(record),
//!         Event::Damaged(error) => return Err(error),
//!         Event::Deleted(_) | Event::Noted(_) => {}
//!     }
//!     Ok(())
//! })?;
//! assert_eq!(records[0].identity.as_deref(), Some("PMID:7"));
//! # Ok::<(), mediswift_data::DataError>(())
//! ```

mod archive;
mod find;
mod format;
mod frames;
mod jats;
mod jsonl;
mod lines;
mod mend;
mod parse;
mod passed_over;
mod prose;
mod pubmed;
mod read;
mod record;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod walk;
mod whole;
mod xml;

pub use find::{Found, find};
pub(crate) use format::{Compression, Format, RecordFormat, format_of};
pub(crate) use read::read_counted;
pub use read::{read, read_bytes};
pub use record::{Event, Record, Registry, Revision, Sink, Translation};
pub use whole::read_text;
