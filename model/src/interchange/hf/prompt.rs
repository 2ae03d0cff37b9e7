//! The soft prompt in a file of its own.

use super::super::floats::read_floats;
use super::SOFT_PROMPT;
use crate::architecture::PROMPT;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::tensor_file::{self, Elements, TensorView};
use mediswift_kernels::AlignedBuffer;
use std::collections::BTreeMap;
use std::path::Path;

/// The name that prompt tuning elsewhere uses.
const TENSOR: &str = "prompt_embeddings";

/// Writes the soft prompt of a model, if it has one. Returns the bytes written.
pub(super) fn write(folder: &Path, gpt: &Gpt) -> Result<u64, Error> {
    let Some(prompt) = gpt.parameters().find(PROMPT) else { return Ok(0) };
    let parameter = gpt.parameters().get(prompt);
    let tensor = TensorView {
        name: TENSOR.into(),
        shape: parameter.shape.extents(),
        elements: Elements::F32(parameter.values),
    };
    let notes = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    Ok(tensor_file::write(&folder.join(SOFT_PROMPT), &notes, &[tensor])?.bytes)
}

/// Rows of the soft prompt and their numbers, if the folder has one.
pub(super) fn read(folder: &Path, d_model: usize) -> Result<Option<(usize, AlignedBuffer)>, Error> {
    let path = folder.join(SOFT_PROMPT);
    if !path.exists() {
        return Ok(None);
    }
    let mut found = None;
    tensor_file::read_foreign(&path, &mut |name, info, stream| {
        if name != TENSOR || info.shape.len() != 2 || info.shape[1] != d_model {
            let problem = format!("has '{name}' of shape {:?}", info.shape);
            let expected = format!("expected '{TENSOR}' of shape [virtual tokens, {d_model}]");
            return Err(Error::malformed(&path, format!("{problem}: {expected}")));
        }
        found = Some((info.shape[0], read_floats(&path, name, info, stream)?));
        Ok(())
    })?;
    match found {
        Some((rows, values)) if rows > 0 => Ok(Some((rows, values))),
        _ => Err(Error::malformed(&path, format!("has no '{TENSOR}' with a row: move it away"))),
    }
}
