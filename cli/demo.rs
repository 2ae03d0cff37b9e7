//! `mediswift demo`: the whole method on one machine, offline, in minutes.

mod tuning;
mod twins;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::HumanCount;
use mediswift_data::clean::Cleaning;
use mediswift_data::{Dataset, Preparation, Split, TokenizerSource};
use mediswift_files as files;
use mediswift_kernels::isa::IsaKind;
use mediswift_model::config::Base;
use mediswift_model::curves::Curves;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::flops::{Convention, Workload};
use mediswift_model::generate::{GenerateOptions, Generation, generate};
use mediswift_model::run::{self, LoadedModel};
use mediswift_model::{Config, Error};
use serde_json::{Value, json};

use self::twins::{Trained, Twin};
use crate::chart::Files;
use crate::chart::losses::{Axis, Losses};
use crate::signals::StopSignal;
use crate::trained::DISCLAIMER;
use crate::verb::{Context, Outcome, Verb};
use crate::{output, progress};

/// Fraction of the linear layers' weights that the sparse twin lacks.
const SPARSITY: f64 = 0.75;

/// What a demo leaves in its folder.
const PARTS: [&str; 9] = [
    "corpus.jsonl",
    "dataset",
    "dense",
    "sparse",
    "losses.svg",
    "losses.png",
    "questions",
    "tuned",
    "demo.json",
];

/// Train a dense and a 75 % sparse GPT side by side, offline, in minutes
///
/// Makes a synthetic corpus of abstracts, trains a tokenizer and two small GPTs on the same data
/// from the same initial weights, one dense and one with three quarters of the weights left out,
/// step by step in turn; then compares losses, speed and theory, draws both curves, lets the sparse one
/// write, and fine-tunes it, dense and with a soft prompt, to answer questions with yes, no or maybe.
/// The run folders stay, for `eval` and `generate`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift demo
  mediswift demo --out /tmp/demo --threads 2
  mediswift --json demo --force")]
pub struct Demo {
    /// The folder to make
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    out: PathBuf,

    /// Replace what an earlier demo left in the folder
    #[arg(long)]
    force: bool,

    /// A few seconds with models too small to learn much: for tests
    #[arg(long, hide = true)]
    quick: bool,
}

/// How much of everything.
struct Size {
    preset: &'static str,
    documents: u64,
    vocab_size: usize,
    settings: &'static [&'static str],
    questions: usize,
    tuning: &'static [&'static str],
}

const FULL: Size = Size {
    preset: "small",
    documents: 2_500,
    vocab_size: 2_048,
    settings: &["train.steps=146", "train.batch=8", "train.lr=1e-3"],
    questions: 240,
    tuning: &["finetune.epochs=5", "finetune.batch=8", "finetune.lr=1e-3"],
};

const QUICK: Size = Size {
    preset: "micro",
    documents: 150,
    vocab_size: 400,
    settings: &[
        "model.context=192",
        "train.context=64",
        "train.steps=20",
        "train.batch=4",
        "train.micro_batch=4",
    ],
    questions: 40,
    tuning: &["finetune.epochs=1", "finetune.batch=8", "finetune.lr=1e-3"],
};

impl Verb for Demo {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let size = if self.quick { &QUICK } else { &FULL };
        let out = &self.out;
        make_room(out, self.force)?;
        let signals = StopSignal::watch()?;
        let data = out.join("dataset");
        prepare(size, out, &data, &signals)?;
        let dataset = Arc::new(Dataset::open(&data)?);

        let twin = |name: &'static str, sparsity| -> anyhow::Result<Twin> {
            Ok(Twin { name, config: settings(size, sparsity)?, out: out.join(name) })
        };
        let twins = [twin("dense", 0.0)?, twin("sparse", SPARSITY)?];
        let [dense, sparse] = match twins::train(&twins, &dataset, &signals) {
            Err(Error::Stopped) => return Ok(interrupted(out, &signals)),
            trained => trained?,
        };

        let (prompt, sample) = sample(&twins[1].out, &dataset)?;
        let questions = tuning::questions(out, size.questions)?;
        let tuned = match tuning::tune(&twins[1].out, &questions, out, size.tuning, &signals) {
            Err(Error::Stopped) => return Ok(interrupted(out, &signals)),
            tuned => tuned?,
        };
        let report = Comparison {
            config: run::read_config(&twins[1].out)?,
            dense,
            sparse,
            prompt,
            sample,
            tuned,
            isa: IsaKind::active()?,
            threads: context.threads,
            out,
        };
        report.draw()?;
        let json = report.json();
        let file = serde_json::to_vec_pretty(&json)?;
        files::write(&out.join("demo.json"), &file)?;
        output::note(DISCLAIMER);
        Ok(Outcome::new(json, report.text()))
    }
}

