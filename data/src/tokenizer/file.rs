//! Tokenizer files: our `tokenizer.json`, and the vocabularies of GPT-2 and BioGPT.
//!
//! A `tokenizer.json` is one that Hugging Face's `tokenizers` reads. For byte-bpe it encodes any text
//! there as here. For moses-bpe it encodes the words of [`moses::tokenize`]; the Moses options are in
//! an extra `moses` object of the `pre_tokenizer`, which other readers skip.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mediswift_files as files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::moses;
use super::{END_OF_TEXT, Kind, Parts};
use crate::DataError;
use crate::error::TokenizerProblem;

/// The reserved tokens of moses-bpe, as fairseq and so BioGPT number them.
pub(crate) const MOSES_SPECIALS: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// The mark of a token that ends a word.
pub(crate) const END_OF_WORD: &str = "</w>";

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    r#type: String,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f64>,
    #[serde(default)]
    ignore_merges: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// Reads the bytes of a `tokenizer.json`.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Parts, DataError> {
    parse_bytes(bytes).map_err(|problem| DataError::tokenizer(path, problem))
}

fn parse_bytes(bytes: &[u8]) -> Result<Parts, TokenizerProblem> {
    let file: File = serde_json::from_slice(bytes)
        .map_err(|e| TokenizerProblem::NotATokenizer { why: e.to_string() })?;
    if file.model.r#type != "BPE" {
        return Err(TokenizerProblem::NotBpe { model: file.model.r#type });
    }
    let model = &file.model;
    if model.dropout.is_some_and(|p| p > 0.0)
        || model.ignore_merges
        || model.continuing_subword_prefix.as_ref().is_some_and(|p| !p.is_empty())
    {
        return Err(TokenizerProblem::Unsupported);
    }
    let kind = kind_of(&file)?;
    let mut tokens = file.model.vocab;
    for Added { id, content } in file.added_tokens {
        if tokens.insert(content.clone(), id).is_some_and(|known| known != id) {
            return Err(TokenizerProblem::TwoIds { token: content });
        }
    }
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => line
            .split_once(' ')
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .ok_or(TokenizerProblem::NotAMerge { line }),
    });
    let merges = merges.collect::<Result<_, _>>()?;
    Ok(Parts { kind, tokens: in_order(tokens)?, merges })
}

fn kind_of(file: &File) -> Result<Kind, TokenizerProblem> {
    let type_of = |part: &Option<Value>| match part {
        Some(part) => part["type"].as_str().unwrap_or("something else").to_owned(),
        None => "none".to_owned(),
    };
    if let Some(options) = file.pre_tokenizer.as_ref().and_then(|p| p.get("moses")) {
        let options = serde_json::from_value(options.clone())
            .map_err(|e| TokenizerProblem::MosesOptions { why: e.to_string() })?;
        if file.model.end_of_word_suffix.as_deref() != Some(END_OF_WORD) {
            return Err(TokenizerProblem::NoSuffix { suffix: END_OF_WORD });
        }
        return Ok(Kind::MosesBpe(options));
    }
    for (of, part) in [(&file.pre_tokenizer, "pre_tokenizer"), (&file.decoder, "decoder")] {
        let found = type_of(of);
        if found != "ByteLevel" {
            return Err(TokenizerProblem::NotByteLevel { part, found });
        }
    }
    let pre_tokenizer = file.pre_tokenizer.as_ref().unwrap_or(&Value::Null);
    if pre_tokenizer["add_prefix_space"] != false
        || pre_tokenizer["use_regex"] == false
        || file.normalizer.as_ref().is_some_and(|n| !n.is_null())
    {
        return Err(TokenizerProblem::ChangesTexts);
    }
    Ok(Kind::ByteBpe)
}

/// Tokens sorted by id, which must go from 0 without gaps.
fn in_order(tokens: HashMap<String, u32>) -> Result<Vec<String>, TokenizerProblem> {
    let mut sorted: Vec<(u32, String)> = tokens.into_iter().map(|(t, id)| (id, t)).collect();
    sorted.sort_unstable();
    if let Some((expected, (id, token))) =
        (0..).zip(&sorted).find(|(expected, (id, _))| expected != id)
    {
        return Err(if *id < expected {
            TokenizerProblem::SharedId { token: token.clone(), id: *id }
        } else {
            TokenizerProblem::MissingId { tokens: sorted.len(), id: expected }
        });
    }
    Ok(sorted.into_iter().map(|(_, token)| token).collect())
}

