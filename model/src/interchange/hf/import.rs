//! A Hugging Face folder as a run.

use super::super::floats::read_floats;
use super::super::{check_vocabulary, transposed};
use super::config::{Architecture, read_object};
use super::masks::{self, Masks};
use super::prompt;
use super::{HEAD, INDEX, MASKS, PREFIX, WEIGHTS};
use crate::architecture::{ForeignNames, PROMPT, Slot, slots};
use crate::config::{Base, Config};
use crate::error::Error;
use crate::gpt::Gpt;
use crate::memory::Memory;
use crate::run;
use crate::sparsity::Targets;
use crate::tensor_file;
use mediswift_data::{Tokenizer, tokenizer};
use mediswift_engine::{Parameters, Shape};
use mediswift_kernels::{AlignedBuffer, CsrMatrix, SparsePattern};
use safetensors::tensor::TensorInfo;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to import a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// A tokenizer file, if not that of the folder.
    pub tokenizer: Option<PathBuf>,
    /// Settings to change, as `table.key=value`: of training, and which weights to leave out of a
    /// checkpoint without masks. Without any, all stay.
    pub set: Vec<String>,
    /// Bytes of memory that the model may take; without, all that there is.
    pub free: Option<u64>,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// Settings of the run.
    pub config: Config,
    /// Tensors of weights.
    pub tensors: usize,
    /// Stored parameters.
    pub parameters: usize,
    /// BLAKE3 over all parameters in name order.
    pub weights_hash: String,
    /// Whether the masks came with the checkpoint.
    pub has_masks: bool,
}

/// Makes the checkpoint in `folder` a run in `out`, which must not exist or be empty.
/// # Errors
/// If the folder is damaged, its network is not one that the engine has, its tokenizer cannot be
/// used, or the run cannot be written; `out` is then as it was.
pub fn import(folder: &Path, out: &Path, options: &Import) -> Result<Imported, Error> {
    if out.exists() {
        run::check_unused(out)?;
    }
    let architecture = Architecture::read(folder)?;
    let mut config = settings(&architecture, &options.set)?;
    let place = |slot: Slot| Some((ForeignNames::of(&slot.name)?.hf, slot));
    let places: HashMap<String, Slot> =
        slots(&config.model, 0).into_iter().filter_map(place).collect();
    let masks = masks::read(folder, &places)?;
    if let Some(Masks { sparsity, patterns }) = &masks {
        let targets = Targets::new(&config.sparsity, &config.model);
        if places.values().any(|slot| slot.sparsity(&targets).is_some()) {
            let problem = "the checkpoint has masks: ask for no sparsity, or move them away";
            return Err(Error::incompatible(folder.join(MASKS), problem));
        }
        config.sparsity = sparsity.clone();
        // How masks came to be is one thing, what becomes of them another.
        config.sparsity.stay();
        config.validate()?;
        let targets = Targets::new(&config.sparsity, &config.model);
        let missing = places.iter().find(|(_, slot)| {
            slot.sparsity(&targets).is_some() && !patterns.contains_key(&slot.name)
        });
        if let Some((name, _)) = missing {
            let problem = format!("the mask of '{PREFIX}{name}' is missing");
            return Err(Error::malformed(folder.join(MASKS), problem));
        }
    }
    Memory::of_import(&config).require("the model", options.free)?;
    let tokenizer = read_tokenizer(folder, options.tokenizer.as_deref(), config.model.vocabulary)?;

    let has_masks = masks.is_some();
    let patterns = masks.map(|masks| masks.patterns);
    let targets = Targets::new(&config.sparsity, &config.model);
    let (head, tensors) = (None, Vec::new());
    let mut reader = Reader { config: &config, targets, places, patterns, head, tensors };
    for file in weight_files(folder)? {
        let mut visit = |name: &str, info: &TensorInfo, stream: &mut dyn Read| {
            reader.receive(&file, name, info, stream)
        };
        tensor_file::read_foreign(&file, &mut visit)?;
    }
    let mut tensors = reader.finish(folder, architecture.is_tied)?;
    if let Some((rows, values)) = prompt::read(folder, config.model.d_model)? {
        tensors.push((PROMPT.to_string(), Shape::Matrix(rows, config.model.d_model), values));
    }
    let gpt = Gpt::from_parameters(&config, Parameters::from_tensors(tensors))?;
    config.kernels.plans = gpt.plans();
    let name = folder.canonicalize().ok();
    let name = name.as_deref().unwrap_or(folder).file_name().unwrap_or_default();
    let source = format!("the Hugging Face checkpoint `{}`", name.to_string_lossy());
    let origin = run::import_run(out, &config, &gpt, &tokenizer, source)?;
    Ok(Imported {
        config,
        tensors: gpt.parameters().iter().len(),
        parameters: gpt.parameters().count(),
        weights_hash: origin.weights_hash,
        has_masks,
    })
}