/// A folder without the parts of a demo; other files in it are left alone.
fn make_room(out: &Path, force: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        force || out.symlink_metadata().is_err(),
        "{}: it exists already; choose another --out, or replace an earlier demo with --force",
        out.display()
    );
    for part in PARTS {
        files::remove(&out.join(part))?;
    }
    Ok(files::create_folders(out)?)
}

/// Corpus, tokenizer and dataset.
fn prepare(size: &Size, out: &Path, data: &Path, signals: &StopSignal) -> anyhow::Result<()> {
    let corpus = out.join("corpus.jsonl");
    let bar = progress::count(size.documents, "writing");
    mediswift_data::synth::write(&corpus, 1, size.documents, &mut |done| {
        bar.set_position(done);
        signals.flow()
    })
    .map_err(|error| signals.explain(error))?;
    bar.finish_and_clear();

    let preparation = Preparation {
        tokenizer: TokenizerSource::Train {
            kind: mediswift_data::tokenizer::Kind::ByteBpe,
            vocab_size: size.vocab_size,
            min_frequency: 2,
            sample: 1.0,
        },
        // Synthetic abstracts are made from templates: near duplicates by design.
        cleaning: Cleaning { near_duplicates: None, ..Cleaning::default() },
        strict: true,
        validation_fraction: 0.05,
        ..Preparation::new(vec![corpus], data.to_path_buf())
    };
    progress::preparing(signals, |show| mediswift_data::prepare(&preparation, show))
        .map_err(|error| signals.explain(error))?;
    Ok(())
}

/// Twins differ in sparsity alone: one seed gives both the same data and initial weights.
fn settings(size: &Size, sparsity: f64) -> anyhow::Result<Config> {
    let config = Config::load(Base::Preset(size.preset), size.settings, |config| {
        config.sparsity.sparsity = sparsity;
        // Once, at the end, and all of it: `eval` then finds the same loss.
        (config.eval.every, config.eval.sequences, config.checkpoint.every) = (0, 0, 0);
    })?;
    Ok(config)
}

/// What the model in the run folder `run` makes of the beginning of a held-out document.
fn sample(run: &Path, dataset: &Dataset) -> anyhow::Result<(String, Generation)> {
    let LoadedModel { gpt, tokenizer, .. } = run::load_model(run)?;
    let prompt = dataset.window(Split::Validation, 0, 8)?;
    let options = GenerateOptions {
        temperature: 0.7,
        seed: 1,
        max_tokens: 90,
        end_token: Some(tokenizer.end_of_text()),
        ..GenerateOptions::default()
    };
    let generation = generate(&gpt, &prompt, &options, &tokenizer)?;
    Ok((tokenizer.decode(&prompt)?, generation))
}

fn interrupted(out: &Path, signals: &StopSignal) -> Outcome {
    let path = out.display().to_string();
    signals.outcome(&format!("stopped; {path} is incomplete"), json!({ "path": path }))
}

/// Both twins, and what they ran on.
struct Comparison<'a> {
    config: Config,
    dense: Trained,
    sparse: Trained,
    prompt: String,
    sample: Generation,
    tuned: TuningReport,
    isa: IsaKind,
    threads: usize,
    out: &'a Path,
}

