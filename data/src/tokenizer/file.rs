//! Tokenizer files.
//!
//! A `tokenizer.json` is one that Hugging Face's `tokenizers` reads. For byte-bpe it encodes any text
//! there as here. For moses-bpe it encodes the words of [`moses::tokenize`]; the Moses options are in
//! an extra `moses` object of the `pre_tokenizer`, which other readers skip.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::kind::{END_OF_TEXT, END_OF_WORD, Kind, MOSES_SPECIALS, UNKNOWN_TOKEN};
use super::vocabulary::{Vocabulary, in_order};
use crate::DataError;
use crate::error::TokenizerProblem;

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
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Vocabulary, DataError> {
    parse_bytes(bytes).map_err(|problem| DataError::tokenizer(path, problem))
}

fn parse_bytes(bytes: &[u8]) -> Result<Vocabulary, TokenizerProblem> {
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
    Ok(Vocabulary { kind, tokens: in_order(tokens)?, merges })
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

/// The bytes of a `tokenizer.json`.
pub(crate) fn describe(vocabulary: &Vocabulary) -> Vec<u8> {
    let vocab: serde_json::Map<String, Value> =
        vocabulary.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let added = |content: &str| {
        let id = vocabulary.tokens.iter().position(|token| token == content);
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let (specials, unknown, suffix, cut, decoder) = match vocabulary.kind {
        Kind::ByteBpe => {
            let byte_level = json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true,
            });
            (vec![added(END_OF_TEXT)], Value::Null, Value::Null, byte_level.clone(), byte_level)
        }
        Kind::MosesBpe(options) => (
            MOSES_SPECIALS.map(added).to_vec(),
            json!(UNKNOWN_TOKEN),
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
            "merges": vocabulary.merges,
        },
    });
    file.to_string().into_bytes()
}
