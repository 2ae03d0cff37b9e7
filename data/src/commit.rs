//! Files and folders that are either absent or whole.
//!
//! A file is written under a temporary name in its own folder, synced, renamed, and the folder is
//! synced: after a crash the name holds the old bytes or the new ones, and after the call returns
//! it holds the new ones even through a power cut. A folder is made likewise.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::error::DatasetProblem;

/// Writes `bytes` to `path`, replacing what is there in one step.
///
/// # Errors
/// When the folder cannot be written; the file at `path` is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    write_atomically_with(path, |file| {
        file.write_all(bytes).map_err(|e| DataError::io("write", path, e))
    })
}

/// Like [`write_atomically`], with the bytes coming from `fill`, for output too large to hold.
///
/// # Errors
/// The error of `fill`, or that of the file system; the file at `path` is then unchanged.
pub fn write_atomically_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let temporary = temporary_name(path);
    let outcome = (|| {
        let file = File::create(&temporary).map_err(|e| DataError::io("create", &temporary, e))?;
        let mut buffered = BufWriter::new(file);
        fill(&mut buffered)?;
        let file =
            buffered.into_inner().map_err(|e| DataError::io("write", path, e.into_error()))?;
        file.sync_all().map_err(|e| DataError::io("sync", path, e))?;
        publish(&temporary, path)
    })();
    if outcome.is_err() {
        // The first error is the one to report; a leftover that cannot be removed is harmless.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

/// Makes the folder `path` of what `fill` writes into a temporary folder beside it; a folder that
/// is there already is replaced. `fill` syncs its files.
///
/// # Errors
/// The error of `fill`, or that of the file system; `path` is then as it was.
pub fn write_folder_atomically<T, E: From<DataError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    if path.file_name().is_none() {
        return Err(DataError::dataset(path, DatasetProblem::NoName).into());
    }
    let temporary = temporary_name(path);
    fs::create_dir_all(parent(path)).map_err(|e| DataError::io("create", parent(path), e))?;
    if temporary.exists() {
        // Left by a process that was killed.
        fs::remove_dir_all(&temporary).map_err(|e| DataError::io("remove", &temporary, e))?;
    }
    fs::create_dir(&temporary).map_err(|e| DataError::io("create", &temporary, e))?;
    let outcome = fill(&temporary).and_then(|filled| {
        replace_folder(&temporary, path)?;
        Ok(filled)
    });
    if outcome.is_err() {
        // The first error is the one to report; a leftover that cannot be removed is harmless.
        let _ = fs::remove_dir_all(&temporary);
    }
    outcome
}

/// Gives the folder `new`, whose files are synced, the name `path`; a folder of that name goes.
pub(crate) fn replace_folder(new: &Path, path: &Path) -> Result<(), DataError> {
    sync_folder(new)?;
    let old =
        temporary_name(&path.with_file_name(format!(
            "{}.old",
            path.file_name().unwrap_or_default().to_string_lossy()
        )));
    let replaced = fs::symlink_metadata(path).is_ok();
    if replaced {
        fs::rename(path, &old).map_err(|e| DataError::io("move aside", path, e))?;
    }
    if let Err(error) = publish(new, path) {
        if replaced {
            // Back to how it was; the error to report is the first.
            let _ = fs::rename(&old, path);
        }
        return Err(error);
    }
    if replaced {
        fs::remove_dir_all(&old).map_err(|e| DataError::io("remove", &old, e))?;
    }
    Ok(())
}

/// The name under which `path` is written before it is whole.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".partial-{}", std::process::id()));
    path.with_file_name(name)
}

/// Gives an already synced file or folder its final name, and makes the name durable.
pub(crate) fn publish(temporary: &Path, path: &Path) -> Result<(), DataError> {
    fs::rename(temporary, path).map_err(|e| DataError::io("rename into place", path, e))?;
    sync_folder(parent(path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), DataError> {
    // Windows cannot open a folder as a file, and makes renames durable by itself.
    if cfg!(unix) {
        let handle = File::open(folder).map_err(|e| DataError::io("open", folder, e))?;
        handle.sync_all().map_err(|e| DataError::io("sync", folder, e))?;
    }
    Ok(())
}

/// The folder that holds `path`; a bare name lies in the current folder.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        write_atomically(&path, b"old").expect("write");
        let failed = write_atomically_with(&path, |file| {
            file.write_all(b"half of the ne").expect("write");
            Err(DataError::Interrupted)
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
        write_atomically(&path, b"new").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"new");
    }

    #[test]
    fn a_folder_is_the_old_one_or_the_new_one() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("folder");
        let write = |text: &'static str, outcome: Result<(), DataError>| {
            write_folder_atomically(&path, |temporary| {
                write_atomically(&temporary.join(text), text.as_bytes())?;
                outcome
            })
        };
        let names = |path: &Path| -> Vec<String> {
            let entries = fs::read_dir(path).expect("list").map(|entry| entry.expect("entry"));
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        write("old", Ok(())).expect("write");
        assert!(write("new", Err(DataError::Interrupted)).is_err());
        assert_eq!(names(&path), ["old"]);
        write("new", Ok(())).expect("replace");
        assert_eq!(names(&path), ["new"]);
        assert_eq!(names(folder.path()), ["folder"]);
        assert!(write_folder_atomically(Path::new(".."), |_| Ok::<_, DataError>(())).is_err());
    }
}
