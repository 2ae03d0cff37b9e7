//! A run as a Hugging Face folder.

use super::super::floats::{bytes_in, check_range, dtype};
use super::super::{Exported, Source, dense, transposed};
use super::{CARD, CONFIG, GENERATION, MASKS, PREFIX, SOFT_PROMPT, WEIGHTS, config, masks, prompt};
use crate::architecture::ForeignNames;
use crate::checkpoint::{Choice, weights_hash};
use crate::error::Error;
use crate::run::model_card;
use crate::tensor_file::{self, Elements, TensorView};
use mediswift_engine::{Parameters, Shape};
use mediswift_files as files;
use mediswift_kernels::Precision;
use std::collections::BTreeMap;
use std::path::Path;

/// Everything that an export writes, and so may replace.
const FILES: [&str; 10] = [
    CONFIG,
    WEIGHTS,
    MASKS,
    SOFT_PROMPT,
    GENERATION,
    CARD,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
];

/// Writes a checkpoint of the run in `run` to the folder `out`, which appears when it is complete, with weights
/// rounded to `precision`. `out` must not exist or be empty; `force` replaces an earlier export.
/// # Errors
/// If the run cannot be read, `out` cannot be written or holds anything else, or a weight is too large for the
/// precision.
pub fn export(
    run: &Path,
    choice: Choice,
    out: &Path,
    precision: Precision,
    force: bool,
) -> Result<Exported, Error> {
    files::clear_beside(out);
    check_destination(out, force)?;
    let source = Source::load(run, choice)?;
    check_range(run, source.gpt.parameters().iter().map(|(_, tensor)| (tensor, precision)))?;
    let (tensors, (masks, bytes)) = files::write_folder(out, |folder| {
        let parameters = source.gpt.parameters();
        let mut bytes = write_weights(&folder.join(WEIGHTS), parameters, precision)?;
        let mut mask_count = 0;
        if is_sparse(&source) {
            let (count, length) = masks::write(folder, &source.config.sparsity, parameters)?;
            (mask_count, bytes) = (count, bytes + length);
        }
        bytes += prompt::write(folder, &source.gpt)?;
        source.tokenizer.export(folder)?;
        for (name, value) in [
            (CONFIG, config::describe(&source.config.model, &source.tokenizer, precision)),
            (GENERATION, config::special_ids(&source.tokenizer)),
        ] {
            let text = format!("{value:#}\n");
            files::write(&folder.join(name), text.as_bytes())?;
        }
        files::write(&folder.join(CARD), card(&source).as_bytes())?;
        Ok::<_, Error>((parameters.iter().len(), (mask_count, bytes)))
    })?;
    Ok(Exported { tensors, masks, bytes, step: source.step, skipped: source.skipped })
}

/// Refuses a destination that would lose something nobody asked to lose.
fn check_destination(out: &Path, force: bool) -> Result<(), Error> {
    let Ok(kind) = out.symlink_metadata() else { return Ok(()) };
    if !kind.is_dir() {
        return Err(Error::occupied(out, "not a folder: choose another --out"));
    }
    let mut holds_export = false;
    for entry in out.read_dir().map_err(Error::io("list", out))? {
        let name = entry.map_err(Error::io("list", out))?.file_name();
        let name = name.to_string_lossy();
        if !FILES.contains(&name.as_ref()) {
            let problem = format!("holds '{name}', which no export writes: choose another --out");
            return Err(Error::occupied(out, problem));
        }
        holds_export = true;
    }
    if holds_export && !force {
        let advice = "choose another --out, or replace it with --force";
        return Err(Error::occupied(out, format!("holds an export already: {advice}")));
    }
    Ok(())
}

/// Returns the length of the file.
fn write_weights(path: &Path, parameters: &Parameters, precision: Precision) -> Result<u64, Error> {
    let notes = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let tensors: Vec<TensorView<'_>> = parameters
        .iter()
        .filter_map(|(_, parameter)| Some((parameter, ForeignNames::of(parameter.name)?)))
        .map(|(parameter, names)| {
            let mut shape = parameter.shape.extents();
            let in_precision = dtype(precision);
            let elements = if names.is_conv1d {
                shape.reverse();
                let (columns, rows) = (shape[0], shape[1]);
                let make = move || {
                    let turned = transposed(&dense(parameter), rows, columns);
                    bytes_in(precision, &turned)
                };
                Elements::Made(in_precision, Box::new(make))
            } else if precision == Precision::F32 {
                Elements::F32(parameter.values)
            } else {
                let make = move || bytes_in(precision, parameter.values);
                Elements::Made(in_precision, Box::new(make))
            };
            TensorView { name: format!("{PREFIX}{}", names.hf), shape, elements }
        })
        .collect();
    Ok(tensor_file::write(path, &notes, &tensors)?.bytes)
}

fn is_sparse(source: &Source) -> bool {
    source.gpt.linear_weights().any(|weight| matches!(weight.shape, Shape::Sparse(_)))
}

/// The run's model card with what Hugging Face wants to know and what the files are.
fn card(source: &Source) -> String {
    let hash = weights_hash(source.gpt.parameters());
    let result = format!("Exported after {} optimiser steps; weights hash `{hash}`.", source.step);
    let card = model_card(&source.config, source.origin.as_ref(), &result);
    let masks = if is_sparse(source) {
        "\n`masks.safetensors` says which weights exist: a boolean tensor for every sparse weight, \
         under its name and in its shape. Weights that do not exist are 0 in `model.safetensors`; \
         multiply by the masks after each step to keep them so when training further.\n"
    } else {
        ""
    };
    let prompt = match source.gpt.prompt_tokens() {
        0 => String::new(),
        n => format!(
            "\n`soft_prompt.safetensors` has the embeddings of {n} virtual tokens. In fine-tuning they \
             stood between source and target, after an end of text at the beginning: without them \
             the model does not do its task. Hand `inputs_embeds` to the model, with these rows \
             between those of `transformer.wte`.\n"
        ),
    };
    format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- gpt2\n\
         - biomedical\n---\n\n{card}\n## Files\n\n`GPT2LMHeadModel.from_pretrained` loads this \
         folder.\n{masks}{prompt}"
    )
}
