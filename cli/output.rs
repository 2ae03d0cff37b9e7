//! Everything that is printed at the end: the outcome on stdout, errors as one line on stderr.
//!
//! A reader that closes the pipe early (`| head`) has what it wanted; that is no failure.

use std::error::Error;
use std::io::{self, Write};
use std::iter;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

use crate::outcome::{Exit, Outcome};

/// How long a rank that has not joined the job leaves an error for the first one to say.
const GRACE: Duration = Duration::from_secs(10);

/// Which rank of a job speaks.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// Whether this rank has an error that the first one has not.
static IS_ON_ITS_OWN: AtomicBool = AtomicBool::new(false);

/// Lets this process speak as one rank of a job. Only the first one says anything but warnings.
pub fn speak_as(rank: usize) {
    RANK.store(rank, Ordering::Relaxed);
}

/// Whether another rank says what is the same on all.
pub fn is_mute() -> bool {
    RANK.load(Ordering::Relaxed) > 0
}

/// Lets the first rank speak of an error before ranks know of each other. Most likely it has the same, and
/// the launcher ends this process as soon as the first has said so and gone; were this one to go first, the
/// launcher would end the first before it spoke. Who is still there after a while has an error of its own.
pub fn let_the_first_speak() {
    if is_mute() {
        sleep(GRACE);
        IS_ON_ITS_OWN.store(true, Ordering::Relaxed);
    }
}

/// Prints what a verb returned, and turns it into an exit code.
pub fn finish(done: anyhow::Result<Outcome>, json: bool) -> ExitCode {
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(error) => {
            error_line(&with_causes(error.as_ref()));
            return ExitCode::from(error.downcast_ref::<Exit>().map_or(1, |exit| exit.code));
        }
    };
    let printed = match json && !outcome.json.is_null() {
        true => format!("{}\n", outcome.json),
        false => outcome.text,
    };
    match print(&printed) {
        Ok(()) => ExitCode::from(outcome.exit),
        Err(error) => {
            error_line(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The program by the name under which it was called, which works once more: with `cargo run` it is not
/// on the path.
pub fn program() -> String {
    std::env::args_os().next().map_or("mediswift".into(), |name| name.display().to_string())
}

/// Prints help where it was asked for, and otherwise what is wrong with the arguments.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match print(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let_the_first_speak();
    let rendered = error.render().to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        note(&rendered);
    } else {
        error_line(&one_line(&rendered));
    }
    ExitCode::from(2)
}

/// Prints a line for people on stderr.
pub fn note(line: &str) {
    if !is_mute() {
        say(line);
    }
}

/// Prints a warning on stderr, whichever rank has it.
pub fn warning(message: &str) {
    let message = message.replace('\n', " ");
    match RANK.load(Ordering::Relaxed) {
        0 => say(&format!("warning: {message}")),
        rank => say(&format!("warning: rank {rank}: {message}")),
    }
}

fn say(line: &str) {
    // In one piece: other processes may write to the same place. With stderr gone there is nobody to
    // tell.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// An error and what caused it, from the outside in.
pub fn with_causes(error: &dyn Error) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn error_line(message: &str) {
    let message = message.replace('\n', " ");
    match IS_ON_ITS_OWN.load(Ordering::Relaxed) {
        true => say(&format!("error: rank {}: {message}", RANK.load(Ordering::Relaxed))),
        false => note(&format!("error: {message}")),
    }
}

/// Whether the reader of stdout has seen enough and left, which is no failure.
pub fn reader_left(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        written => written.map(|()| false).context("cannot write to stdout"),
    }
}

/// Prints on stdout, unless its reader has left.
pub fn print(text: &str) -> anyhow::Result<()> {
    if is_mute() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    reader_left(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())).map(drop)
}

/// clap's message and its tips without the usage text that follows.
fn one_line(rendered: &str) -> String {
    let lines = rendered.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let mut message = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match message.chars().last() {
            None => {}
            Some(':') => message.push(' '),
            Some(_) => message.push_str("; "),
        }
        message.push_str(line);
    }
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message} (--help explains)")
}
