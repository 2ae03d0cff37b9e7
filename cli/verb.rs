//! What a verb is: arguments that can be run.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use mediswift_model::error::ErrorKind;
use mediswift_model::named::Named;
use mediswift_model::presets::Preset;
use serde_json::Value;

/// A parsed verb, ready to run.
pub trait Verb {
    /// Does the work. What it returns is all that goes to stdout.
    fn run(self, context: &Context) -> anyhow::Result<Outcome>;
}

/// Declares a list of verbs as an enum of their clap structs, which itself is a verb. Help texts
/// come from the structs.
macro_rules! verbs {
    ($visibility:vis enum $list:ident { $($name:ident($verb:ty),)+ }) => {
        #[derive(clap::Subcommand)]
        $visibility enum $list {
            $(#[allow(missing_docs, reason = "the struct's documentation is the help text")]
            $name($verb),)+
        }

        impl $crate::verb::Verb for $list {
            fn run(
                self,
                context: &$crate::verb::Context,
            ) -> anyhow::Result<$crate::verb::Outcome> {
                match self {
                    $(Self::$name(verb) => verb.run(context),)+
                }
            }
        }
    };
}
pub(crate) use verbs;

/// What is the same for every verb of a call.
pub struct Context {
    /// Threads that compute.
    pub threads: usize,
    /// One JSON object is wanted on stdout.
    pub json: bool,
}

impl Context {
    /// Sets up the global thread pool.
    pub fn new(threads: Option<usize>, json: bool) -> anyhow::Result<Self> {
        if let Some(threads) = threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global()
                .with_context(|| format!("cannot start {threads} threads"))?;
        }
        Ok(Self { threads: rayon::current_num_threads(), json })
    }
}

/// What a verb has to say.
pub struct Outcome {
    /// For programs: one object, printed with `--json`; null from a verb that has printed its
    /// object already.
    pub json: Value,
    /// For people: printed as it is otherwise, so it brings its own final newline.
    pub text: String,
    /// The exit code: 0, unless a signal ended the work after saving.
    pub exit: u8,
}

impl Outcome {
    /// The outcome of work that was completed.
    pub fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), exit: 0 }
    }
}

/// An error that has an exit code of its own; any other error exits with 1.
#[derive(Debug)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    message: String,
}

impl Exit {
    /// The arguments are well-formed, but ask for something impossible.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// What is wrong with settings: a usage error, unless a file has them so.
    pub fn settings(error: mediswift_model::Error) -> anyhow::Error {
        match error.kind() {
            ErrorKind::Setting => Self::usage(error.to_string()).into(),
            _ => error.into(),
        }
    }

    /// A signal ended the work before it was done.
    pub fn interrupted(signal: u8, message: impl Into<String>) -> Self {
        Self { code: 128 + signal, message: message.into() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// Refuses to lose what is at `path`, unless told to.
pub fn refuse_to_overwrite(path: &Path, force: bool) -> anyhow::Result<()> {
    let exists = path.symlink_metadata().is_ok();
    anyhow::ensure!(
        force || !exists,
        "{}: it exists already; choose another name, or replace it with --force",
        path.display()
    );
    anyhow::ensure!(!path.is_dir(), "{}: a folder; name a file", path.display());
    Ok(())
}

/// What `--preset` says.
pub fn preset_help() -> String {
    format!("Start from the settings of a model size: {}", <&Preset>::names())
}

/// The value of `--threads`.
pub fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 4096;
    match text.parse() {
        Ok(threads) if (1..=MOST).contains(&threads) => Ok(threads),
        _ => Err(format!("choose a number of threads from 1 to {MOST}")),
    }
}
