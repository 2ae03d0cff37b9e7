//! The second half of the method, in the small: the sparse model becomes dense and learns to answer
//! questions.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use mediswift_data::synth;
use mediswift_model::finetune::report::Report;
use mediswift_model::finetune::settings::{Base, Settings};
use mediswift_model::finetune::{Job, Observer, Outcome, Progress, finetune};
use mediswift_model::tasks::task;

use crate::progress;
use crate::signals::StopSignal;

/// Fine-tunes the run `from` on `questions` questions, by default settings but `tuning`; a signal
/// gives nothing.
pub fn tune(
    from: &Path,
    out: &Path,
    questions: usize,
    tuning: &[&str],
    signals: &StopSignal,
) -> anyhow::Result<Option<Report>> {
    let folder: PathBuf = out.join("questions");
    std::fs::create_dir_all(&folder)?;
    synth::write_questions(&folder.join("ori_pqal.json"), 1, questions)?;
    let task = task("pubmedqa")?;
    let assignments = [&["finetune.seeds=1", "finetune.stages=[]"], tuning].concat();
    let settings = Settings::load(task, Base::Recipe, &assignments)?;
    let job = Job {
        task,
        settings,
        from,
        folders: &[folder],
        // There are more questions than drugs for the commonest diseases: some come twice.
        allow_overlap: true,
        out: &out.join("tuned"),
        resume: false,
    };
    let mut bar = Bar(None);
    let ended = finetune(&job, &mut bar, signals.flag())?;
    if let Some(bar) = bar.0 {
        bar.finish_and_clear();
    }
    Ok(match ended {
        Outcome::Finished(report) => Some(*report),
        Outcome::Interrupted { .. } => None,
    })
}

struct Bar(Option<ProgressBar>);

impl Observer for Bar {
    fn stepped(&mut self, progress: &Progress<'_>) {
        let bar =
            self.0.get_or_insert_with(|| progress::count(progress.steps as u64, "fine-tuning"));
        bar.set_position(progress.step as u64);
    }
}
