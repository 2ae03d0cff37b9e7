//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! step-00001234/
//!     weights.safetensors     parameters by name
//!     optimizer.safetensors   AdamW's moments, `m.<name>` and `v.<name>`, where it made updates
//!     manifest.json           step, settings, position in the data, length and hash of the others
//! ```
//!
//! A dense weight is `[rows, columns]` or `[n]`. A sparse weight is three tensors: its non-zeros
//! `<name>` `[nnz]`, `<name>.row_offsets` `[rows + 1]` and `<name>.column_indices` `[nnz]` (CSR,
//! u32); the file's `__metadata__` has `"<name>": "rows columns"`. Moments have the shape of the
//! values; a model from elsewhere, and a fine-tuned one, has none. There is no random state to keep: all that is random derives from seed, name and step.
//!
//! **A checkpoint is complete or does not exist.** Files are written to a folder `.tmp-…`, the
//! manifest last, each waited for until it is on the disk; then the folder gets its name in one
//! step. Removal starts with the manifest. So a crash at any instant leaves folders without a name
//! or without a manifest, which [`latest`] passes over and [`prune`] clears away.

use crate::adamw::Moments;
use crate::config::{CheckpointConfig, Config};
use crate::disk::{self, NewFile, remove, sync_folder};
use crate::error::Error;
use crate::gpt::Gpt;
use crate::tensor_file::{self, Elements, FileSummary, TensorView, one_line, unusable};
use mediswift_engine::{ParamId, Parameters, Shape};
use mediswift_kernels::{AlignedBuffer, SparsePattern};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the format that this program writes and reads.
pub const VERSION: u32 = 1;

const FORMAT: &str = "mediswift-checkpoint";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MANIFEST: &str = "manifest.json";
const TEMPORARY: &str = ".tmp-";

/// No manifest is longer: 1 MiB.
const MANIFEST_LIMIT: u64 = 1 << 20;

/// Where in its data a run is, and which data that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataState {
    /// Training sequences consumed.
    pub sequences: u64,
    /// Fingerprint of the training data.
    pub fingerprint: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
}

/// What a checkpoint is made from.
pub struct Snapshot<'a> {
    /// Settings of the run.
    pub config: &'a Config,
    /// Optimiser steps done.
    pub step: u64,
    /// How many of them made no update.
    pub skipped: u64,
    /// The model.
    pub parameters: &'a Parameters,
    /// The optimiser's moments; without them, training goes on from this model with zeros.
    pub moments: Option<&'a Moments>,
    /// Position in the data.
    pub data: DataState,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `mediswift-checkpoint`.
    pub format: String,
    /// [`VERSION`] of the program that wrote it.
    pub version: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// How many of them made no update.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Position in the data.
    pub data: DataState,
    /// Where randomness comes from.
    pub random: String,
    /// [`weights_hash`] of the parameters.
    pub weights_hash: String,
    /// Length and hash of the other files.
    pub files: BTreeMap<String, FileSummary>,
    /// Settings, as TOML.
    pub config: String,
    /// BLAKE3 of this manifest as compact JSON with an empty checksum.
    pub checksum: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Manifest {
    fn sealed(mut self) -> Self {
        self.checksum.clear();
        let json = serde_json::to_vec(&self).expect("plain data");
        self.checksum = blake3::hash(&json).to_hex().to_string();
        self
    }
}

/// A complete checkpoint on the disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// The settings in the manifest.
    pub config: Config,
}

