//! Whole runs whose process, or power, stops after any step.

mod support;

use mediswift_data::Dataset;
use mediswift_files::faults::{self, Recording, Step};
use mediswift_model::Config;
use mediswift_model::checkpoint::{self, weights_hash};
use mediswift_model::error::ErrorKind;
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, StepMetrics, TrainingReport};
use mediswift_model::session::Session;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Three steps, each saved, each save but the first followed by the removal of the one before.
fn config() -> Config {
    let mut config = support::config(0.75);
    for assignment in ["train.steps=3", "train.batch=2", "checkpoint.every=1", "checkpoint.keep=1"]
    {
        config.set(assignment).unwrap();
    }
    config
}

fn finish(mut session: Session) -> TrainingReport {
    pretrain(&mut session, &mut ()).unwrap()
}

/// Starts the run in `out`, or takes it up, whichever it needs.
fn start_or_resume(data: &Arc<Dataset>, out: &Path) -> TrainingReport {
    let data = Arc::clone(data);
    let session = if out.join("config.toml").exists() {
        Session::resume(config(), data, out)
    } else {
        Session::start(config(), data, out)
    };
    finish(session.unwrap())
}

/// What must be the same in equal runs.
fn result(report: &TrainingReport, out: &Path) -> (String, f64, Vec<(usize, f64)>, String) {
    let metrics = run::read_log::<StepMetrics>(out).unwrap();
    let losses = metrics.into_iter().map(|line| (line.step, line.loss)).collect();
    let validations = fs::read_to_string(out.join("validation.jsonl")).unwrap();
    (report.weights_hash.clone(), report.val_loss, losses, validations)
}

