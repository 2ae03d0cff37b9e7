//! What may be wrong with a tokenizer's files.

use mediswift_files::brief;

const NAME_ANOTHER: &str =
    "name a tokenizer.json made by `mediswift tokenizer train` or `import`, or a GPT-2 one";
const ORDER: &str = "name the vocabulary first and the merges second";
const AGAIN: &str = "check the vocabulary, or make the tokenizer again";

/// Why a file is no tokenizer, vocabulary or list of merges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerProblem {
    /// Not JSON, or not with the fields of a tokenizer.
    #[error("not a tokenizer ({}); {}", brief(why), NAME_ANOTHER)]
    NotATokenizer {
        /// The answer of the JSON parser.
        why: String,
    },
    /// Another kind of model.
    #[error("its model is {}, not BPE; {}", brief(model), NAME_ANOTHER)]
    NotBpe {
        /// The model.
        model: String,
    },
    /// A byte-pair encoding with more than merges.
    #[error(
        "it uses dropout, ignored merges or prefixes, which are not supported; {}",
        NAME_ANOTHER
    )]
    Unsupported,
    /// Words are not those of GPT-2.
    #[error(
        "not a byte-level BPE (its {part} is {}, not ByteLevel); {}",
        brief(found),
        NAME_ANOTHER
    )]
    NotByteLevel {
        /// `pre_tokenizer` or `decoder`.
        part: &'static str,
        /// Its type.
        found: String,
    },
    /// Texts would not come back as they were.
    #[error(
        "it does not return texts unchanged (it normalizes, adds a blank or does not split as GPT-2 does); {}",
        NAME_ANOTHER
    )]
    ChangesTexts,
    /// Options of Moses that are none.
    #[error("its Moses options cannot be understood ({}); {}", brief(why), NAME_ANOTHER)]
    MosesOptions {
        /// The answer of the JSON parser.
        why: String,
    },
    /// A Moses tokenizer that does not mark ends of words.
    #[error("a moses-bpe tokenizer needs the end-of-word suffix {suffix}; {}", NAME_ANOTHER)]
    NoSuffix {
        /// The mark.
        suffix: &'static str,
    },
    /// A merge of other than two tokens.
    #[error("{} is not a merge of two tokens; {}", brief(format_args!("{line:?}")), NAME_ANOTHER)]
    NotAMerge {
        /// The merge.
        line: String,
    },
    /// A token with two ids.
    #[error("the token {} has two ids; {}", brief(format_args!("{token:?}")), AGAIN)]
    TwoIds {
        /// The token.
        token: String,
    },
    /// An id with two tokens.
    #[error("the token {} has the id {id}, which another has too; {}", brief(format_args!("{token:?}")), AGAIN)]
    SharedId {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
    },
    /// Ids with a gap.
    #[error("of its {tokens} tokens none has the id {id}; {}", AGAIN)]
    MissingId {
        /// Tokens in all.
        tokens: usize,
        /// The id.
        id: u32,
    },
    /// A token listed twice.
    #[error("the token {} comes twice (ids {first} and {second}); {}", brief(format_args!("{token:?}")), AGAIN)]
    TokenTwice {
        /// The token.
        token: String,
        /// Its ids.
        first: u32,
        /// Its ids.
        second: u32,
    },
    /// A token that must be there.
    #[error("the tokenizer has no token {token:?}; {}", AGAIN)]
    NoToken {
        /// The token.
        token: String,
    },
    /// A token of byte-bpe that stands for no bytes.
    #[error("the token {} is not written in the byte-level alphabet; {}", brief(format_args!("{token:?}")), AGAIN)]
    NotBytes {
        /// The token.
        token: String,
    },
    /// A merge of what are no tokens, or into what is none.
    #[error("the merge of {} and {} names {}, which is no token; {}",
        brief(format_args!("{left:?}")), brief(format_args!("{right:?}")), brief(format_args!("{token:?}")), AGAIN)]
    MergeOfNoToken {
        /// The left part.
        left: String,
        /// The right part.
        right: String,
        /// What is no token.
        token: String,
    },
    /// A vocabulary or list of merges that is not UTF-8.
    #[error("byte {offset} is not UTF-8; name a vocabulary or merges file")]
    NotUtf8 {
        /// Bytes before the place.
        offset: usize,
    },
    /// A vocabulary that does not map tokens to ids.
    #[error("not token → id as JSON ({}); name a vocab.json", brief(why))]
    NotTokenIds {
        /// The answer of the JSON parser.
        why: String,
    },
    /// A line of a dictionary that is none.
    #[error("line {line}: not a line `token count` of a dictionary; {}", ORDER)]
    NotAnEntry {
        /// 1-based line number.
        line: u64,
    },
    /// A line of a list of merges that is none.
    #[error("line {line}: not a merge: two tokens and perhaps a count; {}", ORDER)]
    NotAMergeLine {
        /// 1-based line number.
        line: u64,
    },
    /// A merge with a count that is none.
    #[error("line {line}: the count of the merge is not a number; {}", ORDER)]
    NotACount {
        /// 1-based line number.
        line: u64,
    },
}
