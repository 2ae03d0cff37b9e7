//! [`Log`]: a file that grows at its end.

use crate::Error;
use crate::reading::read;
use crate::steps::{NewFile, parent, set_length, sync_file, sync_folder, write_at};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file open for appending. What was appended is the system's at once, so that a killed process
/// loses nothing but what it was writing, which may leave a torn end; it is on the disk after [`sync`].
///
/// [`sync`]: Self::sync
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens the file, which is created if it is missing.
    /// # Errors
    /// If the system refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match NewFile::create(path) {
            Ok(_) => sync_folder(parent(path))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::of("create", path)(error)),
        }
        let refused = Error::of("open", path);
        let file = File::options().append(true).open(path).map_err(&refused)?;
        let length = file.metadata().map_err(&refused)?.len();
        Ok(Self { path: path.to_path_buf(), file, length })
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All that is in the file.
    /// # Errors
    /// If the system refuses.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        read(&self.path, u64::MAX)
    }

    /// Forgets what comes after `length` bytes.
    /// # Errors
    /// If the system refuses.
    pub fn cut(&mut self, length: u64) -> Result<(), Error> {
        set_length(&self.path, &self.file, length).map_err(Error::of("write", &self.path))?;
        self.length = length;
        Ok(())
    }

    /// Appends bytes.
    /// # Errors
    /// If the system refuses; part of them may then be there.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut left = bytes;
        while !left.is_empty() {
            match write_at(&self.path, &self.file, self.length, left) {
                Ok(0) => return Err(self.refused(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.length += written as u64;
                    left = &left[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.refused(error)),
            }
        }
        Ok(())
    }

    /// Waits until all that was appended is on the disk.
    /// # Errors
    /// If the system refuses.
    pub fn sync(&self) -> Result<(), Error> {
        sync_file(&self.path, &self.file).map_err(|error| self.refused(error))
    }

    fn refused(&self, error: io::Error) -> Error {
        Error::of("write", &self.path)(error)
    }
}

/// The lines of a log, their ends included. A line counts once its end is there: a torn last one is
/// left out.
pub fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_grows_and_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path).unwrap();
        log.append(b"one\ntwo\nthr").unwrap();
        log.sync().unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!((log.length(), log.read().unwrap()), (11, b"one\ntwo\nthr".to_vec()));
        assert!(whole_lines(&log.read().unwrap()).eq([&b"one\n"[..], b"two\n"]));
        log.cut(4).unwrap();
        log.append(b"2\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n2\n");
    }
}