/// The step of the newest checkpoint, all of which must be readable.
fn newest(checkpoints: &Path) -> Option<u64> {
    let found = checkpoint::latest(checkpoints).unwrap().checkpoint?;
    let parameters = found.parameters().unwrap();
    assert_eq!(weights_hash(&parameters), found.manifest.weights_hash);
    assert!(found.moments(&parameters).unwrap().is_some());
    Some(found.manifest.step)
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const FOLDER: &str = "MEDISWIFT_TEST_CRASH_FOLDER";
const AFTER: &str = "MEDISWIFT_TEST_CRASH_AFTER";

#[test]
#[ignore = "the process that `a_crash_after_any_step_of_a_save_loses_nothing` kills"]
fn a_run_that_crashes() {
    let (Some(folder), Ok(after)) = (std::env::var_os(FOLDER), std::env::var(AFTER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let data = Arc::new(Dataset::open(&folder.join("data-1")).unwrap());
    let out = folder.join(&after);
    let session = Session::start(config(), data, &out).unwrap();
    faults::abort_after(&run::checkpoints(&out), after.parse().unwrap());
    finish(session);
}

#[test]
fn a_crash_after_any_step_of_a_save_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let whole = folder.path().join("whole");
    let report = finish(Session::start(config(), Arc::clone(&data), &whole).unwrap());
    let expected = result(&report, &whole);
    let (mut crashes, mut reached) = (0, 0);
    loop {
        let after = (crashes + 1).to_string();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["a_run_that_crashes", "--exact", "--ignored", "--test-threads=1"])
            .envs([(FOLDER, folder.path().as_os_str()), (AFTER, after.as_ref())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let out = folder.path().join(&after);
        if status.success() {
            assert!(out.join("report.json").exists(), "the child did not run");
            break;
        }
        assert!(!out.join("report.json").exists(), "it ended, but did not crash: {status}");
        crashes += 1;
        // One checkpoint is there from the first save on, and none is older than one before it.
        let found = newest(&run::checkpoints(&out)).unwrap_or(0);
        assert!(found >= reached, "crash {crashes}: back from step {reached} to {found}");
        reached = found;
        let report = finish(Session::resume(config(), Arc::clone(&data), &out).unwrap());
        assert_eq!(result(&report, &out), expected, "crash {crashes}");
        assert_eq!(fs::read_dir(run::checkpoints(&out)).unwrap().count(), 1, "litter is left");
        fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(reached, 3);
    // Three saves of a dozen steps or more, two removals of five.
    assert!(crashes > 3 * 12 + 2 * 5, "only {crashes} steps were seen");
}

#[test]
fn a_power_cut_after_any_step_of_a_save_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let out = folder.path().join("run");
    let session = Session::start(config(), data, &out).unwrap();
    let checkpoints = run::checkpoints(&out);
    let (_, recording) = Recording::of(&checkpoints, || finish(session));
    let steps = recording.steps().len();
    recording.each_state(folder.path(), 8, |state| {
        // A checkpoint is safe once its folder has its name and the folder above was waited for.
        let (mut named, mut safe) = (0, 0);
        for step in state.done {
            match step {
                Step::Rename(_, to) if to.parent() == Some(&checkpoints) => named += 1,
                Step::SyncFolder(path) if *path == checkpoints => safe = named,
                _ => {}
            }
        }
        if !state.power_cut {
            safe = named;
        }
        let found = newest(state.folder).unwrap_or(0);
        let last = state.done.last();
        assert!((safe..=named).contains(&found), "{last:?}: {found} of {safe} to {named}");
        if state.done.len() == steps {
            assert_eq!(safe, 3);
        }
    });
    assert!(steps > 3 * 12 + 2 * 5, "only {steps} steps were seen");
}

#[test]
fn a_run_ends_the_same_whatever_stopped_it_from_its_start_to_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let out = root.join("run");
    let (report, recording) = Recording::of(&root, || start_or_resume(&data, &out));
    let expected = (result(&report, &out), names(&out));
    let steps = recording.steps().len();
    let mut seen = 0;
    recording.each_state(folder.path(), 1, |state| {
        seen += 1;
        let out = state.folder.join("run");
        let is_run = out.join("config.toml").exists();
        let report = start_or_resume(&data, &out);
        let what = (state.power_cut, is_run, state.done.last());
        assert_eq!((result(&report, &out), names(&out)), expected, "{what:?}");
        assert_eq!(names(&run::checkpoints(&out)), ["step-00000003"], "{what:?}");
        assert_eq!(names(state.folder), ["run"], "{what:?}");
    });
    assert!(steps > 120 && seen == 2 * (steps + 1), "{steps} steps");
}

#[test]
fn a_run_that_gets_more_steps_ends_the_same_whatever_stopped_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let out = root.join("run");
    start_or_resume(&data, &out);
    let mut longer = config();
    longer.set("train.steps=5").unwrap();
    let go_on =
        |out: &Path| finish(Session::resume(longer.clone(), Arc::clone(&data), out).unwrap());
    let (report, recording) = Recording::of(&root, || go_on(&out));
    let expected = (result(&report, &out), names(&out));
    let steps = recording.steps().len();
    assert!(steps > 60, "{steps} steps");
    recording.each_state(folder.path(), 1, |state| {
        let out = state.folder.join("run");
        let report = go_on(&out);
        let what = (state.power_cut, state.done.last());
        assert_eq!((result(&report, &out), names(&out)), expected, "{what:?}");
        assert_eq!(names(&run::checkpoints(&out)), ["step-00000005"], "{what:?}");
    });
}

#[test]
fn a_run_ends_the_same_whatever_step_of_it_was_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let root = folder.path().join("root");
    let out = root.join("run");
    fs::create_dir(&root).unwrap();
    let report = start_or_resume(&data, &out);
    let expected = (result(&report, &out), names(&out));
    let mut refusals = 0;
    // Every step of a start, and some of each kind later.
    for before in (0..40).chain((40..).step_by(3)) {
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        let start = || Session::start(config(), Arc::clone(&data), &out);
        let (ended, was_refused) = faults::fail(&root, before, || pretrain(&mut start()?, &mut ()));
        if !was_refused {
            break;
        }
        // What is removed may be removed later.
        if let Err(error) = ended {
            // The tokenizer is the data's to write.
            let is_refusal = matches!(error.kind(), ErrorKind::Io | ErrorKind::Data);
            assert!(is_refusal, "step {before}: {error}");
        }
        refusals += 1;
        let report = start_or_resume(&data, &out);
        assert_eq!((result(&report, &out), names(&out)), expected, "step {before}");
        assert_eq!(names(&run::checkpoints(&out)), ["step-00000003"], "step {before}");
    }
    assert!(refusals > 60, "only {refusals} steps were refused");
}
