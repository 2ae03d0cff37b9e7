//! [`Origin`]: where an imported model comes from.

use super::json;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(super) const ORIGIN: &str = "origin.json";

/// Where the first weights of a run come from that did not draw them: `origin.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// In words that complete "imported from".
    pub source: String,
    /// [`weights_hash`](crate::checkpoint::weights_hash) of the first weights.
    pub weights_hash: String,
}

/// Where the first weights of the run in `path` come from, if it was imported.
/// # Errors
/// If the file cannot be read.
pub(crate) fn read_origin(path: &Path) -> Result<Option<Origin>, Error> {
    let file = path.join(ORIGIN);
    if file.exists() { json::read(&file).map(Some) } else { Ok(None) }
}
