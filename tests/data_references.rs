//! Encoding against outside truths: the vocabularies of GPT-2 and BioGPT, and words and ids made by
//! other programs.
//!
//! The files lie beside some checkouts only; without them the tests say that they skip.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use mediswift_data::Tokenizer;
use mediswift_data::tokenizer::moses;
use serde_json::{Value, json};

fn vocabularies() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tokenizers");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn records(path: &Path) -> Vec<Value> {
    let file = flate2::read::MultiGzDecoder::new(fs::File::open(path).expect("the reference"));
    let lines = BufReader::new(file).lines();
    lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect()
}

/// Imports, saves and loads again, so that the file format is part of the test.
fn imported(vocabulary: &Path, merges: &Path) -> Tokenizer {
    let scratch = tempfile::tempdir().expect("temporary folder");
    let path = scratch.path().join("tokenizer.json");
    Tokenizer::import(vocabulary, merges).expect("import").save(&path).expect("save");
    Tokenizer::load(&path).expect("load")
}

#[test]
fn gpt2_ids_are_reproduced() {
    let Some(folder) = vocabularies() else { return };
    let tokenizer = imported(&folder.join("gpt2_encoder.json"), &folder.join("gpt2_vocab.bpe"));
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (50_257, 50_256));
    let references = records(&folder.join("gpt2_reference_encodings.jsonl.gz"));
    assert_eq!(references.len(), 205);
    for record in references {
        let text = record["text"].as_str().expect("a text");
        let ids = tokenizer.encode(text);
        assert_eq!(json!(ids), record["ids"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decode"), text);
    }
}

#[test]
fn biogpt_words_tokens_and_ids_are_reproduced() {
    let Some(folder) = vocabularies() else { return };
    let tokenizer = imported(&folder.join("biogpt_dict.txt"), &folder.join("biogpt_bpecodes.txt"));
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (42_384, 2));
    let references = records(&folder.join("biogpt_reference_encodings.jsonl.gz"));
    assert_eq!(references.len(), 204);
    for record in references {
        let text = record["text"].as_str().expect("a text");
        let words = moses::tokenize(text, &moses::Options::default());
        let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(json!(words), record["moses"], "{text:?}");
        let ids = tokenizer.encode(text);
        assert_eq!(json!(ids), record["ids"], "{text:?}");
        // An unknown symbol has a token of its own there, and `<unk>` here.
        let unknown = tokenizer.unknown().expect("moses-bpe has one");
        let tokens = tokenizer.tokens(&ids).expect("tokens");
        let theirs = record["tokens"].as_array().expect("tokens");
        assert_eq!(tokens.len(), theirs.len(), "{text:?}");
        for ((id, token), theirs) in ids.iter().zip(tokens).zip(theirs) {
            assert!(*id == unknown || theirs == token, "{text:?}: {token}, not {theirs}");
        }
    }
}

/// Every title and abstract lies beside some checkouts only.
#[test]
fn every_real_abstract_comes_back() {
    let Some(folder) = vocabularies() else { return };
    let gpt2 = imported(&folder.join("gpt2_encoder.json"), &folder.join("gpt2_vocab.bpe"));
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder.with_file_name("pubmed_abstracts")).expect("list") {
        for record in records(&entry.expect("an entry").path()) {
            texts.extend(["title", "abstract"].map(|field| match &record[field] {
                Value::String(text) => text.clone(),
                _ => String::new(),
            }));
        }
    }
    assert_eq!(texts.len(), 2 * 42_783);
    for (text, ids) in texts.iter().zip(gpt2.encode_batch(&texts)) {
        assert_eq!(&gpt2.decode(&ids).expect("own ids"), text);
    }
}
