//! The tokenizer in a run folder, without which a model's numbers mean nothing.

use crate::error::Error;
use mediswift_data::{Tokenizer, tokenizer};
use std::path::{Path, PathBuf};

/// Where the tokenizer of the run in `path` is.
pub fn tokenizer_path(path: &Path) -> PathBuf {
    path.join(tokenizer::FILE_NAME)
}

/// The tokenizer of the run in `path`, which must be the one with the BLAKE3 `hash`; checkpoints of
/// older fine-tuning runs do not know it, and say "".
/// # Errors
/// If it is missing, damaged or another one.
pub(crate) fn load_tokenizer(path: &Path, hash: &str) -> Result<Tokenizer, Error> {
    let file = tokenizer_path(path);
    let tokenizer = Tokenizer::load(&file)?;
    let found = tokenizer.hash();
    if hash.is_empty() || found == hash {
        return Ok(tokenizer);
    }
    let problem = format!(
        "is another tokenizer than that of the model or data (BLAKE3 {found}, not {hash}): restore \
         the file, or prepare the data with it"
    );
    Err(Error::incompatible(file, problem))
}
