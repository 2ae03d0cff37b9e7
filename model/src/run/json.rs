//! Small JSON files of a folder, written whole or not at all.

use crate::error::Error;
use mediswift_files::{self as files, SMALL};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("plain data") + "\n";
    Ok(files::write(path, text.as_bytes())?)
}

/// The same in one line, for many numbers.
pub(crate) fn write_line(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(value).expect("plain data") + "\n";
    Ok(files::write(path, text.as_bytes())?)
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = files::read_text(path, SMALL)?;
    serde_json::from_str(&text).map_err(|error| Error::damaged(path, error.to_string()))
}
