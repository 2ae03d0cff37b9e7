//! `mediswift pretrain`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{FormattedDuration, HumanCount, ProgressBar};
use mediswift_data::Dataset;
use mediswift_kernels::isa::IsaKind;
use mediswift_kernels::probe;
use mediswift_model::config::Base;
use mediswift_model::memory::Memory;
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::TrainingReport;
use mediswift_model::session::Session;
use mediswift_model::watch::{Progress, Watch};
use mediswift_model::{Config, Error, plans, run};
use serde_json::json;

use crate::machine;
use crate::signals::StopSignal;
use crate::verb::{Context, Exit, Outcome, Verb};
use crate::{output, progress};

/// Train a sparse or dense GPT from scratch
///
/// A preset or a configuration file says what to train; --sparsity and --set change single
/// settings. The run folder gets settings, logs, checkpoints and a report. Results depend neither
/// on the number of threads nor on interruptions: SIGINT, SIGTERM and SIGUSR1 save within one step
/// (exit codes 130, 143, 138), and --resume goes on as if nothing had happened. A second SIGINT
/// quits at once; the last checkpoint stays whole.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift pretrain --preset tiny --sparsity 0.75 --data dataset --out run
  mediswift pretrain --preset small --data dataset --out dense --set train.steps=500 --set train.lr=1e-3
  mediswift pretrain --resume --data dataset --out run
  mediswift pretrain --preset small --sparsity 0.5 --print-config > run.toml")]
pub struct Pretrain {
    /// Start from the settings of a model size: micro, tiny, small, base, med, large or xl
    #[arg(
        long,
        value_name = "P",
        conflicts_with = "config",
        required_unless_present_any = ["config", "resume"]
    )]
    preset: Option<String>,

    /// Start from the settings in a TOML file
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,

    /// The dataset folder to train on, made by `data prepare`
    #[arg(long, value_name = "D", required_unless_present = "print_config")]
    data: Option<PathBuf>,

    /// The run folder to make
    #[arg(long, value_name = "RUN", required_unless_present = "print_config")]
    out: Option<PathBuf>,

    /// Fraction of the linear layers' weights to leave out, from 0 up to, not including, 1
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    sparsity: Option<f64>,

    /// Kernel strategies of a new run, from a file that `bench layer --save-plans` wrote
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    plans: Option<PathBuf>,

    /// Change one setting, as in train.lr=1e-3; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on with the run in --out, by its own settings unless others are given
    #[arg(long)]
    resume: bool,

    /// Train even what seems not to fit into memory
    #[arg(long)]
    anyway: bool,

    /// Print all settings as TOML, each with what it means, and train nothing
    #[arg(long)]
    print_config: bool,
}

