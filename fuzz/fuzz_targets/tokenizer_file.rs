//! `tokenizer.json`, and encoding with whatever is accepted as one.
#![no_main]

use std::path::Path;

use mediswift_data::Tokenizer;
use mediswift_data::tokenizer::Kind;

const TEXT: &str = "Naïve β-cells don't <|endoftext|> proliferate.\n</s> ab";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match Tokenizer::from_bytes(bytes.to_vec(), Path::new("input.json")) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode(TEXT);
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let text = tokenizer.decode(&ids).expect("ids of the vocabulary");
            assert!(tokenizer.kind() != Kind::ByteBpe || text == TEXT);
        }
        Err(error) => mediswift_fuzz::check(&error),
    }
});
