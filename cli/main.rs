//! The `mediswift` command line: parse, call, print.
//!
//! One file per verb. To add one, write `cli/<verb>.rs` with a clap struct that implements
//! [`verb::Verb`], and add one line to the list below.

mod bench;
mod chart;
mod compare;
mod data;
mod demo;
mod doctor;
mod eval;
mod export;
mod finetune;
mod flops;
mod generate;
mod import;
mod job;
mod machine;
mod outcome;
mod output;
mod plot;
mod pretrain;
mod progress;
mod reference;
mod score;
mod serve;
mod signals;
mod study;
#[cfg(test)]
mod tests;
mod tokenizer;
mod trained;
mod verb;

use std::env;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

use crate::job::{Job, Launch, Wishes};
use crate::verb::{Context, Verb};

verb::verbs! {
    enum Command {
        Demo(demo::Demo),
        Data(data::Data),
        Tokenizer(tokenizer::Tokenizer),
        Pretrain(pretrain::Pretrain),
        Eval(eval::Eval),
        Score(score::Score),
        Finetune(finetune::Finetune),
        Compare(compare::Compare),
        Study(study::Study),
        Generate(generate::Generate),
        Export(export::Export),
        Import(import::Import),
        Serve(serve::Serve),
        Flops(flops::Flops),
        Bench(bench::Bench),
        Plot(plot::Plot),
        Doctor(doctor::Doctor),
        Reference(reference::Reference),
    }
}

/// Train sparse GPTs faster on ordinary CPUs.
///
/// Weights are pruned before training starts and stored as CSR; every matrix product of the
/// training step skips the zeros. This is the command line of the engine.
#[derive(Parser)]
#[command(name = "mediswift", version, max_term_width = 100, subcommand_required = true)]
#[command(after_help = "Examples:
  mediswift data synth --documents 20000 --out corpus.jsonl
  mediswift data prepare corpus.jsonl --out dataset --vocab-size 4096
  mediswift help data prepare

Exit codes: 0 done, 1 failure, 2 usage, 130, 138 or 143 interrupted by a
signal after saving.")]
struct Cli {
    /// Print one JSON object on stdout instead of text; logs and progress go to stderr
    #[arg(long, global = true)]
    json: bool,

    /// How many threads to compute with [default: one per core]. Results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = verb::threads)]
    threads: Option<usize>,

    /// Stop, as at SIGTERM, when standard input ends: whoever started this holds its other end, and is no more
    #[arg(long, global = true, hide = true)]
    end_with_stdin: bool,

    #[command(flatten)]
    wishes: Wishes,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let launch = Launch::detect(|name| env::var(name).ok());
    output::speak_as(launch.map_or(0, |launch| launch.rank));
    let Cli { json, threads, end_with_stdin, wishes, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let found = signals::outlive_file_limits()
        .and_then(|()| Job::find(launch, wishes, command.uses_ranks()));
    let mut job = match found {
        Ok(job) => job,
        Err(error) => {
            output::let_the_first_speak();
            return output::finish(Err(error), json);
        }
    };
    let done = job
        .sit_down(wishes, threads)
        .and_then(|()| if end_with_stdin { signals::end_with_stdin() } else { Ok(()) })
        .and_then(|()| command.run(&Context::new(job.clone(), json, Cli::command)));
    job.end_if_lonely(&done);
    // mpirun stops whoever is left when one has gone with an error: all is said before anyone goes.
    let code = output::finish(done, json);
    job.ranks.leave();
    code
}