impl Verb for Pretrain {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let config = self.settings()?;
        let (Some(data), Some(out), false) = (&self.data, &self.out, self.print_config) else {
            return Ok(Outcome::new(serde_json::to_value(&config)?, config.to_commented_toml()));
        };
        let dataset = Arc::new(Dataset::open(data)?);
        if !self.anyway {
            let mut with_vocabulary = config.clone();
            if config.model.vocabulary == 0 {
                with_vocabulary.model.vocabulary = dataset.vocab_size();
            }
            Memory::of_step(&with_vocabulary).require("training", machine::free_memory())?;
        }
        let signals = StopSignal::watch()?;
        let bar = progress::training(config.train.steps as u64);
        let mut session = if self.resume {
            Session::resume(config, dataset, out)?
        } else {
            Session::start(config, dataset, out)?
        };
        let ended = pretrain(&mut session, &mut Watcher::new(bar.clone(), &signals)?);
        bar.finish_and_clear();
        match ended {
            Ok(report) => Ok(finished(out, &report)),
            Err(Error::Stopped) => Ok(stopped(out, &signals, session.step())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Pretrain {
    /// The settings that the options describe, checked.
    fn settings(&self) -> anyhow::Result<Config> {
        let base = match (&self.preset, &self.config, &self.out) {
            (Some(preset), ..) => Base::Preset(preset),
            (None, Some(file), _) => Base::File(file),
            (None, None, Some(run)) => Base::Given(Box::new(run::read_config(run)?)),
            (None, None, None) => {
                return Err(Exit::usage("--resume needs --out RUN: which run to go on with").into());
            }
        };
        let plans = self.plans.as_deref().map(plans::read).transpose()?;
        Config::load(base, &self.set, |config| {
            config.sparsity.sparsity = self.sparsity.unwrap_or(config.sparsity.sparsity);
            if let Some(plans) = plans {
                config.kernels.plans = plans;
            }
        })
        .map_err(Exit::settings)
    }
}

/// Shows a run on a progress bar, and stops it at a signal.
struct Watcher<'a> {
    signals: &'a StopSignal,
    bar: ProgressBar,
    /// What this machine can do at best, in FLOP/s; measured only if somebody watches.
    peak: f64,
    validation: String,
}

impl<'a> Watcher<'a> {
    fn new(bar: ProgressBar, signals: &'a StopSignal) -> anyhow::Result<Self> {
        let peak = if bar.is_hidden() { f64::NAN } else { probe::fma_peak(IsaKind::active()?) };
        Ok(Self { signals, bar, peak, validation: String::new() })
    }
}

impl Watch for Watcher<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Resumed { step, checkpoint, skipped } => {
                for problem in skipped {
                    output::warning(&format!("passed over: {problem}"));
                }
                output::note(&match checkpoint {
                    Some(path) => format!("resumed after step {step}: {}", path.display()),
                    None => "there was no checkpoint yet: starting again".to_string(),
                });
                self.bar.set_position(step as u64);
            }
            // Long steps and evaluations: the clock shows that they get on.
            Progress::Accumulated { .. } | Progress::Judging { .. } => self.bar.tick(),
            Progress::Skipped(problem) => {
                output::warning(&format!("skipped: {}", output::with_causes(problem)));
            }
            Progress::Stepped { metrics, pace } => {
                self.bar.set_position(metrics.step as u64);
                self.bar.set_message(format!(
                    "loss {:.4}{}  {} tokens/s  {:.0} % of peak  {} left",
                    metrics.loss,
                    self.validation,
                    HumanCount(pace.tokens_per_second as u64),
                    100.0 * pace.flops_per_second / self.peak,
                    FormattedDuration(Duration::from_secs_f64(pace.seconds_left)),
                ));
            }
            Progress::Evaluated(validation) => {
                self.validation = format!("  validation {:.4}", validation.val_loss);
            }
            _ => {}
        }
        self.signals.flow()
    }
}

fn finished(out: &Path, report: &TrainingReport) -> Outcome {
    let mut json = json!(report);
    json["sparsity"] =
        json!({ "target": report.target_sparsity(), "actual": report.actual_sparsity() });
    json["path"] = json!(out.display().to_string());
    let text = format!(
        "{}: {} steps
  training loss    {:.4}
  validation loss  {:.4}
  tokens/s         {}
  FLOPs            {:.3e}
  parameters       {} (linear layers {}, {:.1} % left out)
  weights hash     {}
",
        out.display(),
        HumanCount(report.step as u64),
        report.train_loss,
        report.val_loss,
        HumanCount(report.tokens_per_second as u64),
        report.flops,
        HumanCount(report.parameters as u64),
        HumanCount(report.nnz as u64),
        100.0 * report.actual_sparsity(),
        report.weights_hash,
    );
    Outcome::new(json, text)
}

fn stopped(out: &Path, signals: &StopSignal, step: usize) -> Outcome {
    let json = json!({ "step": step, "path": out.display().to_string() });
    signals.outcome(&format!("saved after step {step}; go on with --resume"), json)
}
