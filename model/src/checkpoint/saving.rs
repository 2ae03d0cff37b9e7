//! Saving: the order of steps in which a checkpoint comes to be.

use super::choosing::TEMPORARY;
use super::hash::weights_hash;
use super::manifest::{
    CheckpointManifest, DataState, FORMAT, OPTIMIZER, VERSION, WEIGHTS, write_manifest,
};
use super::reading::{Checkpoint, column_indices, row_offsets, stored_extents};
use crate::adamw::Moments;
use crate::config::Config;
use crate::error::Error;
use crate::finite::check_finite;
use crate::loss_scale::LossScale;
use crate::sparsity::MaskState;
use crate::tensor_file::{self, Elements, FileSummary, TensorView};
use mediswift_engine::{Parameters, Shape};
use mediswift_files::{self as files, remove};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a checkpoint is made from.
pub struct Snapshot<'a> {
    /// Settings of the run.
    pub config: &'a Config,
    /// Optimiser steps done.
    pub step: u64,
    /// How many of them made no update.
    pub skipped: u64,
    /// What the next step scales its loss with, if it is of f16.
    pub loss_scale: Option<LossScale>,
    /// How far masks have moved, if they do.
    pub masks: Option<MaskState>,
    /// The model.
    pub parameters: &'a Parameters,
    /// The optimiser's moments; without them, training goes on from this model with zeros.
    pub moments: Option<&'a Moments>,
    /// Position in the data.
    pub data: DataState,
}

/// Saves a checkpoint in the folder `run` and returns its own folder, which is then safe from power
/// loss.
/// # Errors
/// If a weight or a moment is not finite, or the system refuses; nothing is left behind then, and what
/// was saved before stays.
pub fn save(run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf, Error> {
    let name = format!("step-{:08}", snapshot.step);
    let (path, temporary) = (run.join(&name), run.join(format!("{TEMPORARY}{name}")));
    files::create_folders(run)?;
    remove(&temporary)?;
    let manifest = write_files(&temporary, snapshot).inspect_err(|_| {
        // Makes room on a full disk; the first error is the one to report.
        let _ = remove(&temporary);
    })?;
    if path.exists() {
        // Saved before: a run that was resumed from an earlier step comes by again.
        let same =
            |old: &CheckpointManifest| old.files == manifest.files && old.data == manifest.data;
        if Checkpoint::open(&path).is_ok_and(|old| same(&old.manifest) && old.is_intact()) {
            remove(&temporary)?;
            return Ok(path);
        }
    }
    files::put_folder(&temporary, &path)?;
    Ok(path)
}

fn write_files(folder: &Path, snapshot: &Snapshot<'_>) -> Result<CheckpointManifest, Error> {
    let parameters = snapshot.parameters;
    check_finite("weight", parameters)?;
    if let Some(moments) = snapshot.moments {
        check_finite("moment", &moments.first)?;
        check_finite("moment", &moments.second)?;
    }
    files::create_folder(folder)?;
    let weights = write_weights(&folder.join(WEIGHTS), parameters)?;
    let mut written = BTreeMap::from([(WEIGHTS.to_string(), weights)]);
    if let Some(moments) = snapshot.moments {
        let moments = write_moments(&folder.join(OPTIMIZER), parameters, moments)?;
        written.insert(OPTIMIZER.to_string(), moments);
    }
    let manifest = CheckpointManifest {
        format: FORMAT.into(),
        version: VERSION,
        step: snapshot.step,
        skipped: snapshot.skipped,
        loss_scale: snapshot.loss_scale,
        masks: snapshot.masks,
        data: snapshot.data.clone(),
        random: "ChaCha8, keyed by BLAKE3 of seed and name: no state".into(),
        weights_hash: weights_hash(parameters),
        files: written,
        config: snapshot.config.to_toml(),
        checksum: String::new(),
    }
    .sealed();
    write_manifest(folder, &manifest)?;
    Ok(manifest)
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
