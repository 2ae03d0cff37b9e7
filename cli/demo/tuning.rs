//! The second half of the method, in the small: the sparse model becomes dense and learns to answer
//! questions.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use mediswift_data::synth;
use mediswift_model::Error;
use mediswift_model::checkpoint::Choice;
use mediswift_model::finetune::report::TuningReport;
use mediswift_model::finetune::settings::{Settings, TuningBase};
use mediswift_model::finetune::{Job, finetune};
use mediswift_model::tasks::task;
use mediswift_model::watch::{Progress, Watch};

use crate::progress;
use crate::signals::StopSignal;

/// Writes `count` questions to a folder in `out`, and says where it is.
pub fn questions(out: &Path, count: usize) -> anyhow::Result<PathBuf> {
    let folder = out.join("questions");
    mediswift_files::create_folders(&folder)?;
    synth::write_questions(&folder.join("ori_pqal.json"), 1, count)?;
    Ok(folder)
}

/// Fine-tunes the run `from` on the questions in `folder`, by default settings but `tuning`.
pub fn tune(
    from: &Path,
    folder: &Path,
    out: &Path,
    tuning: &[&str],
    signals: &StopSignal,
) -> Result<TuningReport, Error> {
    let task = task("pubmedqa")?;
    let assignments = [&["finetune.seeds=1", "finetune.stages=[]"], tuning].concat();
    let settings = Settings::load(task, TuningBase::Recipe, &assignments)?;
    let job = Job {
        task,
        settings,
        from,
        choice: Choice::default(),
        folders: &[folder.to_path_buf()],
        // There are more questions than drugs for the commonest diseases: some come twice.
        allow_overlap: true,
        out: &out.join("tuned"),
        resume: false,
    };
    let mut shown = Shown { signals, bar: None };
    let tuned = finetune(&job, &mut shown);
    if let Some(bar) = shown.bar {
        bar.finish_and_clear();
    }
    tuned
}

/// Shows fine-tuning on a bar.
struct Shown<'a> {
    signals: &'a StopSignal,
    bar: Option<ProgressBar>,
}

impl Watch for Shown<'_> {
    fn see(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        if let Progress::Tuned { step, steps, .. } = progress {
            let bar = || progress::count(steps as u64, "fine-tuning");
            self.bar.get_or_insert_with(bar).set_position(step as u64);
        }
        self.signals.flow()
    }
}
