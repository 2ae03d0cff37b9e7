//! [`Lock`]: a file that says which process writes in a folder.

use crate::Error;
use crate::steps::{NewFile, hold, parent, set_length, sync_folder, write_at};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// A lock, held until it is dropped or its process is gone, however that ends. The file stays.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock that is the file `path`, which is created if it is missing; `None` if another
    /// process, or this one, holds it.
    /// # Errors
    /// If the system refuses.
    pub fn take(path: &Path) -> Result<Option<Self>, Error> {
        loop {
            match NewFile::create(path) {
                Ok(_) => sync_folder(parent(path))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::of("create", path)(error)),
            }
            let file = match File::options().write(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(Error::of("open", path))?,
            };
            if !hold(path, &file).map_err(Error::of("lock", path))? {
                if path.exists() {
                    return Ok(None);
                }
                // Its holder has just removed it, with its folder or without.
                continue;
            }
            // For whoever comes in vain; the lock is good without it.
            let _ = set_length(path, &file, 0).and_then(|()| {
                write_at(path, &file, 0, format!("{}\n", std::process::id()).as_bytes())
            });
            return Ok(Some(Self { file }));
        }
    }

    /// The number of the process that holds the lock at `path`, where it can be known.
    pub fn holder(path: &Path) -> Option<u32> {
        let number = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        // Written by an earlier holder, if there is no such process.
        let is_there = Path::new("/proc").join(format!("{number}")).exists();
        is_there.then_some(number)
    }
}

impl Drop for Lock {
    /// Closing would not do: a child process of another thread has the file open too, until it becomes
    /// another program.
    fn drop(&mut self) {
        // What cannot be unlocked is unlocked when all have closed it.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_says_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let held = Lock::take(&path).unwrap().expect("free");
        assert!(Lock::take(&path).unwrap().is_none());
        if cfg!(target_os = "linux") {
            assert_eq!(Lock::holder(&path), Some(std::process::id()));
        }
        // As a child has it that was started meanwhile.
        let _inherited = held.file.try_clone().unwrap();
        drop(held);
        assert!(path.exists() && Lock::take(&path).unwrap().is_some());
        // No process has this number.
        fs::write(&path, format!("{}\n", u32::MAX)).unwrap();
        assert_eq!(Lock::holder(&path), None);
        fs::write(&path, "").unwrap();
        assert_eq!(Lock::holder(&path), None);
        assert!(Lock::take(&folder.path().join("missing/LOCK")).is_err());
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let _old = Lock::take(&path).unwrap().expect("free");
        fs::remove_file(&path).unwrap();
        assert!(Lock::take(&path).unwrap().is_some());
    }
}
