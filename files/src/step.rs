//! [`Step`]: what a step of writing did, for those who watch.

use std::path::PathBuf;

/// A step that was done.
#[cfg_attr(not(feature = "faults"), allow(dead_code, reason = "only tests look at steps"))]
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A folder that was not there before.
    CreateFolder(PathBuf),
    /// An empty file that was not there before.
    CreateFile(PathBuf),
    /// Bytes into a file, from a place on.
    Write(PathBuf, u64, Vec<u8>),
    /// Another length of a file.
    SetLength(PathBuf, u64),
    /// The content of a file is on the disk.
    SyncFile(PathBuf),
    /// The names in a folder are on the disk.
    SyncFolder(PathBuf),
    /// Another name, which loses what it had.
    Rename(PathBuf, PathBuf),
    /// Two names for each other.
    Exchange(PathBuf, PathBuf),
    /// A file without a name.
    RemoveFile(PathBuf),
    /// An empty folder without a name.
    RemoveFolder(PathBuf),
}
