//! Encoding against an outside truth: GPT-2's own vocabulary and ids made by other programs.
//!
//! The files lie beside some checkouts only; without them the test says that it skips.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use mediswift_data::Tokenizer;
use serde_json::{Value, json};

#[test]
fn gpt2_ids_are_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tokenizers");
    let Ok(merges) = fs::read_to_string(folder.join("gpt2_vocab.bpe")) else {
        eprintln!("skipped: {} does not hold GPT-2's vocabulary", folder.display());
        return;
    };
    let vocab = fs::read(folder.join("gpt2_encoder.json")).expect("the vocabulary");
    let vocab: Value = serde_json::from_slice(&vocab).expect("JSON");
    let merges: Vec<Vec<&str>> =
        merges.lines().skip(1).map(|line| line.split(' ').collect()).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let file = json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    });
    let scratch = tempfile::tempdir().expect("temporary folder");
    let path = scratch.path().join("tokenizer.json");
    fs::write(&path, file.to_string()).expect("write");
    let tokenizer = Tokenizer::load(&path).expect("load");
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (50_257, 50_256));

    let reference = fs::File::open(folder.join("gpt2_reference_encodings.jsonl.gz"));
    let reference = flate2::read::MultiGzDecoder::new(reference.expect("the reference"));
    let mut compared = 0;
    for line in BufReader::new(reference).lines() {
        let record: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let text = record["text"].as_str().expect("a text");
        let ids = tokenizer.encode(text).expect("encode");
        assert_eq!(json!(ids), record["ids"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decode"), text);
        compared += 1;
    }
    assert!(compared > 200, "{compared}");
}
