//! [`Error`]: everything that can go wrong with what comes from outside, in one line each; a cause
//! below it is its `source`.

use mediswift_kernels::PatternError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration, a model, a checkpoint or a training step was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A preset, a table, a key or a policy does not exist.
    #[error("{place}: unknown {what} '{found}': did you mean '{nearest}'? (known: {known})")]
    Unknown {
        /// Where it was found.
        place: Place,
        /// Kind of name.
        what: &'static str,
        /// What was found.
        found: String,
        /// The existing name most like it.
        nearest: String,
        /// All existing names.
        known: String,
    },
    /// A configuration is malformed or contradicts itself.
    #[error("{place}: {problem}")]
    Config {
        /// Where.
        place: Place,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A layer does not fit the sparse format.
    #[error("mask of '{layer}'")]
    Mask {
        /// The layer's weight.
        layer: String,
        /// Why.
        source: PatternError,
    },
    /// A token id is not below the size of the vocabulary.
    #[error("token {id} at position {position} is outside the vocabulary of {vocabulary}")]
    Token {
        /// Place in the batch.
        position: usize,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sequence is longer than the model's learned positions.
    #[error("a sequence of {tokens} tokens exceeds the model's {positions} positions: shorten it")]
    SequenceTooLong {
        /// Tokens in the sequence.
        tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A decoder has read as many tokens as the model has positions.
    #[error("all {positions} positions of the model are used: stop here or start anew")]
    ContextFull {
        /// Positions of the model.
        positions: usize,
    },
    /// A model lacks a tensor.
    #[error("tensor '{name}' is missing: the weights belong to another model")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A model has no place for a tensor.
    #[error("tensor '{name}' has no place in this model: the weights belong to another one")]
    ExtraTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has other extents than the model's.
    #[error("tensor '{name}' has shape {found:?}, but this model needs {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Extents found.
        found: Vec<usize>,
        /// Extents needed.
        expected: Vec<usize>,
    },
    /// A NaN or an infinity where a finite number must be.
    #[error("{what} '{name}' is {value} at element {position}: every value must be finite")]
    NonFinite {
        /// Weight, gradient, loss, …
        what: &'static str,
        /// Which one.
        name: String,
        /// First offending element.
        position: usize,
        /// Its value.
        value: f32,
    },
    /// An optimiser step was given up before its update.
    #[error("step {step} made no update")]
    Step {
        /// The step, from 1.
        step: usize,
        /// Why.
        source: Box<Error>,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] mediswift_data::DataError),
    /// A checkpoint cannot be used.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// Folder or file.
        path: PathBuf,
        /// What was found, and what to do.
        problem: String,
    },
    /// The system refused to read or write.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Where something wrong was found: a file, an assignment, a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    text: String,
    is_file: bool,
}

impl Place {
    /// A file.
    pub(crate) fn file(path: &Path) -> Self {
        Self { text: path.display().to_string(), is_file: true }
    }

    /// A line of this file, from 1.
    pub(crate) fn line(&self, line: usize) -> Self {
        Self { text: format!("{}:{line}", self.text), ..*self }
    }

    /// A table or key in it.
    pub(crate) fn within(&self, part: &str) -> Self {
        Self { text: format!("{}: {part}", self.text), ..*self }
    }

    /// Whether it is in a file.
    pub fn is_file(&self) -> bool {
        self.is_file
    }
}

impl<T: Into<String>> From<T> for Place {
    fn from(text: T) -> Self {
        Self { text: text.into(), is_file: false }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What kind of thing went wrong, for programs that decide what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting that was asked for makes no sense.
    Setting,
    /// Anything else.
    Other,
}

impl Error {
    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { place, .. } | Self::Config { place, .. } if !place.is_file() => {
                ErrorKind::Setting
            }
            _ => ErrorKind::Other,
        }
    }

    /// An unknown name, with the nearest of `known`.
    pub(crate) fn unknown<'a>(
        place: impl Into<Place>,
        what: &'static str,
        found: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = known
            .iter()
            .min_by_key(|name| strsim::damerau_levenshtein(&found.to_lowercase(), name))
            .unwrap_or(&"");
        Self::Unknown {
            place: place.into(),
            what,
            found: found.to_string(),
            nearest: nearest.to_string(),
            known: known.join(", "),
        }
    }

    /// A wrong configuration.
    pub(crate) fn config(place: impl Into<Place>, problem: impl Into<String>) -> Self {
        Self::Config { place: place.into(), problem: problem.into() }
    }

    /// What an I/O error becomes.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
