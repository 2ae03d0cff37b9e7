//! Files and folders that are made aside, and get their name once they are whole.

use crate::Error;
use crate::steps::{
    NewFile, create_folder, create_folders, exchange, hold, list, parent, remove, rename,
    sync_folder,
};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes `bytes` to `path`, replacing what is there in one step.
/// # Errors
/// If the system refuses; the file at `path` is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |file| file.write_all(bytes).map_err(Error::of("write", path)))
}

/// Like [`write()`], with the bytes coming from `fill`, for output too large to hold. A device or a
/// pipe is not replaced but written to.
/// # Errors
/// The error of `fill`, or the system's; the file at `path` is then unchanged.
pub fn write_with<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let failed = Error::of("write", path);
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let device = File::options().write(true).open(path).map_err(Error::of("open", path))?;
        let mut buffered = BufWriter::new(device);
        let filled = fill(&mut buffered)?;
        buffered.flush().map_err(failed)?;
        return Ok(filled);
    }
    let mut buffered = BufWriter::new(Draft::create(path)?);
    let filled = fill(&mut buffered)?;
    buffered.into_inner().map_err(|error| failed(error.into_error()))?.publish()?;
    Ok(filled)
}

/// A file that is being written and has its name once it is whole. Dropped before, it leaves nothing
/// behind.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    temporary: PathBuf,
    file: NewFile,
}

impl Draft {
    /// Starts the file that will appear at `path`.
    /// # Errors
    /// If its folder cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        clear_beside(path);
        let temporary = temporary_name(path, "");
        let file = loop {
            let file = NewFile::create(&temporary).map_err(Error::of("create", path))?;
            // Not held, if somebody took it for litter in between, or the system has no locks here.
            if hold(&temporary, file.file()).unwrap_or(true) {
                break file;
            }
            std::thread::sleep(MOMENT);
        };
        Ok(Self { path: path.to_path_buf(), temporary, file })
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the content is on the disk, and gives the file its name, which is then on the disk
    /// too.
    /// # Errors
    /// If the system refuses; what is at the name is then unchanged, and nothing is left behind.
    pub fn publish(self) -> Result<(), Error> {
        publish_all([self])
    }
}

/// Publishes files that belong together: none of them has its name before the content of all is on the
/// disk, so that a full one leaves none.
/// # Errors
/// As for [`Draft::publish`].
pub fn publish_all(drafts: impl AsRef<[Draft]>) -> Result<(), Error> {
    let drafts = drafts.as_ref();
    for draft in drafts {
        draft.file.sync().map_err(Error::of("write", &draft.path))?;
    }
    for draft in drafts {
        rename(&draft.temporary, &draft.path)?;
    }
    let folders: BTreeSet<&Path> = drafts.iter().map(|draft| parent(&draft.path)).collect();
    folders.into_iter().try_for_each(sync_folder)
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Draft {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone if it was published. If not, an earlier error is the one to report.
        let _ = remove(&self.temporary);
    }
}

/// A folder beside a file or a folder that is to be made, for what is needed only meanwhile. It is
/// removed when dropped.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
    /// Keeps others from taking it for litter.
    _held: Option<File>,
}

impl ScratchFolder {
    /// Makes an empty folder beside `path`, whose folder is made if it is missing.
    /// # Errors
    /// If `path` cannot be a name, or the system refuses.
    pub fn beside(path: &Path) -> Result<Self, Error> {
        if path.file_name().is_none() {
            let problem = "it is not the name of a new folder";
            return Err(Error::of("create", path)(io::Error::other(problem)));
        }
        create_folders(parent(path)).map_err(|error| Error::of("create", path)(error.source))?;
        clear_beside(path);
        let temporary = temporary_name(path, "");
        let held = loop {
            create_folder(&temporary).map_err(|error| Error::of("create", path)(error.source))?;
            let Ok(folder) = File::open(&temporary) else { break None };
            if hold(&temporary, &folder).unwrap_or(true) {
                break Some(folder);
            }
            std::thread::sleep(MOMENT);
        };
        Ok(Self { path: temporary, _held: held })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed later.
        let _ = remove(&self.path);
    }
}

/// Makes the folder `path` of what `fill` writes into a temporary folder beside it; a folder that
/// is there already is replaced. Folders above it are made if they are missing.
///
/// What `fill` writes must be on the disk when it returns, names below its own folder too.
/// # Errors
/// The error of `fill`, or the system's; `path` is then as it was.
pub fn write_folder<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let scratch = ScratchFolder::beside(path)?;
    let filled = fill(scratch.path())?;
    put_folder(scratch.path(), path)?;
    Ok(filled)
}

