//! GGUF version 3: the one file that llama.cpp and its kin load.
//!
//! ```text
//! "GGUF" | u32 version | u64 tensors | u64 pairs
//! pairs:    string key | u32 type | value
//! tensors:  string name | u32 dimensions | u64 each, fastest first | u32 type | u64 offset
//! zeros up to a multiple of 32
//! tensor data, each followed by zeros up to a multiple of 32
//! ```
//!
//! Numbers are little-endian, a string is u64 length and UTF-8. The architecture is `gpt2`; matrices
//! are `[out, in]` row by row as here, which GGUF writes as the dimensions `in, out`. The output head
//! is the token embedding, so there is no `output.weight`.

use super::floats::{bytes_in, check_range};
use super::{Exported, Source, dense};
use crate::architecture::ForeignNames;
use crate::checkpoint::Choice;
use crate::error::Error;
use mediswift_data::Tokenizer;
use mediswift_data::tokenizer::Kind;
use mediswift_engine::ops::EPSILON;
use mediswift_engine::{Shape, Tensor};
use mediswift_files as files;
use mediswift_kernels::Precision;
use std::borrow::Cow;
use std::path::Path;

const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// Numbers that stand for types in the format.
mod code {
    use mediswift_kernels::Precision;

    /// Tensors.
    pub(super) const fn tensor(precision: Precision) -> u32 {
        match precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Bf16 => 30,
        }
    }

    /// Files, by what most of their tensors are.
    pub(super) const fn file(precision: Precision) -> u32 {
        match precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Bf16 => 32,
        }
    }

    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    /// Kinds of tokens.
    pub(super) const NORMAL: i32 = 1;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const UNUSED: i32 = 5;
}

/// Writes a checkpoint of the run in `run` to the file `out`, whole or not at all; a file of that name
/// is replaced. Matrices are in `precision`, rounded to nearest; vectors and the position embedding are always
/// f32.
///
/// GGUF has no Moses tokenizer: a moses-bpe model goes without its tokenizer, as one that reads and
/// writes token ids.
/// # Errors
/// If the run cannot be read, its model has a soft prompt, the file cannot be written, or a weight is too
/// large for the precision.
pub fn export(
    run: &Path,
    choice: Choice,
    out: &Path,
    precision: Precision,
) -> Result<Exported, Error> {
    let source = Source::load(run, choice)?;
    if source.gpt.prompt_tokens() > 0 {
        let problem = "its model has a soft prompt, for which GGUF has no place";
        let advice = "export it with hf, or fine-tune with finetune.prompt_tokens=0";
        return Err(Error::incompatible(run, format!("{problem}: {advice}")));
    }
    let tensors: Vec<Entry<'_>> =
        source.gpt.parameters().iter().filter_map(|(_, p)| Entry::new(p, precision)).collect();
    check_range(run, tensors.iter().map(|tensor| (tensor.parameter, tensor.precision)))?;
    let header = header(&source, precision, &tensors);
    let mut bytes = header.0.len() as u64;
    files::write_with(out, |file| {
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", out));
        write(&header.0)?;
        for tensor in &tensors {
            let data = tensor.data();
            write(&data)?;
            write(&vec![0; padding(data.len() as u64) as usize])?;
            bytes += padded(data.len() as u64);
        }
        Ok::<_, Error>(())
    })?;
    let (tensors, step) = (tensors.len(), source.step);
    Ok(Exported { tensors, masks: 0, bytes, step, skipped: source.skipped })
}

