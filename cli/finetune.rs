//! `mediswift finetune`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use indicatif::ProgressBar;
use mediswift_model::Error;
use mediswift_model::finetune::compare::Comparison;
use mediswift_model::finetune::folder::read_settings;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::finetune::settings::{Settings, TuningBase};
use mediswift_model::finetune::{Job, finetune};
use mediswift_model::memory::Memory;
use mediswift_model::named::Named;
use mediswift_model::run;
use mediswift_model::tasks::{Task, task};
use mediswift_model::watch::{Progress, Watch};
use serde_json::json;

use crate::chart::Files;
use crate::chart::sizes::Sizes;
use crate::machine;
use crate::signals::StopSignal;
use crate::trained::{DISCLAIMER, Which};
use crate::verb::{Context, Exit, Outcome, Verb};
use crate::{output, progress};

/// Fine-tune a pre-trained model for a task, and judge it
///
/// The mask of a sparse model falls: its missing weights come back as zeros, and all weights train,
/// together with a soft prompt. A grid of batch sizes and learning rates is searched on dev; the
/// best is trained with several seeds and judged on test, by what it generates and by likelihood.
/// A signal (SIGINT, SIGTERM, SIGUSR1) stops after the step under way; --resume repeats no finished
/// training. For research only, not for clinical use.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift finetune pubmedqa --from run --data pubmedqa --out tuned
  mediswift finetune hoc --from run --data hoc --out tuned --set finetune.lr=[1e-3,5e-4]
  mediswift finetune pubmedqa --from run --data pubmedqa --out prompt --set finetune.weights=frozen
  mediswift finetune pubmedqa --from run --data pubmedqa --out tuned --resume
  mediswift finetune hoc --print-config > hoc.toml")]
pub struct Finetune {
    #[arg(value_name = "TASK", help = format!("The task: {}", <&dyn Task>::names()))]
    task: String,

    /// The run folder of the pre-trained model
    #[arg(long, value_name = "RUN", required_unless_present = "print_config")]
    from: Option<PathBuf>,

    #[command(flatten)]
    which: Which,

    /// The folder with the task's files
    #[arg(long, value_name = "D", required_unless_present = "print_config")]
    data: Option<PathBuf>,

    /// Another folder to look for files in, such as those of earlier stages; may be repeated
    #[arg(long, value_name = "D")]
    also: Vec<PathBuf>,

    /// The run folder to make
    #[arg(long, value_name = "RUN2", required_unless_present = "print_config")]
    out: Option<PathBuf>,

    /// Start from the settings in a TOML file instead of the paper's recipe
    #[arg(long, value_name = "F", conflicts_with = "resume")]
    config: Option<PathBuf>,

    /// Change one setting, as in finetune.epochs=3; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on with the run in --out, by its own settings
    #[arg(long)]
    resume: bool,

    /// Train also on examples that are in the test set
    #[arg(long)]
    allow_overlap: bool,

    /// Train even what seems not to fit into memory
    #[arg(long)]
    anyway: bool,

    /// Print all settings as TOML, each with what it means, and train nothing
    #[arg(long)]
    print_config: bool,
}

impl Verb for Finetune {
    fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let task = task(&self.task).map_err(Exit::settings)?;
        let settings = self.settings(task)?;
        let (Some(from), Some(data), Some(out), false) =
            (&self.from, &self.data, &self.out, self.print_config)
        else {
            return Ok(Outcome::new(
                serde_json::to_value(&settings)?,
                settings.to_commented_toml(),
            ));
        };
        // What is no run is refused below, where all files are read.
        if let (Ok(config), false) = (run::read_config(from), self.anyway) {
            let memory = Memory::of_tuning(&config, &settings);
            memory.require("fine-tuning", machine::free_memory())?;
        }
        let folders: Vec<PathBuf> = [data].into_iter().chain(&self.also).cloned().collect();
        let signals = StopSignal::watch()?;
        let job = Job {
            task,
            settings,
            from,
            choice: self.which.choice(),
            folders: &folders,
            allow_overlap: self.allow_overlap,
            out,
            resume: self.resume,
        };
        let mut watcher = Watcher { signals: &signals, bar: None };
        let ended = finetune(&job, &mut watcher);
        watcher.clear();
        match ended {
            Ok(report) => {
                Files::create(&out.join("accuracy.svg"))?
                    .draw(&Sizes(&Comparison::new(out, &report)))?;
                output::note(DISCLAIMER);
                let mut json = json!(report);
                json["path"] = json!(out);
                Ok(Outcome::new(json, text(&report)))
            }
            Err(Error::Stopped) => Ok(signals.outcome(
                "finished trainings are saved; go on with --resume",
                json!({ "path": out.display().to_string() }),
            )),
            Err(error) => Err(error.into()),
        }
    }
}

impl Finetune {
    /// The settings that the options describe, checked.
    fn settings(&self, task: &dyn Task) -> anyhow::Result<Settings> {
        let base = match (&self.config, &self.out) {
            (Some(file), _) => TuningBase::File(file),
            (None, Some(out)) if self.resume => TuningBase::Given(Box::new(read_settings(out)?)),
            _ => TuningBase::Recipe,
        };
        Settings::load(task, base, &self.set).map_err(Exit::settings)
    }
}

/// The report in a few lines.
fn text(report: &TuningReport) -> String {
    let mut text = format!(
        "{:.2} % {} (mean of {} seeds ± {:.2})\n  {}; {}\n",
        100.0 * report.value,
        report.metric,
        report.seeds.len(),
        100.0 * report.std,
        report.split,
        report.method(),
    );
    let mut row = |name: &str, value: f64, std: Option<f64>| {
        let std = std.map_or(String::new(), |std| format!(" ± {:.2}", 100.0 * std));
        text += &format!("  {name:<24} {:>6.2} %{std}\n", 100.0 * value);
    };
    row("by generation", report.generation[0].mean, Some(report.generation[0].std));
    row("by likelihood", report.likelihood[0].mean, Some(report.likelihood[0].std));
    for baseline in &report.baselines {
        row(&baseline.name, baseline.scores[0].value, None);
    }
    report.notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
    text
}

/// Shows every training on a progress bar, and stops at a signal.
struct Watcher<'a> {
    signals: &'a StopSignal,
    bar: Option<ProgressBar>,
}

impl Watcher<'_> {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints a line above the bar.
    fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }
}

impl Watch for Watcher<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Began { training, index, count, known } => {
                self.clear();
                let done = if known { " (known)" } else { "" };
                output::note(&format!("training {index} of {count}: {training}{done}"));
            }
            Progress::Tuned { epoch, step, steps, loss } => {
                let bar = || progress::count(steps as u64, "fine-tuning");
                let bar = self.bar.get_or_insert_with(bar);
                bar.set_position(step as u64);
                bar.set_message(format!("epoch {epoch}  loss {loss:.4}"));
                // Where nobody sees the bar: ten lines a training.
                if bar.is_hidden() && step.is_multiple_of((steps / 10).max(1)) {
                    output::note(&format!("  step {step} of {steps}  loss {loss:.4}"));
                }
            }
            Progress::Passed { epoch, train_loss, dev_loss, dev_score } => self.note(&format!(
                "  epoch {epoch}: loss {train_loss:.4}, dev loss {dev_loss:.4}, dev score {:.2} %",
                100.0 * dev_score
            )),
            Progress::Noted(note) => self.note(&format!("note: {note}")),
            _ => {}
        }
        self.signals.flow()
    }
}