/// Saves a checkpoint in the folder `run` and returns its own folder, which is then safe from power
/// loss.
/// # Errors
/// If the system refuses; nothing is left behind then.
pub fn save(run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf, Error> {
    let name = format!("step-{:08}", snapshot.step);
    let (path, temporary) = (run.join(&name), run.join(format!("{TEMPORARY}{name}")));
    disk::create_folders(run)?;
    remove(&temporary)?;
    let manifest = write_files(&temporary, snapshot).inspect_err(|_| {
        // Makes room on a full disk; the first error is the one to report.
        let _ = remove(&temporary);
    })?;
    if path.exists() {
        // Saved before: a run that was resumed from an earlier step comes by again.
        let same = |old: &Manifest| old.files == manifest.files && old.data == manifest.data;
        if Checkpoint::open(&path).is_ok_and(|old| same(&old.manifest) && old.is_intact()) {
            remove(&temporary)?;
            return Ok(path);
        }
        discard(&path)?;
    }
    disk::rename(&temporary, &path)?;
    sync_folder(run)?;
    Ok(path)
}

fn write_files(folder: &Path, snapshot: &Snapshot<'_>) -> Result<Manifest, Error> {
    disk::create_folder(folder)?;
    let parameters = snapshot.parameters;
    let weights = write_weights(&folder.join(WEIGHTS), parameters)?;
    let mut files = BTreeMap::from([(WEIGHTS.to_string(), weights)]);
    if let Some(moments) = snapshot.moments {
        let moments = write_moments(&folder.join(OPTIMIZER), parameters, moments)?;
        files.insert(OPTIMIZER.to_string(), moments);
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        step: snapshot.step,
        skipped: snapshot.skipped,
        data: snapshot.data.clone(),
        random: "ChaCha8, keyed by BLAKE3 of seed and name: no state".into(),
        weights_hash: weights_hash(parameters),
        files,
        config: snapshot.config.to_toml(),
        checksum: String::new(),
    }
    .sealed();
    write_manifest(folder, &manifest)?;
    sync_folder(folder)?;
    Ok(manifest)
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    let path = folder.join(MANIFEST);
    let json = serde_json::to_vec_pretty(manifest).expect("plain data");
    let write = || -> std::io::Result<()> {
        let mut file = NewFile::create(&path)?;
        file.write_all(&json)?;
        file.sync()
    };
    write().map_err(Error::io("write", &path))
}

fn write_weights(path: &Path, parameters: &Parameters) -> Result<FileSummary, Error> {
    let (mut notes, mut tensors) = (BTreeMap::new(), Vec::new());
    for (_, parameter) in parameters.iter() {
        let name = parameter.name;
        tensors.push(TensorView {
            name: name.to_string(),
            shape: stored_extents(parameter.shape),
            elements: Elements::F32(parameter.values),
        });
        if let Shape::Sparse(pattern) = &parameter.shape {
            notes.insert(name.to_string(), format!("{} {}", pattern.rows(), pattern.columns()));
            let indices = [
                (row_offsets(name), pattern.row_offsets()),
                (column_indices(name), pattern.column_indices()),
            ];
            tensors.extend(indices.map(|(name, indices)| TensorView {
                name,
                shape: vec![indices.len()],
                elements: Elements::U32(indices),
            }));
        }
    }
    tensor_file::write(path, &notes, &tensors)
}

fn write_moments(
    path: &Path,
    parameters: &Parameters,
    moments: &Moments,
) -> Result<FileSummary, Error> {
    let mut tensors = Vec::new();
    for (id, parameter) in parameters.iter() {
        for (moment, values) in [("m", &moments.first), ("v", &moments.second)] {
            tensors.push(TensorView {
                name: format!("{moment}.{}", parameter.name),
                shape: stored_extents(parameter.shape),
                elements: Elements::F32(&values[id]),
            });
        }
    }
    tensor_file::write(path, &BTreeMap::new(), &tensors)
}

/// Extents of the values as they are stored.
fn stored_extents(shape: &Shape) -> Vec<usize> {
    match shape {
        Shape::Sparse(pattern) => vec![pattern.nnz()],
        dense => dense.extents(),
    }
}

fn row_offsets(name: &str) -> String {
    format!("{name}.row_offsets")
}

fn column_indices(name: &str) -> String {
    format!("{name}.column_indices")
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `path`: reads its manifest and checks that the files it
    /// names have the right lengths. Their content is checked when it is read.
    /// # Errors
    /// If the checkpoint is incomplete, damaged or of another version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let manifest = read_manifest(path)?;
        let file = path.join(MANIFEST);
        let config = Config::from_toml(&manifest.config, &file)?;
        config.validate().map_err(|error| unusable(&file, error))?;
        manifest.summary(WEIGHTS, &file)?;
        for name in [WEIGHTS, OPTIMIZER] {
            if let Some(summary) = manifest.files.get(name) {
                tensor_file::check_length(&path.join(name), summary)?;
            }
        }
        if manifest.skipped > manifest.step {
            return Err(unusable(&file, "it skipped more steps than it made"));
        }
        Ok(Self { path: path.to_path_buf(), manifest, config })
    }

    /// Reads the model, which must be the one that `config` describes.
    /// # Errors
    /// As those of [`Checkpoint::parameters`]; if the parameters are those of another model.
    pub fn model(&self, config: &Config) -> Result<Gpt, Error> {
        let parameters = self.parameters()?;
        Gpt::from_parameters(config, parameters)
            .map_err(|error| unusable(&self.path.join(WEIGHTS), error))
    }

    /// Checks that this is a checkpoint of the run that has these settings and data.
    /// # Errors
    /// If it is of another one.
    pub fn check_run(&self, config: &Config, fingerprint: &str) -> Result<(), Error> {
        let mut differences = config.differences(&self.config);
        // A model from elsewhere, at step 0, has seen no data yet.
        let seen = &self.manifest.data.fingerprint;
        if !seen.is_empty() && seen != fingerprint {
            differences.push("the data are others".into());
        }
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!("is of another run: {}", differences.join("; "));
        Err(Error::Checkpoint { path: self.path.clone(), problem })
    }

    /// Reads the parameters.
    /// # Errors
    /// If the file is damaged or holds anything but a model's finite weights with valid masks.
    pub fn parameters(&self) -> Result<Parameters, Error> {
        let path = self.path.join(WEIGHTS);
        let (mut values, mut indices) = (Vec::new(), HashMap::new());
        let summary = self.manifest.summary(WEIGHTS, &path)?;
        let notes = tensor_file::read(&path, summary, &mut |name, info, file| {
            match info.dtype {
                Dtype::F32 => {
                    let mut buffer = AlignedBuffer::zeros(info.shape.iter().product());
                    fill(&path, &mut buffer, file)?;
                    check_finite(&path, "weight", name, &buffer)?;
                    values.push((name.to_string(), info.shape.clone(), buffer));
                }
                Dtype::U32 => {
                    let mut buffer = vec![0u32; info.shape.iter().product()];
                    fill(&path, &mut buffer, file)?;
                    indices.insert(name.to_string(), buffer);
                }
                other => return Err(unusable(&path, format!("'{name}' has type {other}"))),
            }
            Ok(())
        })?;
        if let Some(name) = notes.keys().find(|name| values.iter().all(|(n, ..)| n != *name)) {
            return Err(unusable(&path, format!("sparse weight '{name}' is missing")));
        }
        let mut tensors = Vec::with_capacity(values.len());
        for (name, extents, values) in values {
            let shape = match (notes.get(&name), &extents[..]) {
                (Some(note), &[nnz]) => {
                    let pattern = read_pattern(&name, note, &mut indices)
                        .map_err(|problem| unusable(&path, problem))?;
                    if pattern.nnz() != nnz {
                        let mask = pattern.nnz();
                        let problem =
                            format!("'{name}' has {nnz} values, but its mask keeps {mask}");
                        return Err(unusable(&path, problem));
                    }
                    Shape::Sparse(Arc::new(pattern))
                }
                (None, &[n]) => Shape::Vector(n),
                (None, &[rows, columns]) => Shape::Matrix(rows, columns),
                _ => return Err(unusable(&path, format!("'{name}' has shape {extents:?}"))),
            };
            tensors.push((name, shape, values));
        }
        match indices.keys().min() {
            Some(extra) => Err(unusable(&path, format!("'{extra}' belongs to no sparse weight"))),
            None => Ok(Parameters::from_tensors(tensors)),
        }
    }

    /// Reads the optimiser's moments of `parameters`, which may have another order than in the file;
    /// nothing if the checkpoint has none.
    /// # Errors
    /// If the file is damaged or holds anything but finite moments of these parameters.
    pub fn moments(&self, parameters: &Parameters) -> Result<Option<Moments>, Error> {
        let path = self.path.join(OPTIMIZER);
        let Some(summary) = self.manifest.files.get(OPTIMIZER) else { return Ok(None) };
        let mut moments = Moments::zeros(parameters.layout());
        let mut seen: HashSet<(ParamId, bool)> = HashSet::new();
        tensor_file::read(&path, summary, &mut |name, info, file| {
            let target = name.split_once('.').and_then(|(moment, parameter)| {
                let is_first = ["v", "m"].iter().position(|&known| known == moment)? == 1;
                Some((parameters.find(parameter)?, is_first))
            });
            let Some((id, is_first)) = target else {
                return Err(unusable(&path, format!("'{name}' is no moment of this model")));
            };
            check_moment(name, info, parameters.get(id).shape)
                .map_err(|problem| unusable(&path, problem))?;
            let values = if is_first { &mut moments.first } else { &mut moments.second };
            fill(&path, &mut values[id], file)?;
            check_finite(&path, "moment", name, &values[id])?;
            if !is_first && values[id].iter().any(|&v| v < 0.0) {
                return Err(unusable(&path, format!("'{name}' has a negative element")));
            }
            seen.insert((id, is_first));
            Ok(())
        })?;
        for (id, parameter) in parameters.iter() {
            for (moment, is_first) in [("m", true), ("v", false)] {
                if !seen.contains(&(id, is_first)) {
                    let problem = format!("moment '{moment}.{}' is missing", parameter.name);
                    return Err(unusable(&path, problem));
                }
            }
        }
        Ok(Some(moments))
    }

    /// Whether all content is as it was written.
    fn is_intact(&self) -> bool {
        self.parameters().and_then(|parameters| self.moments(&parameters)).is_ok()
    }
}

