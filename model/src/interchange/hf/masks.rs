//! `masks.safetensors`: which weights of a sparse model exist.

use super::super::transposed;
use super::{MASKS, PREFIX};
use crate::architecture::{ForeignNames, Slot};
use crate::config::SparsityConfig;
use crate::config::value::Setting;
use crate::error::Error;
use crate::sparsity::Distribution;
use crate::tensor_file::{self, Elements, TensorView};
use mediswift_engine::{Parameters, Shape};
use mediswift_kernels::SparsePattern;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

const FORMAT: &str = "mediswift-masks";
const VERSION: &str = "1";
/// What of the run's settings `[sparsity]` its masks need, as JSON.
const SPARSITY: &str = "sparsity";

/// The masks of a model, and how they were made.
pub(super) struct Masks {
    pub(super) sparsity: SparsityConfig,
    /// By our names.
    pub(super) patterns: HashMap<String, SparsePattern>,
}

/// Writes the masks of all sparse weights into `folder`; returns their number and the file's length.
/// # Errors
/// If the system refuses.
pub(super) fn write(
    folder: &Path,
    sparsity: &SparsityConfig,
    parameters: &Parameters,
) -> Result<(usize, u64), Error> {
    let mut tensors = Vec::new();
    for (_, parameter) in parameters.iter() {
        if let Shape::Sparse(pattern) = parameter.shape {
            let shape = vec![pattern.columns(), pattern.rows()];
            let make = || conv1d(pattern);
            let elements = Elements::Made(Dtype::BOOL, Box::new(make));
            let names =
                ForeignNames::of(parameter.name).expect("sparse weights have names elsewhere");
            let name = format!("{PREFIX}{}", names.hf);
            tensors.push(TensorView { name, shape, elements });
        }
    }
    let notes = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        (SPARSITY, described(sparsity)),
    ];
    let notes = BTreeMap::from(notes.map(|(key, value)| (key.to_string(), value)));
    let file = tensor_file::write(&folder.join(MASKS), &notes, &tensors)?;
    Ok((tensors.len(), file.bytes))
}

/// The settings that say how much of each layer is left; how and when masks moved is over.
fn described(sparsity: &SparsityConfig) -> String {
    let settings = serde_json::to_value(sparsity).expect("plain data");
    let Value::Object(mut settings) = settings else { unreachable!("a table") };
    let is_uniform = sparsity.distribution == Distribution::Uniform;
    settings.retain(|key, _| match key.as_str() {
        "algorithm" | "drop_fraction" | "update" => false,
        "distribution" => !is_uniform,
        _ => true,
    });
    Value::Object(settings).to_string()
}

/// `[in, out]`, 1 where there is a weight.
fn conv1d(pattern: &SparsePattern) -> Vec<u8> {
    let (rows, columns) = (pattern.rows(), pattern.columns());
    let mut mask = vec![0; rows * columns];
    for row in 0..rows {
        pattern.row(row).iter().for_each(|&column| mask[column as usize * rows + row] = 1);
    }
    mask
}

/// Reads the masks in `folder`, if there are any, for a model with these places. Whether there is
/// one for every weight that should have one is checked when the model is put together.
/// # Errors
/// If the file is damaged, foreign, or not that of such a model.
pub(super) fn read(folder: &Path, slots: &HashMap<String, Slot>) -> Result<Option<Masks>, Error> {
    let path = folder.join(MASKS);
    if !path.exists() {
        return Ok(None);
    }
    let mut patterns = HashMap::new();
    let notes = tensor_file::read_foreign(&path, &mut |name, info, file| {
        let place = name.strip_prefix(PREFIX).and_then(|name| slots.get(name));
        let Some(slot) = place.filter(|slot| slot.masks() > 0) else {
            return Err(Error::malformed(&path, format!("'{name}' is no weight that has a mask")));
        };
        let (rows, columns) = (slot.extents[0], slot.extents[1]);
        if info.dtype != Dtype::BOOL || info.shape != [columns, rows] {
            let (dtype, shape) = (info.dtype, &info.shape);
            let problem = format!("'{name}' is {dtype} {shape:?}, not BOOL [{columns}, {rows}]");
            return Err(Error::malformed(&path, problem));
        }
        let mut bytes = vec![0; rows * columns];
        file.read_exact(&mut bytes).map_err(Error::io("read", &path))?;
        if let Some(at) = bytes.iter().position(|&byte| byte > 1) {
            let problem = format!("'{name}' has {} at element {at}, neither 0 nor 1", bytes[at]);
            return Err(Error::malformed(&path, problem));
        }
        let pattern = pattern(rows, columns, &transposed(&bytes, columns, rows))
            .map_err(|source| Error::Mask { layer: name.to_string(), source })?;
        patterns.insert(slot.name.clone(), pattern);
        Ok(())
    })?;
    let note = |key: &str| {
        let value = notes.get(key).map(String::as_str);
        value.ok_or_else(|| Error::malformed(&path, format!("its metadata lack '{key}'")))
    };
    if notes.get("format").map(String::as_str) != Some(FORMAT) {
        let advice = "move it away to import the weights as they are";
        return Err(Error::malformed(&path, format!("not a masks file of this program: {advice}")));
    }
    if note("version")? != VERSION {
        return Err(Error::malformed(
            &path,
            format!("version {} is not {VERSION}", note("version")?),
        ));
    }
    let wrong = |error: &dyn fmt::Display| {
        Error::malformed(&path, format!("its metadata's '{SPARSITY}': {error}"))
    };
    let settings = serde_json::from_str(note(SPARSITY)?).map_err(|error| wrong(&error))?;
    // Files of the past lack keys of today.
    let mut sparsity = SparsityConfig::default();
    sparsity.change(settings, SPARSITY, &"settings".into()).map_err(|error| wrong(&error))?;
    Ok(Some(Masks { sparsity, patterns }))
}

/// The pattern of a `[rows, columns]` mask of zeros and ones.
fn pattern(
    rows: usize,
    columns: usize,
    mask: &[u8],
) -> Result<SparsePattern, mediswift_kernels::PatternError> {
    let (mut row_offsets, mut column_indices) = (vec![0], Vec::new());
    for row in mask.chunks_exact(columns) {
        column_indices.extend((0..).zip(row).filter(|(_, kept)| **kept == 1).map(|(at, _)| at));
        row_offsets.push(column_indices.len() as u32);
    }
    SparsePattern::new(rows, columns, row_offsets, column_indices)
}
