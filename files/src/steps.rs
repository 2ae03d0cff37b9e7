//! The file-system steps that all writing is made of, one function each.

use crate::Error;
use crate::step::Step;
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Takes a step at `path`; `step` says which it was.
#[cfg(not(feature = "faults"))]
fn take<T>(
    _: &Path,
    act: impl FnOnce() -> io::Result<T>,
    _: impl FnOnce(&T) -> Step,
) -> io::Result<T> {
    act()
}
#[cfg(feature = "faults")]
use crate::faults::take;

/// A file that was not there before.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
    /// Where the next bytes go.
    at: u64,
}

impl NewFile {
    /// Creates an empty file.
    /// # Errors
    /// If the name is taken, or the system refuses.
    pub fn create(path: &Path) -> io::Result<Self> {
        let create = || File::create_new(path);
        let file = take(path, create, |_| Step::CreateFile(path.into()))?;
        Ok(Self { path: path.to_path_buf(), file, at: 0 })
    }

    /// Waits until the content is on the disk; the name is the folder's business.
    /// # Errors
    /// If the system refuses.
    pub fn sync(&self) -> io::Result<()> {
        sync_file(&self.path, &self.file)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = write_at(&self.path, &self.file, self.at, bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

/// Writes where `file` stands, which is `at`.
pub(crate) fn write_at(path: &Path, file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    let mut file = file;
    let step = |&written: &usize| Step::Write(path.into(), at, bytes[..written].to_vec());
    take(path, || file.write(bytes), step)
}

pub(crate) fn sync_file(path: &Path, file: &File) -> io::Result<()> {
    take(path, || file.sync_all(), |()| Step::SyncFile(path.into()))
}

pub(crate) fn set_length(path: &Path, file: &File, length: u64) -> io::Result<()> {
    take(path, || file.set_len(length), |()| Step::SetLength(path.into(), length))
}

/// Creates a folder and those above it, where they do not exist, and waits until their names are
/// on the disk.
/// # Errors
/// If the system refuses.
pub fn create_folders(path: &Path) -> Result<(), Error> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    for folder in missing.into_iter().rev() {
        match create_folder(folder) {
            // Another process was faster.
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
            // The folder that was asked for is what the caller knows.
            created => created.map_err(|error| Error::of("create", path)(error.source))?,
        }
        sync_folder(parent(folder))?;
    }
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    let reason = io::Error::from(io::ErrorKind::NotADirectory);
    Err(Error::of("create", path)(reason))
}

/// Creates a folder that does not exist.
/// # Errors
/// If it does, or the system refuses.
pub fn create_folder(path: &Path) -> Result<(), Error> {
    take(path, || fs::create_dir(path), |()| Step::CreateFolder(path.into()))
        .map_err(Error::of("create", path))
}

/// Gives a file or a folder another name; a file or an empty folder of that name is lost.
/// # Errors
/// If the system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    take(to, || fs::rename(from, to), |()| Step::Rename(from.into(), to.into()))
        .map_err(Error::of("name", to))
}

/// Exchanges what two names mean, in one step.
/// # Errors
/// If the system, or the file system, does not know how to, or refuses.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let act = || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    };
    #[cfg(not(target_os = "linux"))]
    let act = || Err(io::Error::from(io::ErrorKind::Unsupported));
    take(b, act, |()| Step::Exchange(a.into(), b.into()))
}

/// Removes a file, or a folder with all it holds, if it exists.
/// # Errors
/// If the system refuses.
pub fn remove(path: &Path) -> Result<(), Error> {
    // Somebody else may be removing it too.
    let unless_gone = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::of("remove", path)),
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            for entry in list(path)? {
                remove(&entry)?;
            }
            unless_gone(take(path, || fs::remove_dir(path), |()| Step::RemoveFolder(path.into())))
        }
        Ok(_) => {
            unless_gone(take(path, || fs::remove_file(path), |()| Step::RemoveFile(path.into())))
        }
        Err(error) => unless_gone(Err(error)),
    }
}

/// Waits until the names in a folder are on the disk.
/// # Errors
/// If the system refuses.
pub fn sync_folder(path: &Path) -> Result<(), Error> {
    // Windows cannot open a folder as a file, and makes renames durable by itself.
    let sync = || if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) };
    take(path, sync, |()| Step::SyncFolder(path.into())).map_err(Error::of("flush", path))
}

/// What is in a folder, in the order of names; nothing if it does not exist.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::of("list", path))?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(Error::of("list", path))?;
    paths.sort();
    Ok(paths)
}

/// Takes hold of a file or a folder that is at `path`, until `file` is dropped; whether it succeeded.
/// `file` may have lost its name since it was opened: then it did not.
pub(crate) fn hold(path: &Path, file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(is_at(path, file)),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(unix)]
fn is_at(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: io::Result<fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    identity(file.metadata()) == identity(fs::symlink_metadata(path))
}

#[cfg(not(unix))]
fn is_at(path: &Path, _: &File) -> bool {
    path.exists()
}

/// The folder that holds `path`; a bare name lies in the current folder.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
