//! Files that are either absent or whole.
//!
//! A file is written under a temporary name in its own folder, synced, renamed, and the folder is
//! synced: after a crash the name holds the old bytes or the new ones, and after the call returns
//! it holds the new ones even through a power cut.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::DataError;

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
}
