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
use mediswift_model::run::{StepMetrics, TrainingReport};
use mediswift_model::session::Session;
use mediswift_model::sparsity::MaskUpdate;
use mediswift_model::watch::{Pace, Progress, Watch};
use mediswift_model::{Config, Error, Reduce, plans, run};
use serde_json::json;

use crate::job::Job;
use crate::machine;
use crate::signals::StopSignal;
use crate::verb::{self, Context, Exit, Outcome, Verb};
use crate::{output, progress, trained};

/// Train a sparse or dense GPT from scratch
///
/// A preset or a configuration file says what to train; --sparsity and --set change single
/// settings. The run folder gets settings, logs, checkpoints and a report. Results depend neither
/// on the number of threads nor on interruptions: SIGINT, SIGTERM and SIGUSR1 save within one step
/// (exit codes 130, 143, 138), and --resume goes on as if nothing had happened. A second SIGINT
/// quits at once; the last checkpoint stays whole. A finished run that is resumed with a larger
/// train.steps goes on, with the learning rates that a run of so many steps has there. Started by
/// mpirun or srun, its ranks train together, with the same results as one process unless --reduce fast
/// is given.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift pretrain --preset tiny --sparsity 0.75 --data dataset --out run
  mediswift pretrain --preset small --data dataset --out dense --set train.steps=500 --set train.lr=1e-3
  mediswift pretrain --resume --data dataset --out run
  mediswift pretrain --resume --data dataset --out run --set train.steps=4000
  mpirun -n 4 mediswift pretrain --preset base --data dataset --out run
  mpirun -n 4 mediswift pretrain --preset base --data dataset --out run --reduce fast
  mediswift pretrain --preset small --sparsity 0.5 --print-config > run.toml")]
pub struct Pretrain {
    #[arg(
        long,
        value_name = "P",
        help = verb::preset_help(),
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

    /// Refuse a run whose newest checkpoint is damaged, rather than go on from an older one
    #[arg(long, requires = "resume")]
    strict: bool,

    /// Where there is no terminal, print a line every N steps, none for 0 [default: a hundred lines a
    /// run, but at least every 100 steps]
    #[arg(long, value_name = "N")]
    log_every: Option<usize>,

    /// How ranks add up gradients: exact, after the backward pass, to the same bits for any number of
    /// ranks; or fast, during the last backward pass, to the same bits for the same number of ranks
    #[arg(long, value_name = "MODE", default_value = "exact", value_parser = verb::reduce,
          help_heading = "On a cluster")]
    reduce: Reduce,

    /// Print all settings as TOML, each with what it means, and train nothing
    #[arg(long)]
    print_config: bool,
}

impl Verb for Pretrain {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let job = &context.job;
        let config = job.agree(self.settings())?;
        let (Some(data), Some(out), false) = (&self.data, &self.out, self.print_config) else {
            return Ok(Outcome::new(serde_json::to_value(&config)?, config.to_commented_toml()));
        };
        let dataset = Arc::new(job.agree(Dataset::open(data).map_err(Into::into))?);
        if !self.anyway {
            job.agree(has_room(&config, &dataset, job, self.reduce))?;
        }
        let signals = job.agree(StopSignal::watch())?;
        let bar = progress::training(config.train.steps as u64);
        let log_every = self.log_every.unwrap_or((config.train.steps / 100).clamp(1, 100));
        let mut watcher = Watcher::new(bar.clone(), log_every, &signals)?;
        let ranks = Arc::clone(context.ranks());
        let precision = config.train.precision;
        let session = if self.resume {
            let choice = trained::newest(self.strict);
            Session::resume_among(ranks, self.reduce, config, dataset, out, choice)
        } else {
            Session::start_among(ranks, self.reduce, config, dataset, out)
        };
        let mut session = session.map_err(|error| job.shared(error))?;
        if job.ranks.count() > 1 {
            output::note(sums(self.reduce));
        }
        if !IsaKind::active()?.multiplies(precision) {
            output::note(&format!(
                "precision: this CPU multiplies {precision} as f32, so steps take as long as with f32"
            ));
        }
        let ended = pretrain(&mut session, &mut watcher);
        bar.finish_and_clear();
        match ended {
            Ok(report) => Ok(finished(out, &report, job)),
            Err(Error::Stopped) => {
                signals.share(&**context.ranks())?;
                Ok(stopped(out, &signals, session.step()))
            }
            Err(error) => Err(job.shared(error)),
        }
    }

    fn uses_ranks(&self) -> bool {
        true
    }
}

