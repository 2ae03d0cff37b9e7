//! [`Disk`]: a disk that forgets, when its power is cut, what it was not told to keep.

use super::Step;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with all it holds, as it is and as it is sure to be after a power cut.
#[derive(Clone)]
pub(super) struct Disk {
    root: PathBuf,
    /// Every file ever made.
    files: Vec<File>,
    /// Every folder ever made; the first is the root.
    folders: Vec<Folder>,
    /// Number of the next change of names.
    next: usize,
}

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    safe: Vec<u8>,
    /// What makes `now` of `safe`.
    changes: Vec<Content>,
}

#[derive(Clone)]
enum Content {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Content {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Content::Write(at, bytes) => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Content::Length(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Clone, Default)]
struct Folder {
    now: Names,
    safe: Names,
    /// What makes `now` of `safe`.
    changes: Vec<Change>,
}

type Names = BTreeMap<OsString, Node>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    File(usize),
    Folder(usize),
}

/// Names that come, go or mean something else. It happens whole or not, in two folders as in one.
#[derive(Clone)]
struct Change {
    number: usize,
    names: Vec<(OsString, Option<Node>)>,
}

impl Change {
    fn apply(&self, names: &mut Names) {
        for (name, node) in &self.names {
            match node {
                Some(node) => names.insert(name.clone(), *node),
                None => names.remove(name),
            };
        }
    }
}

impl Disk {
    /// What is in the folder `root`, all of it safe.
    pub(super) fn read(root: &Path) -> Self {
        let (files, folders) = (Vec::new(), vec![Folder::default()]);
        let mut disk = Self { root: root.to_path_buf(), files, folders, next: 0 };
        disk.read_folder(0, root);
        disk
    }

    fn read_folder(&mut self, folder: usize, path: &Path) {
        for entry in fs::read_dir(path).expect("a folder") {
            let entry = entry.expect("an entry");
            let node = if entry.file_type().expect("a type").is_dir() {
                self.folders.push(Folder::default());
                let below = self.folders.len() - 1;
                self.read_folder(below, &entry.path());
                Node::Folder(below)
            } else {
                let now = fs::read(entry.path()).expect("a file");
                self.files.push(File { safe: now.clone(), now, changes: Vec::new() });
                Node::File(self.files.len() - 1)
            };
            let Folder { now, safe, .. } = &mut self.folders[folder];
            now.insert(entry.file_name(), node);
            safe.insert(entry.file_name(), node);
        }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let below = path.strip_prefix(&self.root).expect("a path below the root");
        below.iter().try_fold(Node::Folder(0), |node, name| match node {
            Node::Folder(folder) => self.folders[folder].now.get(name).copied(),
            Node::File(_) => None,
        })
    }

    fn file(&mut self, path: &Path) -> &mut File {
        match self.node(path) {
            Some(Node::File(file)) => &mut self.files[file],
            other => panic!("{} is no file that was written here: {other:?}", path.display()),
        }
    }

    fn folder(&self, path: &Path) -> usize {
        match self.node(path) {
            Some(Node::Folder(folder)) => folder,
            other => panic!("{} is no folder that was made here: {other:?}", path.display()),
        }
    }

    /// Makes paths mean something, all at once.
    fn change(&mut self, paths: &[(&Path, Option<Node>)]) {
        let mut by_folder: BTreeMap<usize, Vec<(OsString, Option<Node>)>> = BTreeMap::new();
        for &(path, node) in paths {
            let folder = self.folder(path.parent().expect("a path below the root"));
            let name = path.file_name().expect("a name").to_os_string();
            by_folder.entry(folder).or_default().push((name, node));
        }
        for (folder, names) in by_folder {
            let change = Change { number: self.next, names };
            let folder = &mut self.folders[folder];
            change.apply(&mut folder.now);
            folder.changes.push(change);
        }
        self.next += 1;
    }

