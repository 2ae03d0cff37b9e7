//! What may be wrong with a file to read texts from.

use std::path::PathBuf;

use super::brief::brief;

const XML_ADVICE: &str = "fetch the file again; records before this place were read";
const ARCHIVE_ADVICE: &str = "fetch or pack the archive again";
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
    #[error("the folder holds no input; {}", NAMES)]
    EmptyFolder,
    /// A compressed file without a byte.
    #[error(
        "the compressed file is empty (0 bytes); an interrupted download leaves this; fetch the file again"
    )]
    EmptyCompressed,
    /// Compressed data ends too early.
    #[error(
        "the compressed data breaks off here (the file is truncated); fetch or compress the file again"
    )]
    Truncated,
    /// The disk or a decompressor refuses.
    #[error("the data cannot be read here ({why}); fetch or compress the file again")]
    Unreadable {
        /// Its answer.
        why: String,
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
    /// A line that is no JSON, or has a field of another type.
    #[error(
        "not a valid JSON record ({}); each line must be one JSON object with `text`, or `title` and `abstract`",
        brief(why)
    )]
    NotARecord {
        /// The answer of the JSON parser.
        why: String,
    },
    /// A JSON object without any field that holds text.
    #[error(
        "the record has no `text`, `title`, `abstract` or `sections`; rename the field that holds the text"
    )]
    NoText,
    /// XML that ends within an element.
    #[error("the file breaks off within an element; {}", XML_ADVICE)]
    Unclosed,
    /// XML of another kind.
    #[error("neither PubMed citations nor JATS articles were found; {}", XML_ADVICE)]
    NoLiterature,
    /// No XML.
    #[error("not well-formed XML ({}); {}", brief(why), XML_ADVICE)]
    NotWellFormed {
        /// The answer of the XML parser.
        why: String,
    },
    /// Elements within elements, without end.
    #[error("more than {limit} elements deep; {}", XML_ADVICE)]
    TooDeep {
        /// The deepest that is read.
        limit: usize,
    },
    /// Text of XML that is not UTF-8.
    #[error("the text is not UTF-8; {}", XML_ADVICE)]
    NotUtf8Text,
    /// An entity that neither XML nor HTML defines.
    #[error("the entity &{}; is not known; {}", brief(name), XML_ADVICE)]
    UnknownEntity {
        /// Its name.
        name: String,
    },
    /// A PMID that is no number.
    #[error("{} is not a PMID; {}", brief(format_args!("{found:?}")), XML_ADVICE)]
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
    /// An archive that ends within a member.
    #[error("the archive breaks off within {}; {}", brief(member.display()), ARCHIVE_ADVICE)]
    MemberCut {
        /// The member.
        member: PathBuf,
    },
    /// A member that is an archive.
    #[error("an archive within an archive; unpack it")]
    NestedArchive,
    /// A member that would not fit in memory.
    #[error("a member of {size} bytes; the limit is {limit}; unpack the archive")]
    MemberTooLong {
        /// Bytes of the member.
        size: u64,
        /// The most bytes of a member.
        limit: u64,
    },
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
