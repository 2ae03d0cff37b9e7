//! What may be wrong with a dataset folder, whole or half made.

use mediswift_files::brief;

const AGAIN: &str = "make the dataset again with `mediswift data prepare`";

/// Why a file or folder cannot be used as a dataset or a part of one, or not be replaced by one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatasetProblem {
    /// A folder without a manifest.
    #[error(
        "not a dataset folder (it has no dataset.json); make one with `mediswift data prepare`"
    )]
    NoManifest,
    /// A manifest that is not JSON.
    #[error("not valid JSON ({}); {}", brief(why), AGAIN)]
    NotJson {
        /// The answer of the JSON parser.
        why: String,
    },
    /// JSON of another kind.
    #[error("not a dataset manifest (format {}); {}", brief(found), AGAIN)]
    Foreign {
        /// What stands for the format, as JSON.
        found: String,
    },
    /// A manifest of a version that this program does not read.
    #[error("format version {}; this program reads {known}; {}", brief(found), AGAIN)]
    Version {
        /// What stands for the version, as JSON.
        found: String,
        /// The version that is read.
        known: u32,
    },
    /// A manifest that lacks something, or has what no manifest has.
    #[error("not a manifest ({}); {}", brief(why), AGAIN)]
    NotAManifest {
        /// The answer of the JSON parser.
        why: String,
    },
    /// A manifest that names a file elsewhere.
    #[error("{} is not a file name in the folder; {}", brief(format_args!("{file:?}")), AGAIN)]
    FileElsewhere {
        /// The name.
        file: String,
    },
    /// A whole shard that the manifest does not mean.
    #[error(
        "a valid shard, but of another dataset than the manifest beside it; do not mix files of two datasets"
    )]
    OtherShard,
    /// Shards that hold more or fewer tokens than the manifest says.
    #[error("the shards hold {found} tokens, the manifest says {said}; prepare the data again")]
    TokenCount {
        /// Tokens in the shards.
        found: u64,
        /// Tokens by the manifest.
        said: u64,
    },
    /// A tokenizer that the tokens were not made with.
    #[error(
        "not the tokenizer of this dataset (BLAKE3 {found}); restore the file, or prepare the data again"
    )]
    OtherTokenizer {
        /// The file's hash, in hexadecimal.
        found: String,
    },
    /// A destination without a name.
    #[error("not a folder that can be made; name a new folder")]
    NoName,
    /// A destination that holds something else.
    #[error("it exists and is not a dataset folder; choose another --out")]
    NotADataset,
    /// A destination that holds a dataset, which nobody asked to replace.
    #[error("a dataset exists there already; choose another --out, or replace it with --force")]
    Exists,
    /// A destination that another process is about to fill.
    #[error("another run is making this dataset; wait for it, or choose another --out")]
    InUse,
    /// Documents of an interrupted preparation that are damaged.
    #[error("the index is damaged; remove the folder and run the command again")]
    IndexDamaged,
    /// A report of an interrupted preparation that is damaged.
    #[error("the report is damaged ({}); remove it and run again", brief(why))]
    ReportDamaged {
        /// The answer of the JSON parser.
        why: String,
    },
}