impl Comparison<'_> {
    /// Draws the losses of both against tokens, operations and time.
    fn draw(&self) -> anyhow::Result<()> {
        let runs = ["dense", "sparse"].map(|name| Curves::read(&self.out.join(name)));
        let title = format!(
            "The same tokens and first weights, {:.0} % of them left out: {:.2}× as fast, in theory {:.2}×",
            100.0 * SPARSITY,
            self.realised_speedup(),
            self.theoretical_speedup(),
        );
        let runs = runs.into_iter().collect::<Result<_, _>>()?;
        let losses = Losses { title, runs, axes: Axis::ALL.to_vec() };
        Files::create(&self.out.join("losses.svg"))?.draw(&losses)?;
        Ok(())
    }

    fn tokens_per_second(&self, twin: &Trained) -> f64 {
        (self.config.train.batch * self.config.train.context) as f64 / twin.seconds_per_step
    }

    fn realised_speedup(&self) -> f64 {
        self.dense.seconds_per_step / self.sparse.seconds_per_step
    }

    /// By the operations that a whole step of each twin executes.
    fn theoretical_speedup(&self) -> f64 {
        Workload::of_step(&self.config).theoretical_speedup(Convention::Executed)
    }

    /// Loss of a model that knows nothing: all tokens equally likely.
    fn ignorance(&self) -> f64 {
        (self.config.model.vocabulary as f64).ln()
    }

    fn json(&self) -> Value {
        let twin = |twin: &Trained, name: &str| {
            json!({
                "val_loss": twin.report.val_loss,
                "train_loss": twin.report.train_loss,
                "tokens_per_second": self.tokens_per_second(twin),
                "seconds_per_step": twin.seconds_per_step,
                "parameters": twin.report.parameters,
                "nnz": twin.report.nnz,
                "weights_hash": twin.report.weights_hash,
                "path": self.out.join(name).display().to_string(),
            })
        };
        json!({
            "dense": twin(&self.dense, "dense"),
            "sparse": twin(&self.sparse, "sparse"),
            "sparsity": SPARSITY,
            "realised_speedup": self.realised_speedup(),
            "theoretical_speedup": self.theoretical_speedup(),
            "vocabulary": self.config.model.vocabulary,
            "loss_of_ignorance": self.ignorance(),
            "steps": self.config.train.steps,
            "prompt": self.prompt,
            "sample": self.sample.text,
            "finetune": {
                "metric": self.tuned.metric,
                "value": self.tuned.value,
                "likelihood": self.tuned.likelihood[0].mean,
                "baselines": self.tuned.baselines,
                "split": self.tuned.split,
                "path": self.out.join("tuned").display().to_string(),
            },
            "isa": self.isa.name(),
            "threads": self.threads,
            "data": self.out.join("dataset").display().to_string(),
            "losses": self.out.join("losses.svg").display().to_string(),
        })
    }

    /// What fine-tuning came to.
    fn tuned(&self) -> String {
        let tuned = &self.tuned;
        let mut text = format!(
            "Made dense and fine-tuned ({}), it answers questions about trials with yes, no or maybe\n\
             ({}):\n\n",
            tuned.method(),
            tuned.split
        );
        let mut row = |name: &str, value: f64| {
            text += &format!("  {name:<26} {:>10.1} % right\n", 100.0 * value);
        };
        row("by what it writes", tuned.generation[0].mean);
        row("by likelihood", tuned.likelihood[0].mean);
        for baseline in &tuned.baselines {
            row(&baseline.name, baseline.scores[0].value);
        }
        text
    }

    fn text(&self) -> String {
        let (model, train) = (&self.config.model, &self.config.train);
        let (dense, sparse) = (&self.dense, &self.sparse);
        let mut text = format!(
            "\nTwo GPTs of {} layers x {}, trained in turn on the same {} tokens ({}, {})\n\n",
            model.layers,
            model.d_model,
            HumanCount((train.steps * train.batch * train.context) as u64),
            self.isa,
            if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) },
        );
        let mut row = |label: &str, dense: String, sparse: String| {
            text += &format!("  {label:<26} {dense:>12} {sparse:>14}\n");
        };
        let count = |n: usize| HumanCount(n as u64).to_string();
        let speed = |twin| HumanCount(self.tokens_per_second(twin) as u64).to_string();
        let milliseconds = |twin: &Trained| format!("{:.0} ms", 1e3 * twin.seconds_per_step);
        let loss = |twin: &Trained| format!("{:.3}", twin.report.val_loss);
        row("", "dense".into(), format!("{:.0} % sparse", 100.0 * SPARSITY));
        row("weights in linear layers", count(dense.report.nnz), count(sparse.report.nnz));
        row("validation loss", loss(dense), loss(sparse));
        row("tokens per second", speed(dense), speed(sparse));
        row("median step", milliseconds(dense), milliseconds(sparse));
        text += &format!(
            "
  realised speedup     {:.2}x  (median step of dense over sparse)
  theoretical speedup  {:.2}x  (operations of a whole step, dense over sparse)

A model that has learnt nothing has a loss of {:.3}. Given the beginning of a held-out document,
\"{}\", the sparse model writes:

{}
{}
The curves of both are drawn in {out}/losses.svg. Go on with:
  {program} eval {out}/sparse --data {out}/dataset
  {program} generate {out}/sparse --prompt \"{}\"
",
            self.realised_speedup(),
            self.theoretical_speedup(),
            self.ignorance(),
            self.prompt.trim(),
            wrapped(&self.sample.text),
            self.tuned(),
            self.prompt.trim().replace('"', ""),
            out = self.out.display(),
            program = output::program(),
        );
        text
    }
}

/// Indented lines of words, narrow enough for any terminal.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 88;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].chars().count() + word.chars().count() > WIDTH {
            lines.push(format!(" {word}"));
        } else {
            lines[last] += &format!(" {word}");
        }
    }
    lines.iter().map(|line| format!(" {line}\n")).collect()
}
