//! What may be wrong with a file to read texts from.

use mediswift_files::brief;

const ARCHIVE_ADVICE: &str = "fetch or pack the archive again";
const JSONL_ADVICE: &str =
    "each line must be one JSON object with `text`, or `title` and `abstract`";
const NAMES: &str =
    "inputs end in .xml, .nxml, .jsonl, .txt or .tar, perhaps followed by .gz or .zst";

/// Why an input, or a record of it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputProblem {
    /// The name is none of an input.
    #[error("not known as an input by its name; {}", NAMES)]
    UnknownName,
    /// Neither a file nor a folder.
    #[error("not a regular file; name a file or a folder")]
    NotAFile,
    /// A folder without files of known names.
    #[error("the folder holds no input{}{}; {}", if kinds.is_empty() { "" } else { ", but " }, brief(list(kinds)), NAMES)]
    EmptyFolder {
        /// Kinds of what it holds with their counts, and the first of each.
        kinds: Vec<(String, u64, String)>,
    },
    /// A compressed file without a byte.
    #[error(
        "the compressed file is empty (0 bytes); an interrupted download leaves this; fetch the file again"
    )]
    EmptyCompressed,
    /// Compressed data ends too early.
    #[error(
        "the file breaks off here (it is truncated) and what follows is lost; fetch or make it again"
    )]
    Truncated,
    /// The disk or a decompressor refuses.
    #[error(
        "the data cannot be read here ({why}) and what follows is lost; fetch or compress the file again"
    )]
    Unreadable {
        /// Its answer.
        why: String,
    },
    /// A file that is read whole and would not fit in memory, or expands as no text does.
    #[error(
        "the file of {stored} bytes expands to more than {longest}; look whether it is what it seems"
    )]
    TextTooLong {
        /// Bytes as stored.
        stored: u64,
        /// The most bytes of its text.
        longest: u64,
    },
    /// A record that would not fit in memory.
    #[error("a record is longer than {} MiB; split it, or look whether the file is what it seems", limit >> 20)]
    RecordTooLong {
        /// The most bytes of a record.
        limit: u64,
    },
    /// A byte that is no part of UTF-8.
    #[error("{byte:#04x} is not UTF-8; convert the file to UTF-8")]
    NotUtf8 {
        /// The byte.
        byte: u8,
    },
    /// A line that is no JSON.
    #[error("not a valid JSON record ({}); {}", brief(why), JSONL_ADVICE)]
    NotARecord {
        /// The answer of the JSON parser.
        why: String,
    },
    /// A line of JSON that is no object.
    #[error("the line is {found}, not an object; {}", JSONL_ADVICE)]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A field that holds something else than text.
    #[error("`{field}` is {found}, where {expected} belongs; correct or rename the field")]
    WrongField {
        /// Its name.
        field: &'static str,
        /// What it holds.
        found: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field beside the text that nothing could be made of.
    #[error("`{field}` is {found}, here and in {count} records in all; they are read without it")]
    FieldIgnored {
        /// Its name.
        field: &'static str,
        /// What it is in the first of them.
        found: &'static str,
        /// Records with such a field.
        count: u64,
    },
    /// An input without a record.
    #[error("there is no record in it; look whether the file is what it seems")]
    NoRecord,
    /// Names in a folder or an archive that are not those of inputs.
    #[error("{} were passed over: {}; {}", kinds.iter().map(|(_, count, _)| count).sum::<u64>(), brief(list(kinds)), NAMES)]
    PassedOver {
        /// Kinds with their counts, and the first of each.
        kinds: Vec<(String, u64, String)>,
    },
    /// A JSON object without any field that holds text.
    #[error(
        "the record has no `text`, `title`, `abstract` or `sections`; rename the field that holds the text"
    )]
    NoText,
    /// A record of XML, or the whole, that ends within an element.
    #[error("it breaks off within an element; if the file is cut, fetch it again")]
    Unclosed,
    /// The end of a record of XML without its beginning.
    #[error("a record ends here whose beginning is damaged")]
    StrayEnd,
    /// XML of another kind.
    #[error(
        "neither PubMed citations nor JATS articles were found; look whether the file is what it seems"
    )]
    NoLiterature,
    /// No XML.
    #[error("the record is not well-formed XML ({})", brief(why))]
    NotWellFormed {
        /// The answer of the XML parser.
        why: String,
    },
    /// Elements within elements, without end.
    #[error("the record is more than {limit} elements deep")]
    TooDeep {
        /// The deepest that is read.
        limit: usize,
    },
    /// Text of XML that is not UTF-8.
    #[error("the text is not UTF-8; convert the file to UTF-8")]
    NotUtf8Text,
    /// An entity that neither XML nor HTML defines.
    #[error("the entity &{}; is not known; put the character in its place", brief(name))]
    UnknownEntity {
        /// Its name.
        name: String,
    },
    /// A PMID that is no number.
    #[error("{} is not a PMID", brief(format_args!("{found:?}")))]
    NotAPmid {
        /// What stands there.
        found: String,
    },
    /// An archive that does not go on as archives do.
    #[error("the archive is damaged here ({}); {}", brief(why), ARCHIVE_ADVICE)]
    ArchiveDamaged {
        /// The answer of the archive's reader.
        why: String,
    },
    /// A member that is an archive.
    #[error("an archive within an archive; unpack it")]
    NestedArchive,
}

fn list(kinds: &[(String, u64, String)]) -> String {
    let kinds: Vec<String> =
        kinds.iter().map(|(kind, count, first)| format!("{count} {kind} ({first})")).collect();
    kinds.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line_whatever_it_quotes() {
        let found = "\u{1b}[2J and\n".to_owned() + &"é".repeat(1 << 20);
        let message = InputProblem::UnknownEntity { name: found }.to_string();
        assert!(message.starts_with(r"the entity &\u{1b}[2J and\nééé"), "{message}");
        assert!(message.contains("é…; is not known; ") && message.len() < 500, "{message}");
    }
}
