//! [`Checkpoint`]: reading what was saved, and believing nothing of it unchecked.

use super::manifest::{CheckpointManifest, MANIFEST, OPTIMIZER, WEIGHTS, read_manifest};
use crate::adamw::Moments;
use crate::config::Config;
use crate::error::Error;
use crate::gpt::Gpt;
use crate::tensor_file::{self, unusable};
use mediswift_engine::{ParamId, Parameters, Shape};
use mediswift_kernels::{AlignedBuffer, SparsePattern};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A complete checkpoint on the disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: CheckpointManifest,
    /// The settings in the manifest.
    pub config: Config,
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
        if manifest.loss_scale.is_some_and(|scale| !scale.is_valid()) {
            return Err(unusable(&file, "it scales the loss by no power of two from 1 to 2^24"));
        }
        if manifest.masks.is_some_and(|masks| masks.last > manifest.step) {
            return Err(unusable(&file, "its masks moved after its last step"));
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

    /// Checks that this is a checkpoint of the run that has these settings and data. Once its steps are
    /// done, a run may have more.
    /// # Errors
    /// If it is of another one.
    pub(crate) fn check_run(&self, config: &Config, fingerprint: &str) -> Result<(), Error> {
        let planned = self.config.train.steps;
        let is_longer = config.train.steps > planned;
        let is_done = self.manifest.step == planned as u64;
        let mut differences = match is_longer && is_done {
            true => config.differences_but_steps(&self.config),
            false => config.differences(&self.config),
        };
        if is_longer && !is_done {
            differences.push(format!("it can get more once its {planned} are done"));
        }
        // A model from elsewhere, at step 0, has seen no data yet.
        let seen = &self.manifest.data.fingerprint;
        if !seen.is_empty() && seen != fingerprint {
            differences.push("the data are others".into());
        }
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!("is of another run: {}", differences.join("; "));
        Err(Error::incompatible(&self.path, problem))
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
        self.moments_of(parameters, &parameters.held())
    }

    /// Reads the moments of some ranges of the parameters' layout alone. The whole file is checked.
    /// # Errors
    /// As for [`Checkpoint::moments`].
    pub fn moments_of(
        &self,
        parameters: &Parameters,
        ranges: &[Range<usize>],
    ) -> Result<Option<Moments>, Error> {
        let path = self.path.join(OPTIMIZER);
        let Some(summary) = self.manifest.files.get(OPTIMIZER) else { return Ok(None) };
        let mut moments = Moments::shard(parameters.layout(), ranges);
        let mut buffer = Vec::new();
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
            let store = if is_first { &mut moments.first } else { &mut moments.second };
            let place = parameters.layout().place(id).range.clone();
            buffer.resize(place.len(), 0.0);
            fill(&path, &mut buffer, file)?;
            check_finite(&path, "moment", name, &buffer)?;
            if !is_first && buffer.iter().any(|&v| v < 0.0) {
                return Err(unusable(&path, format!("'{name}' has a negative element")));
            }
            for range in ranges {
                let (start, end) = (place.start.max(range.start), place.end.min(range.end));
                if start < end {
                    let from = &buffer[start - place.start..end - place.start];
                    store.range_mut(start..end).copy_from_slice(from);
                }
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
    pub(super) fn is_intact(&self) -> bool {
        self.parameters().and_then(|parameters| self.moments(&parameters)).is_ok()
    }
}

/// Extents of the values as they are stored.
pub(super) fn stored_extents(shape: &Shape) -> Vec<usize> {
    match shape {
        Shape::Sparse(pattern) => vec![pattern.nnz()],
        dense => dense.extents(),
    }
}

/// Name of a mask's tensor of row offsets.
pub(super) fn row_offsets(name: &str) -> String {
    format!("{name}.row_offsets")
}

/// Name of a mask's tensor of columns.
pub(super) fn column_indices(name: &str) -> String {
    format!("{name}.column_indices")
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
