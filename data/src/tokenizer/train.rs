//! Learning a vocabulary from texts.

use std::collections::BTreeMap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::byte_level;
use super::kind::{END_OF_TEXT, END_OF_WORD, Kind, MOSES_SPECIALS};
use super::learn::learn;
use super::tables::Tables;
use super::vocabulary::Vocabulary;
use crate::DataError;
use crate::error::RequestProblem;

/// Texts whose words are counted in parallel before the next ones are read.
const TRAINING_BATCH: usize = 1024;

/// Longer words (unbroken sequences, encoded images) teach no merges: their pairs are not language.
const MAX_TRAINING_WORD: usize = 256;

/// Distinct words kept while training; past it, words seen once are forgotten.
const MAX_DISTINCT_WORDS: usize = 4 << 20;

/// Learns a vocabulary of at most `vocab_size` tokens; see `Tokenizer::train`.
pub(crate) fn train(
    kind: Kind,
    texts: impl Iterator<Item = Result<String, DataError>>,
    vocab_size: usize,
    min_frequency: u64,
) -> Result<Vocabulary, DataError> {
    let words = count_words(kind, texts)?;
    if words.is_empty() {
        return Err(RequestProblem::NoText.into());
    }
    let tokens = match kind {
        Kind::ByteBpe => byte_alphabet(),
        Kind::MosesBpe(_) => character_alphabet(&words, vocab_size, min_frequency),
    };
    if vocab_size < tokens.len() {
        let (asked, least) = (vocab_size, tokens.len());
        return Err(RequestProblem::SmallVocabulary { asked, least }.into());
    }
    let alphabet = Vocabulary { kind, tokens, merges: Vec::new() };
    let tables = Tables::new(&alphabet).expect("an alphabet has every symbol once");
    let spelt = words.iter().map(|(word, &count)| (tables.spell(word), count)).collect();
    let learned = learn(alphabet.tokens, spelt, vocab_size, min_frequency);
    Ok(Vocabulary { kind, tokens: learned.tokens, merges: learned.merges })
}

/// How often each word occurs.
fn count_words(
    kind: Kind,
    mut texts: impl Iterator<Item = Result<String, DataError>>,
) -> Result<BTreeMap<Box<str>, u64>, DataError> {
    let mut words: FxHashMap<Box<str>, u64> = FxHashMap::default();
    loop {
        let batch: Vec<String> = texts.by_ref().take(TRAINING_BATCH).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            return Ok(words.into_iter().collect());
        }
        let counted: Vec<FxHashMap<Box<str>, u64>> = batch
            .par_chunks(64)
            .map(|texts| {
                let mut words = FxHashMap::default();
                for text in texts {
                    kind.for_each_word(text, |word| {
                        if word.len() > MAX_TRAINING_WORD {
                        } else if let Some(count) = words.get_mut(word) {
                            *count += 1;
                        } else {
                            words.insert(word.into(), 1);
                        }
                    });
                }
                words
            })
            .collect();
        for (word, count) in counted.into_iter().flatten() {
            *words.entry(word).or_default() += count;
        }
        let mut rare = 1;
        while words.len() > MAX_DISTINCT_WORDS {
            words.retain(|_, count| *count > rare);
            rare += 1;
        }
    }
}

/// The end token and the 256 bytes, sorted as written.
fn byte_alphabet() -> Vec<String> {
    let mut characters = *byte_level::CHARACTERS;
    characters.sort_unstable();
    [END_OF_TEXT.to_owned()].into_iter().chain(characters.map(String::from)).collect()
}

/// The reserved tokens, and the characters that occur often enough, the most frequent first, within
/// words and at their end; at most half of the vocabulary.
fn character_alphabet(
    words: &BTreeMap<Box<str>, u64>,
    vocab_size: usize,
    min_frequency: u64,
) -> Vec<String> {
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in words {
        word.chars().for_each(|character| *counts.entry(character).or_default() += count);
    }
    let mut characters: Vec<(char, u64)> =
        counts.into_iter().filter(|(_, count)| *count >= min_frequency).collect();
    characters.sort_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
    characters.truncate((vocab_size / 4).max(128));
    let mut tokens: Vec<String> = MOSES_SPECIALS.map(str::to_owned).to_vec();
    tokens.extend(characters.iter().map(|(c, _)| c.to_string()));
    tokens.extend(characters.iter().map(|(c, _)| format!("{c}{END_OF_WORD}")));
    tokens
}
