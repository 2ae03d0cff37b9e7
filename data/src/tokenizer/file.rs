//! Tokenizer files: our `tokenizer.json`, and the vocabularies of GPT-2 and BioGPT.
//!
//! A `tokenizer.json` is one that Hugging Face's `tokenizers` reads. For byte-bpe it encodes any text
//! there as here. For moses-bpe it encodes the words of [`moses::tokenize`]; the Moses options are in
//! an extra `moses` object of the `pre_tokenizer`, which other readers skip.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::moses;
use super::{END_OF_TEXT, Kind, Parts};
use crate::{DataError, write_atomically};

/// The reserved tokens of moses-bpe, as fairseq and so BioGPT number them.
pub(crate) const MOSES_SPECIALS: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// The mark of a token that ends a word.
pub(crate) const END_OF_WORD: &str = "</w>";

const ADVICE: &str =
    "name a tokenizer.json made by `mediswift tokenizer train` or `import`, or a GPT-2 one";

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
    let wrong = |problem: String| DataError::file(path, problem, ADVICE);
    let file: File =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("not a tokenizer ({e})")))?;
    if file.model.r#type != "BPE" {
        return Err(wrong(format!("its model is {}, not BPE", file.model.r#type)));
    }
    let model = &file.model;
    if model.dropout.is_some_and(|p| p > 0.0)
        || model.ignore_merges
        || model.continuing_subword_prefix.as_ref().is_some_and(|p| !p.is_empty())
    {
        return Err(wrong(
            "it uses dropout, ignored merges or prefixes, which are not supported".to_owned(),
        ));
    }
    let kind = kind_of(&file).map_err(wrong)?;
    let mut tokens = file.model.vocab;
    for Added { id, content } in file.added_tokens {
        if tokens.insert(content.clone(), id).is_some_and(|known| known != id) {
            return Err(wrong(format!("the token {content:?} has two ids")));
        }
    }
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => line
            .split_once(' ')
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .ok_or_else(|| wrong(format!("{line:?} is not a merge of two tokens"))),
    });
    let merges = merges.collect::<Result<_, _>>()?;
    Ok(Parts { kind, tokens: in_order(tokens).map_err(wrong)?, merges })
}

fn kind_of(file: &File) -> Result<Kind, String> {
    let type_of = |part: &Option<Value>| match part {
        Some(part) => part["type"].as_str().unwrap_or("something else").to_owned(),
        None => "none".to_owned(),
    };
    if let Some(options) = file.pre_tokenizer.as_ref().and_then(|p| p.get("moses")) {
        let options = serde_json::from_value(options.clone())
            .map_err(|e| format!("its Moses options cannot be understood ({e})"))?;
        if file.model.end_of_word_suffix.as_deref() != Some(END_OF_WORD) {
            return Err(format!(
                "a moses-bpe tokenizer needs the end-of-word suffix {END_OF_WORD}"
            ));
        }
        return Ok(Kind::MosesBpe(options));
    }
    for (part, of) in [(&file.pre_tokenizer, "pre_tokenizer"), (&file.decoder, "decoder")] {
        if type_of(part) != "ByteLevel" {
            return Err(format!(
                "not a byte-level BPE (its {of} is {}, not ByteLevel)",
                type_of(part)
            ));
        }
    }
    let pre_tokenizer = file.pre_tokenizer.as_ref().unwrap_or(&Value::Null);
    if pre_tokenizer["add_prefix_space"] != false
        || pre_tokenizer["use_regex"] == false
        || file.normalizer.as_ref().is_some_and(|n| !n.is_null())
    {
        return Err("it does not return texts unchanged (it normalizes, adds a blank or does not split as GPT-2 does)".to_owned());
    }
    Ok(Kind::ByteBpe)
}

/// Tokens sorted by id, which must go from 0 without gaps.
fn in_order(tokens: HashMap<String, u32>) -> Result<Vec<String>, String> {
    let mut sorted: Vec<(u32, String)> = tokens.into_iter().map(|(t, id)| (id, t)).collect();
    sorted.sort_unstable();
    if let Some((expected, (id, token))) =
        (0..).zip(&sorted).find(|(expected, (id, _))| expected != id)
    {
        return Err(if *id < expected {
            format!("the token {token:?} has the id {id}, which another has too")
        } else {
            format!("of its {} tokens none has the id {expected}", sorted.len())
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
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || number == 1 && line.starts_with("#version") {
            continue;
        }
        let mut words = line.split(' ');
        let (Some(left), Some(right), count, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong_line(merges, number, "not a merge: two tokens and perhaps a count"));
        };
        if count.is_some_and(|count| count.parse::<u64>().is_err()) {
            return Err(wrong_line(merges, number, "the count of the merge is not a number"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(Parts { kind, tokens, merges: pairs })
}

fn read(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(|e| DataError::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("byte {} is not UTF-8", e.utf8_error().valid_up_to());
        DataError::file(path, problem, "name a vocabulary or merges file")
    })
}

fn wrong_line(path: &Path, line: u64, problem: &str) -> DataError {
    let advice = "name the vocabulary first and the merges second";
    DataError::file(path, format!("line {line}: {problem}"), advice)
}

fn from_json(text: &str, path: &Path) -> Result<Vec<String>, DataError> {
    let wrong = |problem: String| DataError::file(path, problem, "name a vocab.json");
    let tokens: HashMap<String, u32> =
        serde_json::from_str(text).map_err(|e| wrong(format!("not token → id as JSON ({e})")))?;
    in_order(tokens).map_err(wrong)
}

/// fairseq's `token count` lines; a trailing `@@` says that the word goes on.
fn from_dict(text: &str, path: &Path) -> Result<Vec<String>, DataError> {
    let mut tokens: Vec<String> = MOSES_SPECIALS.map(str::to_owned).to_vec();
    for (number, line) in (1..).zip(text.lines()) {
        let token = line.rsplit_once(' ').filter(|(_, count)| count.parse::<u64>().is_ok());
        let Some((token, _)) = token.filter(|(token, _)| !token.is_empty()) else {
            return Err(wrong_line(path, number, "not a line `token count` of a dictionary"));
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
    write_atomically(&folder.join("vocab.json"), json!(vocab).to_string().as_bytes())?;
    write_atomically(&folder.join("merges.txt"), merges.as_bytes())?;
    write_atomically(&folder.join("tokenizer_config.json"), config.to_string().as_bytes())
}
