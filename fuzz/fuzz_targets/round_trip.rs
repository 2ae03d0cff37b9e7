//! Texts → ids → texts, with both kinds of tokenizer.
#![no_main]

use std::sync::LazyLock;

use mediswift_data::Tokenizer;
use mediswift_data::tokenizer::{Kind, moses};

const CORPUS: [&str; 3] = [
    "! # $ % & ' ( ) * + , - . / 0123456789 : ; < = > ? @ [ \\ ] ^ _ ` { | } ~ \"
     abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "Naïve β-cells of the patients' pancreas don't proliferate; p < 0.05 (n = 42).",
    "The patients received aspirin, 5.3 mg daily, and the naïve cells of the control group did not.",
];

fn train(kind: Kind, size: usize) -> Tokenizer {
    let texts = CORPUS.iter().map(|text| Ok((*text).to_owned()));
    Tokenizer::train(kind, texts, size, 1).expect("train")
}

static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| train(Kind::ByteBpe, 300));
static MOSES: LazyLock<Tokenizer> =
    LazyLock::new(|| train(Kind::MosesBpe(moses::Options::default()), 300));

libfuzzer_sys::fuzz_target!(|text: &str| {
    let ids = BYTES.encode(text);
    assert_eq!(BYTES.decode(&ids).expect("own ids"), text);
    let ids = MOSES.encode(text);
    let text = MOSES.decode(&ids).expect("own ids");
    // What came through once has known characters only, and comes through again.
    let again = MOSES.decode(&MOSES.encode(&text)).expect("own ids");
    assert_eq!(without_blanks(&again), without_blanks(&text));
    for normalise in [false, true] {
        let options = moses::Options { normalise, ..moses::Options::default() };
        let words = moses::tokenize(&text, &options);
        assert!(!words.contains("  ") && words.trim() == words, "{words:?}");
        moses::detokenize(&words);
    }
});

fn without_blanks(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}