    /// Makes all changes in a folder safe, and with those that it shares with another what happened
    /// in that one before.
    fn sync(&mut self, folder: usize) {
        let numbers: Vec<usize> = self.folders[folder].changes.iter().map(|c| c.number).collect();
        for folder in &mut self.folders {
            if let Some(last) = folder.changes.iter().rposition(|c| numbers.contains(&c.number)) {
                for change in folder.changes.drain(..=last) {
                    change.apply(&mut folder.safe);
                }
            }
        }
    }

    pub(super) fn follow(&mut self, step: &Step) {
        match step {
            Step::CreateFolder(path) => {
                self.folders.push(Folder::default());
                self.change(&[(path, Some(Node::Folder(self.folders.len() - 1)))]);
            }
            Step::CreateFile(path) => {
                self.files.push(File::default());
                self.change(&[(path, Some(Node::File(self.files.len() - 1)))]);
            }
            Step::Write(path, at, bytes) => {
                self.file(path).change(Content::Write(*at as usize, bytes.clone()));
            }
            Step::SetLength(path, length) => {
                self.file(path).change(Content::Length(*length as usize));
            }
            Step::SyncFile(path) => {
                let file = self.file(path);
                file.safe = file.now.clone();
                file.changes.clear();
            }
            Step::SyncFolder(path) => self.sync(self.folder(path)),
            Step::Rename(from, to) => self.change(&[(from, None), (to, self.node(from))]),
            Step::Exchange(a, b) => self.change(&[(a, self.node(b)), (b, self.node(a))]),
            Step::RemoveFile(path) | Step::RemoveFolder(path) => self.change(&[(path, None)]),
        }
    }

    /// Writes what is there to the folder `target`.
    pub(super) fn lay_out(&self, target: &Path) {
        self.write(0, target, &|folder| folder.now.clone(), &mut |file| file.now.clone());
    }

    /// Writes what a power cut may leave to the folder `target`: all that is safe, and any part of
    /// the rest, which `seed` chooses.
    pub(super) fn cut_power(&self, target: &Path, seed: u64) {
        let mut chance = Chance(seed);
        let kept: BTreeSet<usize> = (0..self.next).filter(|_| chance.below(2) == 0).collect();
        let names = |folder: &Folder| {
            let mut names = folder.safe.clone();
            for change in folder.changes.iter().filter(|change| kept.contains(&change.number)) {
                change.apply(&mut names);
            }
            names
        };
        self.write(0, target, &names, &mut |file| file.cut(&mut chance));
    }

    fn write(
        &self,
        folder: usize,
        target: &Path,
        names: &dyn Fn(&Folder) -> Names,
        content: &mut dyn FnMut(&File) -> Vec<u8>,
    ) {
        fs::create_dir(target).expect("a folder can be made");
        for (name, node) in names(&self.folders[folder]) {
            let target = target.join(name);
            match node {
                Node::Folder(below) => self.write(below, &target, names, content),
                Node::File(file) => {
                    fs::write(target, content(&self.files[file])).expect("a file can be written");
                }
            }
        }
    }
}

impl File {
    fn change(&mut self, change: Content) {
        change.apply(&mut self.now);
        self.changes.push(change);
    }

    /// What a power cut may leave: of every write nothing, a part, all, or only the length.
    fn cut(&self, chance: &mut Chance) -> Vec<u8> {
        let mut content = self.safe.clone();
        for change in &self.changes {
            match (change, chance.below(4)) {
                (_, 0) => {}
                (Content::Write(at, bytes), 1) => {
                    let part = bytes[..chance.below(bytes.len() + 1)].to_vec();
                    Content::Write(*at, part).apply(&mut content);
                }
                (Content::Write(at, bytes), 2) => {
                    let length = content.len().max(at + bytes.len());
                    content.resize(length, 0);
                }
                (change, _) => change.apply(&mut content),
            }
        }
        content
    }
}

/// Numbers without a pattern: SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }
}