/// Everything before the tensors' data.
fn header(source: &Source, precision: Precision, tensors: &[Entry<'_>]) -> Bytes {
    let (model, tokenizer) = (&source.config.model, &source.tokenizer);
    let mut pairs = Pairs::default();
    pairs.string("general.architecture", "gpt2");
    pairs.string("general.name", &format!("MediSwift {}", model.preset.name));
    pairs.string("general.description", "For research only. Not for clinical use.");
    pairs.u32("general.alignment", ALIGNMENT as u32);
    pairs.u32("general.file_type", code::file(precision));
    pairs.u32("gpt2.context_length", model.context as u32);
    pairs.u32("gpt2.embedding_length", model.d_model as u32);
    pairs.u32("gpt2.block_count", model.layers as u32);
    pairs.u32("gpt2.feed_forward_length", 4 * model.d_model as u32);
    pairs.u32("gpt2.attention.head_count", model.heads as u32);
    pairs.f32("gpt2.attention.layer_norm_epsilon", EPSILON);
    pairs.u32("gpt2.vocab_size", model.vocabulary as u32);
    match tokenizer.kind() {
        Kind::ByteBpe => describe_tokenizer(&mut pairs, tokenizer, model.vocabulary),
        Kind::MosesBpe(_) => pairs.string("tokenizer.ggml.model", "none"),
    }
    let end = tokenizer.end_of_text();
    pairs.u32("tokenizer.ggml.bos_token_id", end);
    pairs.u32("tokenizer.ggml.eos_token_id", end);

    let mut header = Bytes(b"GGUF".to_vec());
    header.u32(VERSION);
    header.u64(tensors.len() as u64);
    header.u64(pairs.count);
    header.0.extend(pairs.bytes.0);
    let mut offset = 0;
    for tensor in tensors {
        header.string(&tensor.name);
        let extents = tensor.parameter.shape.extents();
        header.u32(extents.len() as u32);
        extents.iter().rev().for_each(|&extent| header.u64(extent as u64));
        header.u32(code::tensor(tensor.precision));
        header.u64(offset);
        offset += padded(tensor.byte_len());
    }
    header.0.resize(padded(header.0.len() as u64) as usize, 0);
    header
}

/// A byte-level BPE, with a name for every row of the embedding.
fn describe_tokenizer(pairs: &mut Pairs, tokenizer: &Tokenizer, vocabulary: usize) {
    let known = tokenizer.vocab_size();
    let ids: Vec<u32> = (0..known as u32).collect();
    let tokens = tokenizer.tokens(&ids).expect("every id is below the number of tokens");
    let unused = (known..vocabulary).map(|id| Cow::Owned(format!("[PAD{id}]")));
    let tokens = tokens.into_iter().map(Cow::Borrowed).chain(unused);
    let kind = |id: usize| match id {
        id if id >= known => code::UNUSED,
        id if id == tokenizer.end_of_text() as usize => code::CONTROL,
        _ => code::NORMAL,
    };
    let merges = tokenizer.merges().iter().map(|(left, right)| format!("{left} {right}"));
    pairs.string("tokenizer.ggml.model", "gpt2");
    pairs.string("tokenizer.ggml.pre", "gpt-2");
    pairs.strings("tokenizer.ggml.tokens", vocabulary, tokens);
    pairs.i32s("tokenizer.ggml.token_type", vocabulary, (0..vocabulary).map(kind));
    pairs.strings("tokenizer.ggml.merges", tokenizer.merges().len(), merges);
}

/// One tensor of the file.
struct Entry<'a> {
    name: String,
    parameter: Tensor<'a>,
    precision: Precision,
}

impl<'a> Entry<'a> {
    fn new(parameter: Tensor<'a>, precision: Precision) -> Option<Self> {
        let is_position = parameter.name.starts_with("pos_embed");
        let is_rounded = parameter.shape.is_matrix() && !is_position;
        let precision = if is_rounded { precision } else { Precision::F32 };
        Some(Self { name: ForeignNames::of(parameter.name)?.gguf, parameter, precision })
    }

    fn byte_len(&self) -> u64 {
        let count: usize = self.parameter.shape.extents().iter().product();
        (count * self.precision.bytes()) as u64
    }

    fn data(&self) -> Cow<'a, [u8]> {
        match (self.parameter.shape, self.precision) {
            (Shape::Sparse(_), precision) => {
                Cow::Owned(bytes_in(precision, &dense(self.parameter)))
            }
            (_, Precision::F32) => Cow::Borrowed(bytemuck::cast_slice(self.parameter.values)),
            (_, precision) => Cow::Owned(bytes_in(precision, self.parameter.values)),
        }
    }
}

/// Bytes from `len` to the next multiple of the alignment.
fn padding(len: u64) -> u64 {
    padded(len) - len
}

fn padded(len: u64) -> u64 {
    len.next_multiple_of(ALIGNMENT)
}

/// Little-endian numbers and strings, one after another.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, value: &str) {
        self.u64(value.len() as u64);
        self.0.extend(value.as_bytes());
    }
}

/// Keys with typed values.
#[derive(Default)]
struct Pairs {
    bytes: Bytes,
    count: u64,
}

impl Pairs {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        self.bytes.string(key);
        self.bytes.u32(kind);
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, code::U32);
        self.bytes.u32(value);
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, code::F32);
        self.bytes.u32(value.to_bits());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, code::STRING);
        self.bytes.string(value);
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, code::ARRAY);
        self.bytes.u32(kind);
        self.bytes.u64(len as u64);
    }

    fn strings(&mut self, key: &str, len: usize, values: impl Iterator<Item = impl AsRef<str>>) {
        self.array(key, code::STRING, len);
        values.for_each(|value| self.bytes.string(value.as_ref()));
    }

    fn i32s(&mut self, key: &str, len: usize, values: impl Iterator<Item = i32>) {
        self.array(key, code::I32, len);
        values.for_each(|value| self.bytes.u32(value.cast_unsigned()));
    }
}
