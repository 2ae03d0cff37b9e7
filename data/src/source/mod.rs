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
//! PubMed's or JATS is told by its first element. Parsers push [`Event`]s, hold one record at a time,
//! and name path and byte when something is wrong; what came before the damage has then been handed
//! out.
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
//!         Event::Deleted(_) => {}
//!     }
//!     Ok(())
//! })?;
//! assert_eq!(records[0].identity.as_deref(), Some("PMID:7"));
//! # Ok::<(), mediswift_data::DataError>(())
//! ```

mod archive;
mod find;
mod format;
mod jats;
mod jsonl;
mod lines;
mod parse;
mod pubmed;
mod read;
mod record;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod walk;
mod xml;

pub use find::find;
pub(crate) use format::{Compression, Format, RecordFormat, format_of};
pub(crate) use read::read_counted;
pub use read::{read, read_bytes};
pub use record::{Event, Record, Registry, Revision, Sink};
