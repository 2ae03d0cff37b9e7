//! The key that clients of a server must have.

use std::env;
use std::path::Path;

use anyhow::Context as _;
use mediswift_files as files;

/// The variable that may hold the key.
const VARIABLE: &str = "MEDISWIFT_API_KEY";

/// Longest file of a key, in bytes.
const MOST_BYTES: u64 = 4096;

/// The key in `file`, or in the environment; none if neither names one.
pub fn find(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let (place, text) = match file {
        Some(path) => (path.display().to_string(), files::read_text(path, MOST_BYTES)?),
        None => match env::var(VARIABLE) {
            Ok(text) => (VARIABLE.to_owned(), text),
            Err(env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(error).context(VARIABLE),
        },
    };
    let key = text.trim();
    anyhow::ensure!(
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()),
        "{place}: holds no API key: it must be visible ASCII characters without blanks"
    );
    Ok(Some(key.to_owned()))
}
