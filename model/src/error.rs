//! [`Error`]: everything that can go wrong with what comes from outside, in one line each; a cause
//! below it is its `source`. [`Error::kind`] is for programs that decide what to do.

use mediswift_files as files;
use mediswift_kernels::PatternError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration, a model, a checkpoint or a training step was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing of this name.
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
    /// A setting has a value of another type.
    #[error("{place}: {key} must be a {expected}, but is the {found}")]
    WrongType {
        /// Where it was found.
        place: Place,
        /// The setting.
        key: String,
        /// The type it has.
        expected: &'static str,
        /// Type and value that were found.
        found: String,
    },
    /// A setting or an option lies outside the values that make sense.
    #[error("{key}: is {value}, but must {range}")]
    OutOfRange {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// What it must: `be at least 1`, `lie in [0, 1)`.
        range: &'static str,
    },
    /// Settings are malformed, or do not fit each other, the machine or the data.
    #[error("{place}: {problem}")]
    Setting {
        /// Where.
        place: Place,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A model cannot work on what it was given.
    #[error("{what}: {problem}")]
    Input {
        /// What was given: prompt, batch, examples.
        what: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file or folder that is needed is not there.
    #[error("{}: {problem}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A folder is not that of a run.
    #[error("{}: holds no {what}: it has no {lacks}", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// `run`, `fine-tuning run`.
        what: &'static str,
        /// The file that every such folder has.
        lacks: &'static str,
    },
    /// A folder that a run or an export was to be made in is in use for something else.
    #[error("{}: {problem}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it holds, and what to do.
        problem: String,
    },
    /// Another process writes to a run.
    #[error(
        "{}: another process is writing this run: wait for it or stop it{}",
        path.display(),
        holder.map_or(String::new(), |number| format!(" (its number is {number})"))
    )]
    Busy {
        /// The run folder.
        path: PathBuf,
        /// Number of the process, if it says.
        holder: Option<u32>,
    },
    /// A run cannot go on with other settings than it was started with.
    #[error("{}: was started with other settings: {}", path.display(), differences.join("; "))]
    OtherSettings {
        /// The run folder.
        path: PathBuf,
        /// What differs, as `train.lr is 0.1 here, but 0.2 there`.
        differences: Vec<String>,
    },
    /// Files or folders that are sound by themselves do not belong together, or not to this program.
    #[error("{}: {problem}", path.display())]
    Incompatible {
        /// File or folder.
        path: PathBuf,
        /// What does not fit, and what to do.
        problem: String,
    },
    /// A file from elsewhere does not say what files of its form say.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it, what was found, and what to do.
        problem: String,
    },
    /// A file of this program's own make is incomplete or has changed.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// File, or folder of a checkpoint.
        path: PathBuf,
        /// What was found, and what to do.
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
    /// Weights have a mask where the settings want none, or none where they want one.
    #[error("sparsity: is {sparsity} for tensor '{name}', which has {}", if *has_mask { "a mask" } else { "no mask" })]
    SparsityOfTensor {
        /// The tensor.
        name: String,
        /// Sparsity that the settings ask for.
        sparsity: f64,
        /// Whether it has a mask.
        has_mask: bool,
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
    #[error(
        "tensor '{}' has no place in this model: the weights belong to another one",
        files::brief(name)
    )]
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
    #[error(
        "{what} '{name}' is {value} at element {position}: every value must be finite{}",
        way_out(what)
    )]
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
    /// Gradients of a step do not fit f16; it made no update.
    #[error(
        "gradients are too large for f16: from here on the loss is scaled by {scale}, half of before"
    )]
    TooLargeForF16 {
        /// The scale of the next step's loss.
        scale: f64,
    },
    /// Gradients of f16 are not finite even where the loss is not scaled.
    #[error(
        "gradients are not finite in f16, although the scale of the loss has been lowered to 1: a smaller \
         train.lr or train.precision=bf16 may help"
    )]
    LossScale,
    /// A model with finite weights computes no finite numbers.
    #[error(
        "the model computes {value} where a number must be: its weights have grown too large, as they do \
         when training diverges; use an earlier checkpoint"
    )]
    Overflow {
        /// What it computes: NaN or an infinity.
        value: f64,
    },
    /// An optimiser step was given up before its update.
    #[error("step {step} made no update")]
    Step {
        /// The step, from 1.
        step: usize,
        /// Why.
        source: Box<Error>,
    },
    /// Whoever watches long work asked it to stop.
    #[error("stopped")]
    Stopped,
    /// Another rank cannot go on, and so nobody can.
    #[error("rank {rank}: {problem}")]
    OtherRank {
        /// Which one.
        rank: usize,
        /// Why.
        problem: String,
    },
    /// A rank does not answer, or has ended the job.
    #[error(transparent)]
    Lost(#[from] mediswift_ranks::Lost),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] mediswift_data::DataError),
    /// Something needs more memory than is free.
    #[error(
        "{what} needs about {}, mostly for its {part}, but {} of memory are free: \
         choose a smaller model, batch or context, or --anyway to try",
        gigabytes(*need),
        gigabytes(*free)
    )]
    TooLarge {
        /// `training`, `a step`.
        what: &'static str,
        /// Bytes, as estimated.
        need: u64,
        /// Bytes that are free.
        free: u64,
        /// What needs most of them, as [`crate::memory::Memory::parts`] names it.
        part: &'static str,
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

/// For people: `1.5 GB`.
fn gigabytes(bytes: u64) -> String {
    match bytes as f64 / 1e9 {
        some @ ..1e5 => format!("{some:.1} GB"),
        many => format!("{many:.1e} GB"),
    }
}

/// What may help where training made a number that is none.
fn way_out(what: &str) -> &'static str {
    match what {
        "loss" | "gradient" | "new weight" | "new moment" => "; a smaller learning rate may help",
        _ => "",
    }
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
        Self { text: format!("{}: {}", self.text, files::brief(part)), ..*self }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or an option makes no sense: ask for another.
    Setting,
    /// A model cannot work on what it was given: give it something else.
    Input,
    /// What was named is not there.
    NotFound,
    /// Something else is where the result should go.
    Occupied,
    /// Another process is at work there: try later.
    Busy,
    /// Things that are sound do not belong together.
    Incompatible,
    /// A file from elsewhere is not what it should be.
    Malformed,
    /// A file of this program's own make has changed.
    Damaged,
    /// A number is not finite.
    NonFinite,
    /// Whoever watches asked to stop.
    Stopped,
    /// Datasets and tokenizers: the source has details.
    Data,
    /// There is not enough memory.
    Memory,
    /// The system refused.
    Io,
    /// It went wrong elsewhere: on another rank, or on the way there.
    Ranks,
}