impl Manifest {
    fn summary(&self, name: &str, path: &Path) -> Result<&FileSummary, Error> {
        self.files.get(name).ok_or_else(|| unusable(path, format!("it does not name {name}")))
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, Error> {
    let refuse = |problem: &str| {
        Err(Error::Checkpoint { path: folder.to_path_buf(), problem: problem.into() })
    };
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => {
            return refuse("is a file, not a checkpoint: name the folder that holds manifest.json");
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("does not exist: name the folder of a checkpoint");
        }
        Err(error) => return Err(Error::io("read", folder)(error)),
        Ok(_) => {}
    }
    let path = folder.join(MANIFEST);
    match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(unusable(&path, "it is not a regular file"));
        }
        Ok(metadata) if metadata.len() > MANIFEST_LIMIT => {
            return Err(unusable(&path, format!("{} bytes are no manifest", metadata.len())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("has no manifest.json: the checkpoint is incomplete, use another one");
        }
        Err(error) => return Err(Error::io("read", path)(error)),
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let invalid = |error: serde_json::Error| unusable(&path, one_line(&error.to_string()));
    // What it is comes first: other versions have other fields.
    let header: Header = serde_json::from_slice(&bytes).map_err(invalid)?;
    if header.format != FORMAT {
        return Err(unusable(&path, format!("its format is '{}', not '{FORMAT}'", header.format)));
    }
    if header.version != VERSION {
        let problem = format!(
            "its version is {}, but this program reads version {VERSION}: use the program that \
             wrote it",
            header.version
        );
        return Err(Error::Checkpoint { path, problem });
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(invalid)?;
    if manifest.clone().sealed() != manifest {
        return Err(unusable(&path, "its checksum is wrong"));
    }
    Ok(manifest)
}

/// The part of a manifest that all versions share.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

/// Takes the mask of the sparse weight `name` out of `indices`; `note` is `rows columns`.
fn read_pattern(
    name: &str,
    note: &str,
    indices: &mut HashMap<String, Vec<u32>>,
) -> Result<SparsePattern, String> {
    let extents: Option<(u32, u32)> = note
        .split_once(' ')
        .and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
    let (rows, columns) = extents.ok_or_else(|| format!("'{name}' has extents '{note}'"))?;
    let mut take = |part: String| {
        indices
            .remove(&part)
            .ok_or_else(|| format!("'{part}' is missing from the mask of '{name}'"))
    };
    let (offsets, columns_of) = (take(row_offsets(name))?, take(column_indices(name))?);
    SparsePattern::new(rows as usize, columns as usize, offsets, columns_of)
        .map_err(|error| format!("mask of '{name}': {error}"))
}

fn check_moment(name: &str, info: &TensorInfo, shape: &Shape) -> Result<(), String> {
    let expected = stored_extents(shape);
    match info.dtype {
        Dtype::F32 if info.shape == expected => Ok(()),
        Dtype::F32 => Err(format!("'{name}' has shape {:?}, not {expected:?}", info.shape)),
        other => Err(format!("'{name}' has type {other}, not F32")),
    }
}

fn fill<T: bytemuck::Pod>(path: &Path, buffer: &mut [T], file: &mut dyn Read) -> Result<(), Error> {
    file.read_exact(bytemuck::cast_slice_mut(buffer)).map_err(Error::io("read", path))
}

fn check_finite(path: &Path, what: &str, name: &str, values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(at) => {
            Err(unusable(path, format!("{what} '{name}' is {} at element {at}", values[at])))
        }
        None => Ok(()),
    }
}

/// The newest complete checkpoint of a run, and why newer folders were passed over.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The checkpoint, if there is any.
    pub checkpoint: Option<Checkpoint>,
    /// One warning for each newer folder that cannot be used.
    pub skipped: Vec<String>,
}

/// Looks for the newest complete checkpoint in the folder `run`; a folder that does not exist has
/// none.
/// # Errors
/// If the folder cannot be listed.
pub fn latest(run: &Path) -> Result<Latest, Error> {
    let mut skipped = Vec::new();
    for (_, path) in steps(run)?.into_iter().rev() {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok(Latest { checkpoint: Some(checkpoint), skipped }),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    Ok(Latest { checkpoint: None, skipped })
}

/// Removes all complete checkpoints of the folder `run` but the newest `keep` and those kept for
/// good, and what interrupted saves and removals left. Damaged checkpoints stay.
/// # Errors
/// If the system refuses.
pub fn prune(run: &Path, config: &CheckpointConfig) -> Result<(), Error> {
    let mut complete = 0;
    let for_good = |step: u64| match config.keep_every as u64 {
        0 => false,
        every => step.is_multiple_of(every),
    };
    for (step, path) in steps(run)?.into_iter().rev() {
        if !path.join(MANIFEST).exists() {
            discard(&path)?;
        } else if Checkpoint::open(&path).is_ok() {
            complete += 1;
            if complete > config.keep && !for_good(step) {
                discard(&path)?;
            }
        }
    }
    for (name, path) in list(run)? {
        if name.starts_with(TEMPORARY) {
            remove(&path)?;
        }
    }
    sync_folder(run)
}

/// Folders `step-…` of a run with their steps, oldest first.
fn steps(run: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut steps: Vec<(u64, PathBuf)> = list(run)?
        .into_iter()
        .filter_map(|(name, path)| Some((name.strip_prefix("step-")?.parse().ok()?, path)))
        .collect();
    steps.sort();
    Ok(steps)
}

/// Names and paths in a folder; none if it does not exist.
fn list(run: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", run)(error)),
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(Error::io("list", run))?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

/// Removes a checkpoint; without its manifest it no longer counts as one.
fn discard(path: &Path) -> Result<(), Error> {
    let manifest = path.join(MANIFEST);
    if manifest.exists() {
        remove(&manifest)?;
        sync_folder(path)?;
    }
    remove(path)
}

/// BLAKE3, in hexadecimal, over all parameters in the order of their names: name, extents, mask and
/// values, each preceded by its length. Equal for equal models, whatever computed them.
pub fn weights_hash(parameters: &Parameters) -> String {
    let mut sorted: Vec<_> = parameters.iter().map(|(_, parameter)| parameter).collect();
    sorted.sort_by(|a, b| a.name.cmp(b.name));
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for parameter in sorted {
        part(parameter.name.as_bytes());
        let extents: Vec<u64> = parameter.shape.extents().iter().map(|&n| n as u64).collect();
        part(bytemuck::cast_slice(&extents));
        if let Shape::Sparse(pattern) = &parameter.shape {
            part(bytemuck::cast_slice(pattern.row_offsets()));
            part(bytemuck::cast_slice(pattern.column_indices()));
        }
        part(bytemuck::cast_slice(parameter.values));
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests;
