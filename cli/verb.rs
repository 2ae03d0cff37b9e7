//! What a verb is: arguments that can be run.

use std::path::Path;
use std::sync::Arc;

use mediswift_model::Reduce;
use mediswift_model::named::Named;
use mediswift_model::presets::Preset;
use mediswift_ranks::Ranks;

use crate::job::Job;
pub use crate::outcome::{Exit, Outcome};

/// A parsed verb, ready to run.
pub trait Verb {
    /// Does the work. What it returns is all that goes to stdout.
    fn run(self, context: &Context) -> anyhow::Result<Outcome>;

    /// Whether several ranks can do it together. Where they do, errors that not all of them have must
    /// be [agreed](Job::agree) on.
    fn uses_ranks(&self) -> bool {
        false
    }
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

            fn uses_ranks(&self) -> bool {
                match self {
                    $(Self::$name(verb) => verb.uses_ranks(),)+
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
    /// The ranks that do it together.
    pub job: Job,
    /// All verbs and options, for one that describes them.
    pub command_line: fn() -> clap::Command,
}

impl Context {
    /// For a job whose threads have started.
    pub fn new(job: Job, json: bool, command_line: fn() -> clap::Command) -> Self {
        Self { threads: job.threads, json, job, command_line }
    }

    /// Which rank this is of how many, and how it talks to the others.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.job.ranks
    }
}

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

/// The value of `--reduce`.
pub fn reduce(text: &str) -> Result<Reduce, String> {
    let found = Reduce::all().find(|one| one.name() == text);
    found.ok_or_else(|| format!("it is {}", Reduce::names()))
}

/// The value of `--threads`.
pub fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 4096;
    match text.parse() {
        Ok(threads) if (1..=MOST).contains(&threads) => Ok(threads),
        _ => Err(format!("choose a number of threads from 1 to {MOST}")),
    }
}
