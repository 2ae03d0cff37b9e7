//! What may be wrong with a token shard.

/// Why a file is no shard to read tokens from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardProblem {
    /// Shorter than a header.
    #[error("the file ends; a shard has at least {least} bytes")]
    NoHeader {
        /// Bytes of a header.
        least: u64,
    },
    /// A file of another kind.
    #[error("not a token shard (it begins with \"{}\")", begins.escape_ascii())]
    Foreign {
        /// The first bytes.
        begins: [u8; 8],
    },
    /// Of a format that this program does not read.
    #[error("format version {found}; this program reads {known}")]
    Version {
        /// The file's version.
        found: u32,
        /// The version that is read.
        known: u32,
    },
    /// The checksum of the header is wrong.
    #[error("the header is damaged (CRC-32 {stored:08x}, computed {computed:08x})")]
    HeaderSum {
        /// The sum in the file.
        stored: u32,
        /// The sum of what is there.
        computed: u32,
    },
    /// The width of a token is not the one for a vocabulary of this size.
    #[error("{found} bytes per token do not suit the vocabulary")]
    TokenBytes {
        /// Bytes per token, by the header.
        found: u32,
    },
    /// The file is longer or shorter than its header says.
    #[error("the file has {size} bytes, its header says {}",
        expected.map_or("an impossible number of".to_owned(), |n| n.to_string()))]
    Size {
        /// Bytes of the file.
        size: u64,
        /// Bytes by the header; none for counts no file could hold.
        expected: Option<u64>,
    },
    /// The checksum of tokens and document index is wrong.
    #[error("the tokens are damaged (CRC-32 {stored:08x}, computed {computed:08x})")]
    TokenSum {
        /// The sum in the header.
        stored: u32,
        /// The sum of what is there.
        computed: u32,
    },
    /// A token that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary")]
    TokenOutside {
        /// The token.
        id: u32,
    },
    /// The document index does not rise, or leaves the tokens.
    #[error("document {document} cannot begin at token {start}")]
    DocumentStart {
        /// Number of the document.
        document: u64,
        /// Its first token, by the index.
        start: u64,
    },
    /// The file became shorter after it was opened.
    #[error("the file was cut to {size} bytes while it was in use")]
    Cut {
        /// Bytes left.
        size: u64,
    },
}