/// Checks that this machine has memory for all of its ranks.
fn has_room(config: &Config, dataset: &Dataset, job: &Job, reduce: Reduce) -> anyhow::Result<()> {
    let mut config = config.clone();
    if config.model.vocabulary == 0 {
        config.model.vocabulary = dataset.vocab_size();
    }
    let each = machine::free_memory().map(|free| free / job.ranks_here() as u64);
    Ok(Memory::of_rank(&config, job.ranks.count(), reduce).require("training", each)?)
}

/// What holds of the sums of several ranks.
fn sums(reduce: Reduce) -> &'static str {
    match reduce {
        Reduce::Exact => "gradients: --reduce exact, the same bits for any number of ranks",
        Reduce::Fast => "gradients: --reduce fast, the same bits for this number of ranks alone",
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

/// Shows a run on a progress bar, or in lines where there is no terminal, and stops it at a signal.
struct Watcher<'a> {
    signals: &'a StopSignal,
    bar: ProgressBar,
    /// Steps from line to line.
    log_every: usize,
    /// What this machine can do at best, in FLOP/s; measured only if somebody watches.
    peak: f64,
    validation: String,
}

impl<'a> Watcher<'a> {
    fn new(bar: ProgressBar, log_every: usize, signals: &'a StopSignal) -> anyhow::Result<Self> {
        let peak = if bar.is_hidden() { f64::NAN } else { probe::fma_peak(IsaKind::active()?) };
        Ok(Self { signals, bar, log_every, peak, validation: String::new() })
    }

    fn stepped(&self, metrics: &StepMetrics, pace: Pace) {
        if let StepMetrics { step, masks: Some(masks), .. } = metrics {
            let MaskUpdate { dropped, grown, kept, seconds } = *masks;
            output::note(&format!(
                "step {step}: masks moved, {} weights dropped and {} grown, {} kept, in {seconds:.3} s",
                HumanCount(dropped as u64),
                HumanCount(grown as u64),
                HumanCount(kept as u64),
            ));
        }
        let StepMetrics { step, loss, .. } = *metrics;
        let speed = HumanCount(pace.tokens_per_second as u64);
        let left =
            FormattedDuration(Duration::try_from_secs_f64(pace.seconds_left).unwrap_or_default());
        let validation = &self.validation;
        if !self.bar.is_hidden() {
            let used = 100.0 * pace.flops_per_second / self.peak;
            self.bar.set_position(step as u64);
            self.bar.set_message(format!(
                "loss {loss:.4}{validation}  {speed} tokens/s  {used:.0} % of peak  {left} left"
            ));
        } else if self.log_every > 0 && step.is_multiple_of(self.log_every) {
            let steps = pace.steps;
            output::note(&format!(
                "step {step} of {steps}  loss {loss:.4}{validation}  {speed} tokens/s  {left} left"
            ));
        }
    }
}

impl Watch for Watcher<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        match progress {
            // What happens, happens on all ranks, and the first one tells.
            _ if output::is_mute() => {}
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
            Progress::Stepped { metrics, pace } => self.stepped(metrics, pace),
            Progress::Noted(note) => output::note(&format!("note: {note}")),
            Progress::Evaluated(validation) => {
                self.validation = format!("  validation {:.4}", validation.val_loss);
            }
            _ => {}
        }
        self.signals.flow()
    }
}

fn finished(out: &Path, report: &TrainingReport, job: &Job) -> Outcome {
    let mut json = json!(report);
    json["ranks"] = json!(job.ranks.count());
    json["sparsity"] =
        json!({ "target": report.target_sparsity(), "actual": report.actual_sparsity() });
    if report.mask_updates.is_some() {
        let layers = report.layers.iter().map(|layer| (layer.name.clone(), json!(layer.actual)));
        json["sparsity"]["layers"] = layers.collect::<serde_json::Map<_, _>>().into();
    }
    json["path"] = json!(out.display().to_string());
    let moved = report.mask_updates.map(|updates| format!("  mask updates     {updates}\n"));
    let text = format!(
        "{}: {} steps
  training loss    {:.4}
  validation loss  {:.4}
  tokens/s         {}
  FLOPs            {:.3e}
  parameters       {} (linear layers {}, {:.1} % left out)
{}  weights hash     {}
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
        moved.unwrap_or_default(),
        report.weights_hash,
    );
    Outcome::new(json, text)
}

fn stopped(out: &Path, signals: &StopSignal, step: usize) -> Outcome {
    let json = json!({ "step": step, "path": out.display().to_string() });
    signals.outcome(&format!("saved after step {step}; go on with --resume"), json)
}