/// Gives the folder `new`, whose content is on the disk, the name `path`, and removes what had it: an
/// exchange, so that at every instant one of the two is there. Where the system has no exchange, a
/// crash may leave the old one at `.NAME.old.partial-PID`, from where the next to write `path` fetches
/// it.
///
/// A `new` that lies in another folder is brought beside `path` first, and is lost in a crash between.
/// # Errors
/// If the system refuses; `path` is then as it was, unless only the removal failed.
pub fn put_folder(new: &Path, path: &Path) -> Result<(), Error> {
    sync_folder(new)?;
    if parent(new) != parent(path) {
        clear_beside(path);
        let temporary = temporary_name(path, "");
        // It takes the lock with it.
        let _held = File::open(new).map(|folder| hold(new, &folder).map(|_| folder));
        rename(new, &temporary)?;
        put_beside(&temporary, path)?;
        return sync_folder(parent(new));
    }
    put_beside(new, path)
}

fn put_beside(new: &Path, path: &Path) -> Result<(), Error> {
    let folder = parent(path);
    if fs::symlink_metadata(path).is_err() {
        rename(new, path)?;
        return sync_folder(folder);
    }
    match exchange(new, path) {
        Ok(()) => {
            sync_folder(folder)?;
            remove(new)
        }
        Err(error) if is_unsupported(&error) => {
            let old = temporary_name(path, OLD);
            rename(path, &old)?;
            rename(new, path).inspect_err(|_| {
                // Back to how it was; the error to report is the first.
                let _ = rename(&old, path);
            })?;
            sync_folder(folder)?;
            remove(&old)
        }
        Err(error) => Err(Error::of("name", path)(error)),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    // A file system without exchanges says `InvalidInput`, a system without them one of the others.
    use io::ErrorKind::{InvalidInput, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported)
}

/// Until somebody has removed what was taken for litter.
const MOMENT: Duration = Duration::from_millis(1);

const OLD: &str = ".old";
const PARTIAL: &str = ".partial-";

/// The name under which `path` is made, or with [`OLD`] is kept, by this process.
fn temporary_name(path: &Path, kind: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!("{kind}{PARTIAL}{}", std::process::id()));
    path.with_file_name(name)
}

/// Whether a file or a folder has such a name as things have that are half made.
pub fn is_leftover(path: &Path) -> bool {
    name_of(path).is_some()
}

/// The name in whose making something is left over, and whether it is the old content.
fn name_of(leftover: &Path) -> Option<(PathBuf, bool)> {
    let name = leftover.file_name()?.to_str()?;
    let (name, process) = name.strip_prefix('.')?.rsplit_once(PARTIAL)?;
    process.parse::<u32>().ok()?;
    let original = name.strip_suffix(OLD);
    Some((leftover.with_file_name(original.unwrap_or(name)), original.is_some()))
}

/// Removes from a folder what processes that are gone left there half made.
/// # Errors
/// If the folder cannot be listed, or something not be removed.
pub fn clear(folder: &Path) -> Result<(), Error> {
    for leftover in list(folder)? {
        if let Some((name, is_old)) = name_of(&leftover) {
            clear_away(&leftover, &name, is_old)?;
        }
    }
    Ok(())
}

/// Removes what processes that are gone left beside `path`, half made in its name or replaced by it.
/// What cannot be removed is no obstacle.
pub fn clear_beside(path: &Path) {
    for leftover in list(parent(path)).unwrap_or_default() {
        match name_of(&leftover) {
            Some((name, is_old)) if name.file_name() == path.file_name() => {
                let _ = clear_away(&leftover, &name, is_old);
            }
            _ => {}
        }
    }
}

fn clear_away(leftover: &Path, name: &Path, is_old: bool) -> Result<(), Error> {
    let Ok(found) = fs::symlink_metadata(leftover) else { return Ok(()) };
    let opened = if found.is_file() {
        File::options().write(true).open(leftover)
    } else if found.is_dir() {
        File::open(leftover)
    } else {
        return Ok(());
    };
    // Held until it is gone, so that its name is nobody's in between.
    let Ok(file) = opened else { return Ok(()) };
    if !hold(leftover, &file).unwrap_or(false) {
        return Ok(());
    }
    if is_old && fs::symlink_metadata(name).is_err() {
        // Put aside to be replaced, which did not happen.
        rename(leftover, name)?;
        return sync_folder(parent(name));
    }
    remove(leftover)
}

#[cfg(test)]
mod tests;