impl From<mediswift_files::Error> for Error {
    fn from(mediswift_files::Error { action, path, source }: mediswift_files::Error) -> Self {
        Self::Io { path, action, source }
    }
}

impl Error {
    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { place, .. }
            | Self::WrongType { place, .. }
            | Self::Setting { place, .. } => match place.is_file() {
                true => ErrorKind::Malformed,
                false => ErrorKind::Setting,
            },
            Self::OutOfRange { .. } | Self::Mask { .. } => ErrorKind::Setting,
            Self::Input { .. }
            | Self::Token { .. }
            | Self::SequenceTooLong { .. }
            | Self::ContextFull { .. } => ErrorKind::Input,
            Self::NotFound { .. } | Self::NoRun { .. } => ErrorKind::NotFound,
            Self::Occupied { .. } => ErrorKind::Occupied,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::OtherSettings { .. }
            | Self::Incompatible { .. }
            | Self::SparsityOfTensor { .. }
            | Self::MissingTensor { .. }
            | Self::ExtraTensor { .. }
            | Self::TensorShape { .. } => ErrorKind::Incompatible,
            Self::Malformed { .. } => ErrorKind::Malformed,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::NonFinite { .. }
            | Self::Overflow { .. }
            | Self::LossScale
            | Self::TooLargeForF16 { .. } => ErrorKind::NonFinite,
            Self::Step { source, .. } => source.kind(),
            Self::Stopped => ErrorKind::Stopped,
            Self::OtherRank { .. } | Self::Lost(_) => ErrorKind::Ranks,
            Self::Data(_) => ErrorKind::Data,
            Self::TooLarge { .. } => ErrorKind::Memory,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            },
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
            found: files::brief(found),
            nearest: nearest.to_string(),
            known: known.join(", "),
        }
    }

    /// A value out of the `range` that it must be in.
    pub(crate) fn out_of_range(key: &str, value: impl fmt::Display, range: &'static str) -> Self {
        Self::OutOfRange { key: key.into(), value: files::brief(value), range }
    }

    /// Settings that make no sense.
    pub(crate) fn setting(place: impl Into<Place>, problem: impl Into<String>) -> Self {
        Self::Setting { place: place.into(), problem: problem.into() }
    }

    /// Something that a model cannot work on.
    pub(crate) fn input(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Input { what, problem: problem.into() }
    }

    /// Something that is not there.
    pub(crate) fn not_found(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::NotFound { path: path.into(), problem: problem.into() }
    }

    /// A place that holds something already.
    pub(crate) fn occupied(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Occupied { path: path.into(), problem: problem.into() }
    }

    /// Something that does not belong to the rest.
    pub(crate) fn incompatible(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Incompatible { path: path.into(), problem: problem.into() }
    }

    /// A file from elsewhere that is not what it should be.
    pub(crate) fn malformed(path: impl Into<PathBuf>, problem: impl fmt::Display) -> Self {
        Self::Malformed { path: path.into(), problem: files::brief(problem) }
    }

    /// A file of our own that is not what was written.
    pub(crate) fn damaged(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), problem: problem.into() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_in_a_file_is_a_malformed_file() {
        let (file, key) = (Place::file(Path::new("run.toml")), Place::from("train.lr"));
        for (place, kind) in [
            (file.clone(), ErrorKind::Malformed),
            (file.line(3), ErrorKind::Malformed),
            (file.within("[train]"), ErrorKind::Malformed),
            (key.within("value"), ErrorKind::Setting),
            (key, ErrorKind::Setting),
        ] {
            assert_eq!(Error::unknown(place.clone(), "key", "a", ["b"]).kind(), kind);
            assert_eq!(Error::setting(place, "is nonsense").kind(), kind);
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_whoever_says_so() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(Error::io("read", "a")(missing).kind(), ErrorKind::NotFound);
        assert_eq!(Error::io("read", "a")(denied).kind(), ErrorKind::Io);
        assert_eq!(Error::not_found("a", "has no step").kind(), ErrorKind::NotFound);
        let source = Box::new(Error::input("batch", "is empty"));
        assert_eq!(Error::Step { step: 1, source }.kind(), ErrorKind::Input);
    }
}
