//! Reading what somebody else wrote: the one way in which the program opens a file.
//!
//! A name may stand for a pipe, a device or a folder, and opening a pipe waits for a writer who may
//! never come. So only regular files are opened; a file that is held whole is no longer than its
//! reader allows; and text is UTF-8, without the mark of its byte order.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::Error;

/// What some programs put before UTF-8 text; no part of the text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Most bytes of settings, manifests and other small files that are held whole: 64 MiB.
pub const SMALL: u64 = 64 << 20;

/// Most bytes of logs, tokenizers and other large files that are held whole: 1 GiB.
pub const LARGE: u64 = 1 << 30;

/// Opens a regular file to read it.
/// # Errors
/// If there is none, or something else has its name.
pub fn open(path: &Path) -> Result<File, Error> {
    let failed = Error::of("open", path);
    let kind = fs::metadata(path).map_err(&failed)?.file_type();
    if kind.is_dir() {
        let problem = "it is a folder, not a regular file";
        return Err(failed(io::Error::new(io::ErrorKind::IsADirectory, problem)));
    }
    if !kind.is_file() {
        let problem = "it is a pipe, a socket or a device, not a regular file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    File::open(path).map_err(failed)
}

/// All of a regular file.
/// # Errors
/// As [`open`], and if it has more than `longest` bytes.
pub fn read(path: &Path, longest: u64) -> Result<Vec<u8>, Error> {
    let file = open(path)?;
    let failed = Error::of("read", path);
    let length = file.metadata().map_err(&failed)?.len();
    let mut bytes = Vec::with_capacity(length.min(longest) as usize);
    // What the system says of its own files (`/proc`) is no length.
    file.take(longest.saturating_add(1)).read_to_end(&mut bytes).map_err(&failed)?;
    if bytes.len() as u64 > longest {
        let problem = format!(
            "it has {} bytes, and no file of its kind more than {longest}",
            length.max(bytes.len() as u64)
        );
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
    }
    Ok(bytes)
}

/// All of a regular file, as text.
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, longest: u64) -> Result<String, Error> {
    text(read(path, longest)?)
        .map_err(|error| Error::of("read", path)(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Bytes that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8 {
    /// Bytes before the first that is no part of UTF-8.
    pub offset: usize,
    /// That byte.
    pub byte: u8,
}

impl std::fmt::Display for NotUtf8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, byte } = self;
        write!(f, "byte {offset} ({byte:#04x}) is not UTF-8; convert the file to UTF-8")
    }
}

impl std::error::Error for NotUtf8 {}

/// Bytes as text.
/// # Errors
/// If they are not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, NotUtf8> {
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        NotUtf8 { offset, byte: error.as_bytes()[offset] }
    })?;
    if text.as_bytes().starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// The bytes of a text without the mark of their order, if one stands before them.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_without_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for (bytes, found) in
            [(&b"\xEF\xBB\xBFa\xEF\xBB\xBF"[..], "a\u{feff}"), (b"", ""), (b"\xEF\xBB\xBF", "")]
        {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read_text(&path, 9).unwrap(), found);
        }
        for (bytes, says) in [(&b"a\xff\xfe"[..], "byte 1 (0xff)"), (b"ab\xc3", "byte 2 (0xc3)")] {
            fs::write(&path, bytes).unwrap();
            let error = read_text(&path, 9).unwrap_err();
            assert!(error.source.to_string().starts_with(says), "{error:?}");
        }
    }

    #[test]
    fn a_file_is_as_long_as_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.source.to_string().contains("has 5 bytes"), "{error:?}");
        // Sparse: nothing of it is on the disk, and nothing of it may be in memory.
        fs::File::create(&path).unwrap().set_len(1 << 33).unwrap();
        assert_eq!(read(&path, 100).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [folder.path(), &socket, Path::new("/dev/zero")] {
            let error = open(path).unwrap_err();
            assert!(error.source.to_string().contains("not a regular file"), "{error:?}");
        }
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            assert_eq!(open(&pipe).unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
        } else {
            println!("skipped: there is no mkfifo");
        }
        assert_eq!(
            open(&folder.path().join("b")).unwrap_err().source.kind(),
            io::ErrorKind::NotFound
        );
    }
}
