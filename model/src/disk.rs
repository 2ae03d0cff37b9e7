//! The file-system steps that a save is made of, one function each.
//!
//! What survives a crash is decided by the order of these steps, so none of them hides in a call
//! that does several. [`tests`] stops the process after every one, and cuts the power there: what
//! was not waited for may then be lost, in any combination.

use crate::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A step that was just done.
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at steps"))]
#[derive(Debug)]
enum Step<'a> {
    CreateFolder(&'a Path),
    CreateFile(&'a Path),
    Write(&'a Path, &'a [u8]),
    SyncFile(&'a Path),
    SyncFolder(&'a Path),
    Rename(&'a Path, &'a Path),
    RemoveFile(&'a Path),
    RemoveFolder(&'a Path),
}

#[cfg(not(test))]
fn done(_: Step<'_>) {}
#[cfg(test)]
use tests::done;

/// A file that was not there before.
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        done(Step::CreateFile(path));
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Waits until the content is on the disk; the name is the folder's business.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        done(Step::SyncFile(&self.path));
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        done(Step::Write(&self.path, &bytes[..written]));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Creates a folder and those above it, where they do not exist, and waits until their names are
/// on the disk.
pub(crate) fn create_folders(path: &Path) -> Result<(), Error> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    for folder in missing {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Creates a folder that does not exist.
pub(crate) fn create_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).map_err(Error::io("create", path))?;
    done(Step::CreateFolder(path));
    Ok(())
}

/// Gives a file or a folder a name that nothing has.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("name", to))?;
    done(Step::Rename(from, to));
    Ok(())
}

/// Removes a file, or a folder with all it holds, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let refused = Error::io("remove", path);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
                remove(&entry.map_err(Error::io("list", path))?.path())?;
            }
            fs::remove_dir(path).map_err(refused)?;
            done(Step::RemoveFolder(path));
        }
        Ok(_) => {
            fs::remove_file(path).map_err(refused)?;
            done(Step::RemoveFile(path));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    Ok(())
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    // Windows cannot open a folder as a file, and makes renames durable by itself.
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("flush", path))?;
    }
    done(Step::SyncFolder(path));
    Ok(())
}

#[cfg(test)]
mod tests;