/// The bytes of a `tokenizer.json`.
pub(crate) fn describe(parts: &Parts) -> Vec<u8> {
    let vocab: serde_json::Map<String, Value> =
        parts.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let added = |content: &str| {
        let id = parts.tokens.iter().position(|token| token == content);
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let (specials, unknown, suffix, cut, decoder) = match parts.kind {
        Kind::ByteBpe => {
            let byte_level = json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true,
            });
            (vec![added(END_OF_TEXT)], Value::Null, Value::Null, byte_level.clone(), byte_level)
        }
        Kind::MosesBpe(options) => (
            MOSES_SPECIALS.map(added).to_vec(),
            json!("<unk>"),
            json!(END_OF_WORD),
            json!({ "type": "WhitespaceSplit", "moses": options }),
            json!({ "type": "BPEDecoder", "suffix": END_OF_WORD }),
        ),
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials,
        "normalizer": null,
        "pre_tokenizer": cut,
        "post_processor": null,
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": suffix,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab,
            "merges": parts.merges,
        },
    });
    file.to_string().into_bytes()
}

/// Reads a vocabulary made elsewhere: GPT-2's (`encoder.json` or `vocab.json`, and `vocab.bpe` or
/// `merges.txt`) or BioGPT's (`dict.txt` and `bpecodes`, or `vocab.json` and `merges.txt`).
pub(crate) fn import(vocabulary: &Path, merges: &Path) -> Result<Parts, DataError> {
    let text = read(vocabulary)?;
    let is_json = text.trim_start().starts_with('{');
    let mut tokens =
        if is_json { from_json(&text, vocabulary)? } else { from_dict(&text, vocabulary)? };
    let is_moses = MOSES_SPECIALS.iter().all(|special| tokens.iter().any(|t| t == special));
    let kind = if is_moses { Kind::MosesBpe(moses::Options::default()) } else { Kind::ByteBpe };
    if !is_moses && !tokens.iter().any(|token| token == END_OF_TEXT) {
        tokens.push(END_OF_TEXT.to_owned());
    }
    let text = read(merges)?;
    let wrong = |problem| DataError::tokenizer(merges, problem);
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || number == 1 && line.starts_with("#version") {
            continue;
        }
        let mut words = line.split(' ');
        let (Some(left), Some(right), count, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong(TokenizerProblem::NotAMergeLine { line: number }));
        };
        if count.is_some_and(|count| count.parse::<u64>().is_err()) {
            return Err(wrong(TokenizerProblem::NotACount { line: number }));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(Parts { kind, tokens, merges: pairs })
}

fn read(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(|e| DataError::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let problem = TokenizerProblem::NotUtf8 { offset: e.utf8_error().valid_up_to() };
        DataError::tokenizer(path, problem)
    })
}

fn from_json(text: &str, path: &Path) -> Result<Vec<String>, DataError> {
    serde_json::from_str(text)
        .map_err(|e| TokenizerProblem::NotTokenIds { why: e.to_string() })
        .and_then(in_order)
        .map_err(|problem| DataError::tokenizer(path, problem))
}

/// fairseq's `token count` lines; a trailing `@@` says that the word goes on.
fn from_dict(text: &str, path: &Path) -> Result<Vec<String>, DataError> {
    let mut tokens: Vec<String> = MOSES_SPECIALS.map(str::to_owned).to_vec();
    for (number, line) in (1..).zip(text.lines()) {
        let token = line.rsplit_once(' ').filter(|(_, count)| count.parse::<u64>().is_ok());
        let Some((token, _)) = token.filter(|(token, _)| !token.is_empty()) else {
            return Err(DataError::tokenizer(path, TokenizerProblem::NotAnEntry { line: number }));
        };
        tokens.push(match token.strip_suffix("@@") {
            Some(part) => part.to_owned(),
            None => format!("{token}{END_OF_WORD}"),
        });
    }
    Ok(tokens)
}

/// Writes the files that `transformers` loads: `BioGptTokenizer` for moses-bpe, `GPT2Tokenizer` for
/// byte-bpe.
pub(crate) fn export(parts: &Parts, folder: &Path) -> Result<(), DataError> {
    let vocab: serde_json::Map<String, Value> =
        parts.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let (header, config) = match parts.kind {
        Kind::ByteBpe => (
            "#version: 0.2\n",
            json!({
                "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false,
                "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT,
            }),
        ),
        Kind::MosesBpe(_) => (
            "",
            json!({
                "tokenizer_class": "BioGptTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
            }),
        ),
    };
    let mut merges = header.to_owned();
    for (left, right) in &parts.merges {
        merges.push_str(&format!("{left} {right}\n"));
    }
    files::write(&folder.join("vocab.json"), json!(vocab).to_string().as_bytes())?;
    files::write(&folder.join("merges.txt"), merges.as_bytes())?;
    Ok(files::write(&folder.join("tokenizer_config.json"), config.to_string().as_bytes())?)
}