/// The settings of the run: sizes of the checkpoint, defaults of the most similar preset, changes.
fn settings(architecture: &Architecture, changes: &[String]) -> Result<Config, Error> {
    let mut config = Config::new(architecture.model.preset);
    config.model = architecture.model.clone();
    config.train.context = config.model.context;
    let config = Config::load(Base::Given(Box::new(config)), changes, |_| ())?;
    if config.model != architecture.model {
        let problem = "the checkpoint decides the model: it cannot be changed";
        return Err(Error::setting("--set model", problem));
    }
    Ok(config)
}

fn read_tokenizer(
    folder: &Path,
    given: Option<&Path>,
    vocabulary: usize,
) -> Result<Tokenizer, Error> {
    let (json, vocab, merges) = (
        given.map_or_else(|| folder.join(tokenizer::FILE_NAME), Path::to_path_buf),
        folder.join("vocab.json"),
        folder.join("merges.txt"),
    );
    let (path, tokenizer) = if given.is_some() || json.exists() {
        let tokenizer = Tokenizer::load(&json)?;
        (json, tokenizer)
    } else if vocab.exists() && merges.exists() {
        let tokenizer = Tokenizer::import(&vocab, &merges)?;
        (vocab, tokenizer)
    } else {
        let problem = "has no tokenizer (tokenizer.json, or vocab.json and merges.txt)";
        return Err(Error::malformed(folder, format!("{problem}: name one with --tokenizer")));
    };
    check_vocabulary(&tokenizer, vocabulary, &path)?;
    Ok(tokenizer)
}

/// The files that hold the weights.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = folder.join(WEIGHTS);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.exists() {
        let problem = format!("has no {WEIGHTS}: save the model as safetensors");
        return Err(Error::malformed(folder, problem));
    }
    let object = read_object(&index)?;
    let map = object.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::malformed(&index, "it has no object 'weight_map'"))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain(name));
        let name = name.ok_or_else(|| {
            Error::malformed(
                &index,
                format!("'{tensor}' is in {file}, which is no name of a file beside it"),
            )
        })?;
        files.insert(folder.join(name));
    }
    Ok(files.into_iter().collect())
}

/// Whether a name leads nowhere but into its own folder.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\'])
}

/// Modules that PyTorch puts around others to compile, replicate, shard or recompute them. Saved from
/// inside one, a tensor has its name in front.
const WRAPPERS: [&str; 4] =
    ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A tensor's name without the wrappers of the modules it is in.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// Collects the tensors of a checkpoint.
struct Reader<'a> {
    config: &'a Config,
    targets: Targets<'a>,
    /// By their names in the checkpoint; those found are taken out.
    places: HashMap<String, Slot>,
    /// Masks that came with the checkpoint, by our names.
    patterns: Option<HashMap<String, SparsePattern>>,
    /// The output head, if it is written out.
    head: Option<AlignedBuffer>,
    tensors: Vec<(String, Shape, AlignedBuffer)>,
}

