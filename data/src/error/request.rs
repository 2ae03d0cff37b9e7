//! What cannot be done, whatever the files hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why what was asked for is impossible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestProblem {
    /// No input.
    #[error("no input was named; name files or folders")]
    NoInput,
    /// The name of a file to write does not say what it will be.
    #[error("{}: the name does not say what it is; end it in .jsonl, .jsonl.gz or .jsonl.zst", path.display())]
    UnknownOutput {
        /// The file.
        path: PathBuf,
    },
    /// A fraction that is none.
    #[error("a {name} of {value} is impossible; choose one between 0 and 1")]
    Fraction {
        /// What it is a fraction of.
        name: &'static str,
        /// The number given.
        value: f64,
    },
    /// Shards of no tokens.
    #[error("a shard of 0 tokens is impossible; choose at least 1")]
    EmptyShards,
    /// No document is left to train on.
    #[error("the inputs hold no document to train on ({}); {}", left_out(dropped, *held_out),
        first_damage.as_ref().map_or("check the inputs and the validation fraction".to_owned(),
            |damage| format!("the first thing found was: {damage}")))]
    NothingToTrainOn {
        /// Records left out, by reason.
        dropped: BTreeMap<String, u64>,
        /// Documents held out.
        held_out: u64,
        /// The first damaged place, or the first note, as a message.
        first_damage: Option<String>,
    },
    /// No text to learn a vocabulary from.
    #[error("there is no text to train a tokenizer on; check that the inputs hold documents")]
    NoText,
    /// A vocabulary smaller than its alphabet.
    #[error(
        "a vocabulary of {asked} tokens cannot hold all bytes or characters; ask for at least {least}"
    )]
    SmallVocabulary {
        /// Tokens asked for.
        asked: usize,
        /// Tokens needed.
        least: usize,
    },
    /// An id that is no token's.
    #[error(
        "token id {id} (position {position}) is not in the vocabulary of {vocab_size}; ids go from 0 to {}",
        vocab_size.saturating_sub(1)
    )]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Its place among the ids given.
        position: usize,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// Windows of no tokens.
    #[error("a context of 0 tokens is impossible; choose 1 or more")]
    NoContext,
    /// A split shorter than a window.
    #[error(
        "the {split} split holds {tokens} tokens, too few for a context of {context}; choose a shorter context or prepare more data"
    )]
    ShortSplit {
        /// Name of the split.
        split: &'static str,
        /// Its tokens.
        tokens: u64,
        /// Tokens of a window.
        context: usize,
    },
    /// A position that the data does not have.
    #[error(
        "position {index} lies outside an epoch of {windows} sequences; resume with the data and context the run was started with"
    )]
    OutsideEpoch {
        /// The position asked for.
        index: u64,
        /// Sequences of an epoch.
        windows: u64,
    },
    /// A server that does not answer, or not as it should.
    #[error("{url}: {why}; check the address and the network")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// What became of it.
        why: String,
    },
    /// A folder of a server that lists no files of PubMed.
    #[error("{url} lists no pubmedYYnNNNN.xml.gz; check the --base-url")]
    NothingListed {
        /// The folder.
        url: String,
    },
    /// A file that the server does not list.
    #[error("{url} has no file number {number} ({}); choose other numbers, or another --base-url",
        listed.map_or("it lists no pubmedYYnNNNN.xml.gz".to_owned(),
            |(first, last)| format!("its files go from {first} to {last}")))]
    NotListed {
        /// The folder.
        url: String,
        /// The number asked for.
        number: u32,
        /// The first and the last number listed.
        listed: Option<(u32, u32)>,
    },
}

fn left_out(dropped: &BTreeMap<String, u64>, held_out: u64) -> String {
    let mut counts: Vec<String> = dropped
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    if held_out > 0 {
        counts.push(format!("{held_out} held out"));
    }
    if counts.is_empty() { "no records".to_owned() } else { counts.join(", ") }
}
