//! Whole runs whose process, or power, stops after any step of a save.

#[path = "../../tests/support/mod.rs"]
mod support;

use super::Step;
use crate::Config;
use crate::checkpoint::{self, weights_hash};
use crate::pretrain::pretrain;
use crate::run::{self, StepMetrics, TrainingReport};
use crate::session::Session;
use mediswift_data::Dataset;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

type Watcher = Box<dyn FnMut(&Step<'_>)>;

thread_local! {
    /// Is told about the steps of this thread.
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

pub(super) fn done(step: Step<'_>) {
    WATCHER.with_borrow_mut(|watcher| watcher.iter_mut().for_each(|watch| watch(&step)));
}

fn watch(watcher: impl FnMut(&Step<'_>) + 'static) {
    WATCHER.set(Some(Box::new(watcher)));
}

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

const FOLDER: &str = "MEDISWIFT_TEST_CRASH_FOLDER";
const AFTER: &str = "MEDISWIFT_TEST_CRASH_AFTER";

#[test]
#[ignore = "the process that `a_crash_after_any_step_of_a_save_loses_nothing` kills"]
fn a_run_that_crashes() {
    let (Some(folder), Ok(after)) = (std::env::var_os(FOLDER), std::env::var(AFTER)) else {
        return;
    };
    let (folder, mut left) = (PathBuf::from(folder), after.parse::<usize>().unwrap());
    let data = Arc::new(Dataset::open(&folder.join("data-1")).unwrap());
    let session = Session::start(config(), data, &folder.join(after)).unwrap();
    watch(move |_| {
        left -= 1;
        if left == 0 {
            std::process::abort();
        }
    });
    finish(session);
}

#[test]
fn a_crash_after_any_step_of_a_save_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let whole = folder.path().join("whole");
    let report = finish(Session::start(config(), Arc::clone(&data), &whole).unwrap());
    let expected = result(&report, &whole);
    let this = "disk::tests::a_run_that_crashes";
    let (mut crashes, mut reached) = (0, 0);
    loop {
        let after = (crashes + 1).to_string();
        let status = Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact", "--ignored", "--test-threads=1"])
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

/// A disk that forgets, when its power is cut, what it was not told to keep.
struct Disk {
    /// The folder whose changes it follows: the first of `folders`.
    root: PathBuf,
    /// Content of every file ever made, and how many bytes of it are safe.
    files: Vec<(Vec<u8>, usize)>,
    folders: Vec<Folder>,
}

#[derive(Default)]
struct Folder {
    now: BTreeMap<OsString, Node>,
    safe: BTreeMap<OsString, Node>,
    /// What makes `now` of `safe`.
    changes: Vec<Change>,
}

/// A name that goes, a name that comes, or both at once: it happens whole or not.
struct Change {
    goes: Option<OsString>,
    comes: Option<(OsString, Node)>,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<OsString, Node>) {
        names.retain(|name, _| self.goes.as_ref() != Some(name));
        names.extend(self.comes.clone());
    }
}

#[derive(Clone, Copy, Debug)]
enum Node {
    File(usize),
    Folder(usize),
}

impl Disk {
    fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), files: Vec::new(), folders: vec![Folder::default()] }
    }

    fn node(&self, path: &Path) -> Node {
        path.strip_prefix(&self.root).unwrap().iter().fold(Node::Folder(0), |node, name| {
            let Node::Folder(folder) = node else { panic!("{} is in a file", path.display()) };
            self.folders[folder].now[name]
        })
    }

    fn file(&mut self, path: &Path) -> &mut (Vec<u8>, usize) {
        let Node::File(file) = self.node(path) else { panic!("{} is no file", path.display()) };
        &mut self.files[file]
    }

    fn folder(&mut self, path: &Path) -> &mut Folder {
        let Node::Folder(at) = self.node(path) else { panic!("{} is no folder", path.display()) };
        &mut self.folders[at]
    }

    fn change(&mut self, from: Option<&Path>, to: Option<(&Path, Node)>) {
        let parent = from.or(to.map(|(path, _)| path)).and_then(Path::parent).unwrap();
        let name = |path: &Path| {
            assert_eq!(path.parent(), Some(parent));
            path.file_name().unwrap().to_os_string()
        };
        let change =
            Change { goes: from.map(name), comes: to.map(|(path, node)| (name(path), node)) };
        let folder = self.folder(parent);
        change.apply(&mut folder.now);
        folder.changes.push(change);
    }

    fn follow(&mut self, step: &Step<'_>) {
        match *step {
            Step::CreateFolder(path) => {
                self.folders.push(Folder::default());
                self.change(None, Some((path, Node::Folder(self.folders.len() - 1))));
            }
            Step::CreateFile(path) => {
                self.files.push((Vec::new(), 0));
                self.change(None, Some((path, Node::File(self.files.len() - 1))));
            }
            Step::Write(path, bytes) => self.file(path).0.extend_from_slice(bytes),
            Step::SyncFile(path) => {
                let (content, safe) = self.file(path);
                *safe = content.len();
            }
            Step::SyncFolder(path) => {
                let folder = self.folder(path);
                folder.safe = folder.now.clone();
                folder.changes.clear();
            }
            Step::Rename(from, to) => self.change(Some(from), Some((to, self.node(from)))),
            Step::RemoveFile(path) | Step::RemoveFolder(path) => self.change(Some(path), None),
        }
    }

    /// Writes what a power cut may leave of `folder`: all that is safe, and any part of the rest.
    fn cut(&self, folder: usize, target: &Path, random: &mut ChaCha8Rng) {
        fs::create_dir(target).unwrap();
        let mut names = self.folders[folder].safe.clone();
        for change in &self.folders[folder].changes {
            if random.next_u32().is_multiple_of(2) {
                change.apply(&mut names);
            }
        }
        for (name, node) in names {
            match node {
                Node::Folder(folder) => self.cut(folder, &target.join(name), random),
                Node::File(file) => {
                    let (content, safe) = &self.files[file];
                    let kept = safe + random.next_u64() as usize % (content.len() - safe + 1);
                    let mut content = content.clone();
                    // The length may be there before the bytes are.
                    if random.next_u32().is_multiple_of(2) {
                        content[kept..].fill(0);
                    } else {
                        content.truncate(kept);
                    }
                    fs::write(target.join(name), content).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_power_cut_after_any_step_of_a_save_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = support::dataset(folder.path(), 1);
    let out = folder.path().join("run");
    let session = Session::start(config(), data, &out).unwrap();
    let checkpoints = run::checkpoints(&out);
    let mut disk = Disk::new(&checkpoints);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // A checkpoint is safe once its folder has its name and the folder above was waited for.
    let (mut named, mut safe) = (0, 0);
    let cuts = folder.path().join("cuts");
    fs::create_dir(&cuts).unwrap();
    let counts = Rc::new(Cell::new((0, 0)));
    let seen = Rc::clone(&counts);
    watch(move |step| {
        disk.follow(step);
        match *step {
            Step::Rename(_, to) if to.parent() == Some(&checkpoints) => named += 1,
            Step::SyncFolder(path) if path == checkpoints => safe = named,
            _ => {}
        }
        for cut in 0..8 {
            let target = cuts.join(cut.to_string());
            disk.cut(0, &target, &mut random);
            let found = newest(&target).unwrap_or(0);
            assert!((safe..=named).contains(&found), "{step:?}: {found} of {safe} to {named}");
            fs::remove_dir_all(&target).unwrap();
        }
        seen.set((seen.get().0 + 1, safe));
    });
    finish(session);
    let (steps, safe) = counts.get();
    assert!(steps > 3 * 12 + 2 * 5 && safe == 3, "{steps} steps, {safe} checkpoints");
}