impl Reader<'_> {
    fn receive(
        &mut self,
        path: &Path,
        name: &str,
        info: &TensorInfo,
        stream: &mut dyn Read,
    ) -> Result<(), Error> {
        let plain = unwrapped(name);
        let short = plain.strip_prefix(PREFIX).unwrap_or(&plain);
        if is_constant(short) {
            let length = (info.data_offsets.1 - info.data_offsets.0) as u64;
            let copied = std::io::copy(&mut stream.take(length), &mut std::io::sink());
            return copied.map(drop).map_err(Error::io("read", path));
        }
        if short == HEAD {
            let model = &self.config.model;
            check_shape(path, name, &info.shape, &[model.vocabulary, model.d_model])?;
            self.head = Some(read_floats(path, name, info, stream)?);
            return Ok(());
        }
        let Some(slot) = self.places.remove(short) else {
            let layers = self.config.model.layers;
            let problem = format!(
                "tensor '{name}' comes twice or has no place in a GPT-2 of {layers} layers"
            );
            return Err(Error::malformed(path, problem));
        };
        let is_conv1d = ForeignNames::of(&slot.name).is_some_and(|names| names.is_conv1d);
        let mut extents = slot.extents.clone();
        if is_conv1d {
            extents.reverse();
        }
        check_shape(path, name, &info.shape, &extents)?;
        let mut values = read_floats(path, name, info, stream)?;
        if is_conv1d {
            values = AlignedBuffer::from_slice(&transposed(&values, extents[0], extents[1]));
        }
        let pattern = self.patterns.as_mut().and_then(|patterns| patterns.remove(&slot.name));
        let (shape, values) = match pattern {
            Some(pattern) => masked(path, name, pattern, &values)?,
            // The settings decide; they make no mask where all masks came with the checkpoint.
            None => match slot.shape(self.config, &self.targets, || values.clone())? {
                Shape::Sparse(pattern) => kept(name, pattern, &values)?,
                shape => (shape, values),
            },
        };
        self.tensors.push((slot.name, shape, values));
        Ok(())
    }

    /// All tensors, once every file is read.
    fn finish(
        self,
        folder: &Path,
        is_tied: bool,
    ) -> Result<Vec<(String, Shape, AlignedBuffer)>, Error> {
        if let Some(name) = self.places.keys().min() {
            return Err(Error::malformed(folder, format!("tensor '{PREFIX}{name}' is missing")));
        }
        let embedding = self.tensors.iter().find(|(name, ..)| name == "tok_embed.weight");
        let (_, _, embedding) = embedding.expect("every place is filled");
        match &self.head {
            Some(head) if head[..] != embedding[..] => {
                let problem = format!("'{HEAD}' differs from the token embedding");
                Err(Error::incompatible(
                    folder,
                    format!("{problem}: the engine's output head is tied to it"),
                ))
            }
            None if !is_tied => {
                let problem = format!("tensor '{HEAD}' is missing, and it is not tied");
                Err(Error::malformed(folder, problem))
            }
            _ => Ok(self.tensors),
        }
    }
}

/// Whether a tensor is no weight: the causal mask and its fill value, of older checkpoints.
fn is_constant(name: &str) -> bool {
    let buffer = |name: &str| matches!(name, "attn.bias" | "attn.masked_bias");
    name.strip_prefix("h.").and_then(|rest| rest.split_once('.')).is_some_and(|(_, n)| buffer(n))
}

fn check_shape(path: &Path, name: &str, found: &[usize], needed: &[usize]) -> Result<(), Error> {
    if found != needed {
        let problem = format!("has shape {found:?}, but config.json asks for {needed:?}");
        return Err(Error::malformed(path, format!("tensor '{name}' {problem}")));
    }
    Ok(())
}

/// The weights that `pattern` keeps; the others must be 0.
fn masked(
    path: &Path,
    name: &str,
    pattern: SparsePattern,
    dense: &[f32],
) -> Result<(Shape, AlignedBuffer), Error> {
    let (shape, kept) = kept(name, Arc::new(pattern), dense)?;
    let non_zeros = |values: &[f32]| values.iter().filter(|&&value| value != 0.0).count();
    let (all, inside) = (non_zeros(dense), non_zeros(&kept));
    if all != inside {
        let problem =
            format!("tensor '{name}' has {} weights where its mask has none", all - inside);
        let advice = "move masks.safetensors away to import it dense";
        return Err(Error::malformed(path, format!("{problem}: {advice}")));
    }
    Ok((shape, kept))
}

/// The weights that `pattern` keeps.
fn kept(
    name: &str,
    pattern: Arc<SparsePattern>,
    dense: &[f32],
) -> Result<(Shape, AlignedBuffer), Error> {
    let kept = CsrMatrix::from_dense(pattern, dense)
        .map_err(|source| Error::Mask { layer: name.to_string(), source })?;
    Ok((Shape::Sparse(kept.pattern().clone()), AlignedBuffer::from_slice(kept.values())))
}
