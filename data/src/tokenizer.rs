//! Texts ↔ token ids: byte-level BPE as GPT-2 has it.
//!
//! Any UTF-8 text can be encoded and comes back unchanged. The file is an ordinary
//! `tokenizer.json`, so other programs read ours and we read theirs; encoding and decoding are
//! the `tokenizers` crate's, training is our own (see the `bpe` module for why).
//!
//! One special token, [`END_OF_TEXT`], separates documents. Only the data pipeline may emit its
//! id: a document in which someone typed those characters gets them encoded as plain text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use crate::{DataError, bpe, write_atomically};

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// File name of a tokenizer within a folder.
pub const FILE_NAME: &str = "tokenizer.json";

/// The smallest vocabulary: 256 bytes and the end token.
pub const MIN_VOCAB_SIZE: usize = 257;

/// Texts are encoded in pieces of at most this many bytes, so that one huge document does not
/// need memory many times its size.
const PIECE: usize = 1 << 20;

/// Texts whose words are counted in parallel before the next ones are read.
const TRAINING_BATCH: usize = 1024;

/// A trained byte-level BPE.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The file's bytes: what is hashed is what is saved.
    bytes: Vec<u8>,
    vocab_size: usize,
    end_of_text: u32,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab_size` tokens from `texts`, joining only pairs that
    /// occur at least `min_frequency` times. The result is a function of the texts alone: neither
    /// their order nor the number of threads matters.
    ///
    /// # Errors
    /// The first error of `texts`; a vocabulary smaller than [`MIN_VOCAB_SIZE`]; no text at all.
    pub fn train(
        texts: impl Iterator<Item = Result<String, DataError>>,
        vocab_size: usize,
        min_frequency: u64,
    ) -> Result<Self, DataError> {
        if vocab_size < MIN_VOCAB_SIZE {
            return Err(DataError::request(
                format!("a vocabulary of {vocab_size} tokens cannot hold all bytes"),
                format!("ask for at least {MIN_VOCAB_SIZE}"),
            ));
        }
        let words = count_words(texts)?;
        if words.is_empty() {
            return Err(DataError::request(
                "there is no text to train a tokenizer on",
                "check that the inputs hold documents",
            ));
        }
        let mut tokens = vec![END_OF_TEXT.to_owned()];
        tokens.extend(alphabet());
        let learned = bpe::learn(tokens, &words, vocab_size, min_frequency);
        let bytes = describe(&learned).to_string().into_bytes();
        Self::from_bytes(bytes, Path::new(FILE_NAME))
    }

    /// Loads a `tokenizer.json`, or the one in a folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not a byte-level BPE that returns every text unchanged,
    /// lacks [`END_OF_TEXT`], or its ids have gaps.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { PathBuf::from(path) };
        let bytes = fs::read(&path).map_err(|e| DataError::io("read", &path, e))?;
        Self::from_bytes(bytes, &path)
    }

    fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self, DataError> {
        let advice = "name a tokenizer.json made by `mediswift tokenizer train`, or a GPT-2 one";
        // Before the crate sees it, which panics on some files that are no JSON or no byte-level
        // BPE, and would quietly lose text with others.
        check_kind(&bytes).map_err(|problem| DataError::file(path, problem, advice))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| DataError::file(path, format!("not a tokenizer ({e})"), advice))?;
        // A limit or padding stored in the file would silently shorten or lengthen documents.
        inner
            .with_truncation(None)
            .map_err(|e| DataError::file(path, format!("not a usable tokenizer ({e})"), advice))?
            .with_padding(None)
            .set_encode_special_tokens(true);
        let Some(end_of_text) = inner.token_to_id(END_OF_TEXT) else {
            let problem = format!("the tokenizer has no token {END_OF_TEXT}");
            return Err(DataError::file(path, problem, advice));
        };
        let vocab = inner.get_vocab(true);
        let mut ids: Vec<u32> = vocab.values().copied().collect();
        ids.sort_unstable();
        if let Some((missing, _)) = (0..).zip(&ids).find(|(expected, id)| expected != *id) {
            let problem = format!("the {} token ids have gaps (no id {missing})", ids.len());
            return Err(DataError::file(path, problem, advice));
        }
        // A byte without a token would vanish from every text.
        if let Some(byte) = alphabet().into_iter().find(|byte| !vocab.contains_key(byte)) {
            let problem = format!("the vocabulary lacks the byte written as {byte:?}");
            return Err(DataError::file(path, problem, advice));
        }
        Ok(Self { inner, bytes, vocab_size: vocab.len(), end_of_text })
    }

    /// Writes `tokenizer.json` to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        write_atomically(path, &self.bytes)
    }

    /// Number of token ids; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of [`END_OF_TEXT`].
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// BLAKE3 of the file: equal hashes encode alike.
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.bytes)
    }

    /// The ids of `text`. [`END_OF_TEXT`] typed in the text is encoded as ordinary characters.
    ///
    /// # Errors
    /// When a tokenizer made elsewhere has no token for some of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::new();
        for piece in pieces(text, PIECE) {
            let encoding = self.inner.encode_fast(piece, false).map_err(|e| {
                DataError::request(
                    format!("the text cannot be encoded ({e})"),
                    "use a byte-level tokenizer",
                )
            })?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    /// [`encode`](Self::encode) for many texts, in parallel, in order.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, DataError> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of `ids`. [`END_OF_TEXT`] appears as itself; bytes that do not form UTF-8, as when
    /// a character is cut between tokens, appear as U+FFFD.
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        if let Some((at, id)) =
            ids.iter().enumerate().find(|(_, id)| **id as usize >= self.vocab_size)
        {
            return Err(DataError::request(
                format!(
                    "token id {id} (position {at}) is not in the vocabulary of {}",
                    self.vocab_size
                ),
                format!("ids go from 0 to {}", self.vocab_size - 1),
            ));
        }
        self.inner.decode(ids, false).map_err(|e| {
            DataError::request(
                format!("the ids cannot be decoded ({e})"),
                "check the tokenizer file",
            )
        })
    }
}

/// The 256 bytes as byte-level tokenizers write them, each as one visible character, sorted.
fn alphabet() -> Vec<String> {
    let mut characters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    characters.sort_unstable();
    characters.into_iter().map(String::from).collect()
}

/// Says what keeps a tokenizer file from being a byte-level BPE, if anything does.
fn check_kind(bytes: &[u8]) -> Result<(), String> {
    let file: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("not a tokenizer ({e})"))?;
    for (part, of, wanted) in [
        (&file["model"], "model", "BPE"),
        (&file["pre_tokenizer"], "pre_tokenizer", "ByteLevel"),
        (&file["decoder"], "decoder", "ByteLevel"),
    ] {
        if part["type"] != wanted {
            return Err(format!(
                "not a byte-level BPE (its {of} is {}, not {wanted})",
                part["type"]
            ));
        }
    }
    if file["pre_tokenizer"]["add_prefix_space"] != false || !file["normalizer"].is_null() {
        return Err("it does not return texts unchanged (it normalizes or adds a blank)".to_owned());
    }
    Ok(())
}

/// How often each word occurs, words in the byte-level alphabet.
fn count_words(
    mut texts: impl Iterator<Item = Result<String, DataError>>,
) -> Result<BTreeMap<String, u64>, DataError> {
    let mut words = BTreeMap::new();
    loop {
        let batch: Vec<String> = texts.by_ref().take(TRAINING_BATCH).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            return Ok(words);
        }
        let counted: Result<Vec<_>, DataError> =
            batch.par_iter().map(|text| words_of(text)).collect();
        for (word, count) in counted?.into_iter().flatten() {
            *words.entry(word).or_default() += count;
        }
    }
}

fn words_of(text: &str) -> Result<BTreeMap<String, u64>, DataError> {
    let byte_level = ByteLevel::new(false, true, true);
    let mut words = BTreeMap::new();
    for piece in pieces(text, PIECE) {
        let mut split = PreTokenizedString::from(piece);
        byte_level.pre_tokenize(&mut split).map_err(|e| {
            DataError::request(
                format!("the text cannot be split into words ({e})"),
                "check its encoding",
            )
        })?;
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if word.len() <= bpe::MAX_WORD {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(words)
}

/// Cuts `text` into pieces of at most `limit` bytes (4 or more: a character) that encode to the same ids as the whole.
///
/// A blank after a non-blank character always begins a new word, so a cut before it changes
/// nothing. Text without any such place is cut at a character: still exact when decoded.
fn pieces(text: &str, limit: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = if rest.len() <= limit { rest.len() } else { cut_before(rest, limit) };
        let (piece, after) = rest.split_at(cut);
        rest = after;
        Some(piece)
    })
}

fn cut_before(text: &str, limit: usize) -> usize {
    let bytes = text.as_bytes();
    (1..limit)
        .rev()
        .find(|&at| bytes[at] == b' ' && bytes[at - 1].is_ascii_alphanumeric())
        .unwrap_or_else(|| text.floor_char_boundary(limit))
}

/// The `tokenizer.json` of a vocabulary, in the layout other programs expect.
fn describe(learned: &bpe::Learned) -> serde_json::Value {
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let vocab: serde_json::Map<String, serde_json::Value> =
        learned.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": 0, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab,
            "merges": learned.merges,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const TEXTS: [&str; 3] = [
        "Cardiomyopathy was associated with reduced ejection fraction in 42 patients.",
        "Patients with cardiomyopathy received the drug; ejection fraction improved.",
        "Naïve β-cells don't proliferate.\nEjection fraction: 42%.",
    ];

    fn train(texts: &[&str]) -> Tokenizer {
        Tokenizer::train(texts.iter().map(|t| Ok((*t).to_owned())), 400, 2).expect("train")
    }

    static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| train(&TEXTS));

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let ids = TRAINED.encode(&text).expect("encode");
            prop_assert_eq!(TRAINED.decode(&ids).expect("decode"), text);
        }

        #[test]
        fn cutting_a_text_into_pieces_changes_no_id(text in "[a-z\\d é\n.,'<|>]{0,200}", limit in 4usize..60) {
            let whole = TRAINED.inner.encode_fast(text.as_str(), false).expect("encode");
            let cut: Vec<&str> = pieces(&text, limit).collect();
            prop_assert_eq!(cut.concat(), text.as_str());
            // Only where a blank was available is the cut promised to be invisible.
            if cut.iter().skip(1).all(|piece| piece.starts_with(' ')) {
                let ids: Vec<u32> = cut.iter().flat_map(|p| TRAINED.encode(p).expect("encode")).collect();
                prop_assert_eq!(ids.as_slice(), whole.get_ids());
            }
        }
    }

    #[test]
    fn odd_texts_come_back() {
        for text in
            ["", "\0", "\u{feff}bom", "e\u{301} é", "a\u{200b}b", "שלום عالم", "\r\n\t  \n", "🩺"]
        {
            assert_eq!(
                TRAINED.decode(&TRAINED.encode(text).expect("encode")).expect("decode"),
                text
            );
        }
        for long in ["a".repeat(3 << 20), " ".repeat(3 << 20)] {
            assert!(
                TRAINED.decode(&TRAINED.encode(&long).expect("encode")).expect("decode") == long
            );
        }
    }

    #[test]
    fn typed_special_tokens_stay_text() {
        let text = format!("before {END_OF_TEXT} after{END_OF_TEXT}");
        let ids = TRAINED.encode(&text).expect("encode");
        assert!(!ids.contains(&TRAINED.end_of_text()));
        assert_eq!(TRAINED.decode(&ids).expect("decode"), text);
        assert_eq!(TRAINED.decode(&[TRAINED.end_of_text()]).expect("decode"), END_OF_TEXT);
    }

    #[test]
    fn training_depends_on_the_texts_alone() {
        let mut reversed = TEXTS;
        reversed.reverse();
        for _ in 0..3 {
            assert_eq!(train(&reversed).bytes, TRAINED.bytes);
        }
        assert!(TRAINED.vocab_size() > MIN_VOCAB_SIZE);
        let encoded = TRAINED.encode("ejection fraction").expect("encode");
        assert!(encoded.len() < "ejection fraction".len(), "merges are used: {encoded:?}");
    }

    #[test]
    fn saved_and_loaded_are_the_same() {
        let folder = tempfile::tempdir().expect("temporary folder");
        TRAINED.save(&folder.path().join(FILE_NAME)).expect("save");
        let loaded = Tokenizer::load(folder.path()).expect("load");
        assert_eq!(loaded.hash(), TRAINED.hash());
        assert_eq!(
            loaded.encode(TEXTS[0]).expect("encode"),
            TRAINED.encode(TEXTS[0]).expect("encode")
        );
    }

    #[test]
    fn impossible_requests_are_errors() {
        assert!(Tokenizer::train(std::iter::once(Ok("text".to_owned())), 256, 1).is_err());
        assert!(Tokenizer::train(std::iter::empty(), 300, 1).is_err());
        let message = TRAINED.decode(&[1, 9999]).expect_err("out of range").to_string();
        assert!(message.contains("9999") && message.contains("position 1"), "{message}");
    }

    #[test]
    fn foreign_files_are_errors() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(FILE_NAME);
        let whole = String::from_utf8(TRAINED.bytes.clone()).expect("UTF-8");
        for bad in [
            String::new(),
            "{}".to_owned(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace(END_OF_TEXT, "<end>"),
            whole.replace("\"merges\":[", "\"merges\":[[\"no\",\"such\"],"),
            whole.replace("\"z\":90", "\"z\":99999"),
            whole.replace("\"~\":", "\"no byte\":"),
            whole.replacen("ByteLevel", "Metaspace", 1),
            whole.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true"),
            whole.replace("\"normalizer\":null", "\"normalizer\":{\"type\":\"Lowercase\"}"),
        ] {
            assert_ne!(bad, whole);
            fs::write(&path, &bad).expect("write");
            let message = Tokenizer::load(&path).err().expect("foreign").to_string();
            assert!(message.contains(FILE_NAME), "{message}");
        }
    }

    #[test]
    fn a_damaged_file_never_panics() {
        let whole = &TRAINED.bytes;
        for at in (0..1000).chain((1000..whole.len()).step_by(29)) {
            for replacement in [b'"', b'}', b'0', 0xFF] {
                let mut damaged = whole.clone();
                damaged[at] = replacement;
                if let Ok(tokenizer) = Tokenizer::from_bytes(damaged, Path::new(FILE_NAME)) {
                    let ids = tokenizer.encode(TEXTS[2]).expect("all bytes have tokens");
                    assert_eq!(tokenizer.decode(&ids).expect("decode"), TEXTS[2]);
                }
            }
        }
    }
}
