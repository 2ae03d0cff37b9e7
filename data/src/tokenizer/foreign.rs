//! The vocabularies of GPT-2 and BioGPT, and the files that `transformers` reads.

use std::path::Path;

use mediswift_files::{self as files, LARGE, NotUtf8};
use serde_json::{Value, json};

use super::kind::{END_OF_TEXT, END_OF_WORD, Kind, MOSES_SPECIALS};
use super::moses;
use super::vocabulary::{Vocabulary, in_order};
use crate::DataError;
use crate::error::TokenizerProblem;

/// Reads a vocabulary made elsewhere: GPT-2's (`encoder.json` or `vocab.json`, and `vocab.bpe` or
/// `merges.txt`) or BioGPT's (`dict.txt` and `bpecodes`, or `vocab.json` and `merges.txt`).
pub(crate) fn import(vocabulary: &Path, merges: &Path) -> Result<Vocabulary, DataError> {
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
    Ok(Vocabulary { kind, tokens, merges: pairs })
}

fn read(path: &Path) -> Result<String, DataError> {
    files::text(files::read(path, LARGE)?).map_err(|NotUtf8 { offset, .. }| {
        DataError::tokenizer(path, TokenizerProblem::NotUtf8 { offset })
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
pub(crate) fn export(vocabulary: &Vocabulary, folder: &Path) -> Result<(), DataError> {
    let vocab: serde_json::Map<String, Value> =
        vocabulary.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let (header, config) = match vocabulary.kind {
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
    for (left, right) in &vocabulary.merges {
        merges.push_str(&format!("{left} {right}\n"));
    }
    files::write(&folder.join("vocab.json"), json!(vocab).to_string().as_bytes())?;
    files::write(&folder.join("merges.txt"), merges.as_bytes())?;
    Ok(files::write(&folder.join("tokenizer_config.json"), config.to_string().as_bytes())?)
}
