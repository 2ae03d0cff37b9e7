//! Texts ↔ token ids, in two kinds.
//!
//! | kind | words | byte-pair encoding of | any text comes back |
//! |---|---|---|---|
//! | byte-bpe | GPT-2's (module `byte_level`) | bytes | exactly |
//! | moses-bpe | Moses' ([`moses`]), as the paper and BioGPT | characters, with end-of-word marks | up to white space, if its characters are known |
//!
//! Both encode a word once and remember it ([`Encoder`]), which is why they are fast. The file is a
//! `tokenizer.json` (module `file`).
//!
//! One special token separates documents: [`END_OF_TEXT`], or `</s>` with moses-bpe. Only the data
//! pipeline may emit its id: a document in which someone typed those characters gets them encoded
//! as plain text.

mod byte_level;
mod file;
mod learn;
mod merge;
pub mod moses;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mediswift_files as files;
use rayon::prelude::*;
use rustc_hash::FxHashMap;

use self::file::{END_OF_WORD, MOSES_SPECIALS};
use self::merge::{Merges, Scratch, UNKNOWN};
use crate::DataError;
use crate::error::{RequestProblem, TokenizerProblem};

/// The token between documents of byte-bpe.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// File name of a tokenizer within a folder.
pub const FILE_NAME: &str = "tokenizer.json";

/// The smallest vocabulary of byte-bpe: 256 bytes and the end token.
pub const MIN_VOCAB_SIZE: usize = 257;

/// Vocabulary of MediSwift and BioGPT (paper, §3.1).
pub const PAPER_VOCAB_SIZE: usize = 42_384;

/// Texts whose words are counted in parallel before the next ones are read.
const TRAINING_BATCH: usize = 1024;

/// Longer words (unbroken sequences, encoded images) teach no merges: their pairs are not language.
const MAX_TRAINING_WORD: usize = 256;

/// Longer words are encoded in parts, so that memory stays bounded.
const MAX_WORD: usize = 1 << 20;

/// Distinct words kept while training; past it, words seen once are forgotten.
const MAX_DISTINCT_WORDS: usize = 4 << 20;

/// How a tokenizer makes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Byte-level BPE as GPT-2 has it.
    ByteBpe,
    /// Moses words, then BPE of their characters, as the paper and BioGPT.
    MosesBpe(moses::Options),
}

impl Kind {
    /// The kind's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteBpe => "byte-bpe",
            Self::MosesBpe(_) => "moses-bpe",
        }
    }

    fn end_token(self) -> &'static str {
        match self {
            Self::ByteBpe => END_OF_TEXT,
            Self::MosesBpe(_) => "</s>",
        }
    }

    /// Calls `word` with every word of `text`.
    fn for_each_word(self, text: &str, mut word: impl FnMut(&str)) {
        match self {
            Self::ByteBpe => byte_level::words(text).for_each(word),
            Self::MosesBpe(options) => {
                let words = moses::tokenize(text, &options);
                words.split(' ').filter(|w| !w.is_empty()).for_each(&mut word);
            }
        }
    }
}

/// What a tokenizer file holds.
pub(crate) struct Parts {
    kind: Kind,
    /// Token strings by id.
    tokens: Vec<String>,
    /// Pairs to join, in order of rank.
    merges: Vec<(String, String)>,
}

/// A trained tokenizer.
pub struct Tokenizer {
    parts: Parts,
    merges: Merges,
    /// Ids of the 256 bytes (byte-bpe).
    bytes: Vec<u32>,
    /// Ids of characters within and at the end of words (moses-bpe).
    inner: FxHashMap<char, u32>,
    last: FxHashMap<char, u32>,
    end_of_text: u32,
    /// What unknown characters become (moses-bpe).
    unknown: u32,
    /// The file's bytes: what is hashed is what is saved.
    file: Vec<u8>,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab_size` tokens from `texts`, joining only pairs that
    /// occur at least `min_frequency` times. The result is a function of the texts alone: neither
    /// their order nor the number of threads matters (unless there are more than four million
    /// distinct words, whose rarest are then forgotten on the way).
    ///
    /// # Errors
    /// The first error of `texts`; a vocabulary too small for its alphabet; no text at all.
    pub fn train(
        kind: Kind,
        texts: impl Iterator<Item = Result<String, DataError>>,
        vocab_size: usize,
        min_frequency: u64,
    ) -> Result<Self, DataError> {
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
        let alphabet = Self::build(Parts { kind, tokens, merges: Vec::new() }, Vec::new())
            .map_err(|problem| DataError::tokenizer(Path::new(FILE_NAME), problem))?;
        let spelt = words.iter().map(|(word, &count)| (alphabet.spell(word), count)).collect();
        let learned = learn::learn(alphabet.parts.tokens, spelt, vocab_size, min_frequency);
        Self::from_parts(
            Parts { kind, tokens: learned.tokens, merges: learned.merges },
            Path::new(FILE_NAME),
        )
    }

    /// Loads a `tokenizer.json`, or the one in a folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not a BPE of one of the two kinds, lacks a token it needs,
    /// or its ids have gaps.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { PathBuf::from(path) };
        let bytes = fs::read(&path).map_err(|e| DataError::io("read", &path, e))?;
        Self::from_bytes(bytes, &path)
    }

    /// Imports GPT-2's or BioGPT's vocabulary: `vocabulary` is an `encoder.json`, `vocab.json` or
    /// `dict.txt`, `merges` a `vocab.bpe`, `merges.txt` or `bpecodes`.
    ///
    /// # Errors
    /// When a file cannot be read or a line of it understood, or the two do not fit together.
    pub fn import(vocabulary: &Path, merges: &Path) -> Result<Self, DataError> {
        Self::from_parts(file::import(vocabulary, merges)?, vocabulary)
    }

    fn from_parts(parts: Parts, path: &Path) -> Result<Self, DataError> {
        let bytes = file::describe(&parts);
        Self::build(parts, bytes).map_err(|problem| DataError::tokenizer(path, problem))
    }

    /// The tokenizer of a `tokenizer.json` in memory; errors call it `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self, DataError> {
        let parts = file::parse(&bytes, path)?;
        Self::build(parts, bytes).map_err(|problem| DataError::tokenizer(path, problem))
    }

    /// Tables for encoding; says what is wrong with the parts.
    fn build(parts: Parts, file: Vec<u8>) -> Result<Self, TokenizerProblem> {
        let mut ids: FxHashMap<&str, u32> = FxHashMap::default();
        for (token, id) in parts.tokens.iter().map(String::as_str).zip(0..) {
            if let Some(first) = ids.insert(token, id) {
                let token = token.to_owned();
                return Err(TokenizerProblem::TokenTwice { token, first, second: id });
            }
        }
        let id_of = |token: &str| {
            let missing = || TokenizerProblem::NoToken { token: token.to_owned() };
            ids.get(token).copied().ok_or_else(missing)
        };
        let end_of_text = id_of(parts.kind.end_token())?;
        let (mut bytes, mut inner, mut last) =
            (Vec::new(), FxHashMap::default(), FxHashMap::default());
        let mut unknown = end_of_text;
        match parts.kind {
            // A byte without a token would vanish from every text.
            Kind::ByteBpe => {
                for character in byte_level::CHARACTERS.iter() {
                    bytes.push(id_of(character.encode_utf8(&mut [0; 4]))?);
                }
                let special = |token: &&String| *token != END_OF_TEXT;
                if let Some(token) =
                    parts.tokens.iter().filter(special).find(|t| byte_level::bytes_of(t).is_none())
                {
                    return Err(TokenizerProblem::NotBytes { token: token.clone() });
                }
            }
            Kind::MosesBpe(_) => {
                for special in MOSES_SPECIALS {
                    id_of(special)?;
                }
                unknown = id_of("<unk>")?;
            }
        }
        // moses-bpe vocabularies may lack tokens that their merges make on the way (fastBPE drops
        // rare ones): such symbols get ids beyond the vocabulary, and are unknown at the end.
        let mut symbols = ids;
        let mut beyond = parts.tokens.len() as u32;
        let mut ranked = Vec::with_capacity(parts.merges.len());
        let joined: Vec<String> = parts.merges.iter().map(|(l, r)| format!("{l}{r}")).collect();
        let is_moses = matches!(parts.kind, Kind::MosesBpe(_));
        for ((left, right), joined) in parts.merges.iter().zip(&joined) {
            let mut symbol = |token| match symbols.get(token) {
                Some(&id) => Ok(id),
                None if is_moses => {
                    symbols.insert(token, beyond);
                    beyond += 1;
                    Ok(beyond - 1)
                }
                None => Err(TokenizerProblem::MergeOfNoToken {
                    left: left.clone(),
                    right: right.clone(),
                    token: token.to_owned(),
                }),
            };
            ranked.push((
                symbol(left.as_str())?,
                symbol(right.as_str())?,
                symbol(joined.as_str())?,
            ));
        }
        if is_moses {
            for (&token, &id) in &symbols {
                let (text, table) = match token.strip_suffix(END_OF_WORD) {
                    Some(text) => (text, &mut last),
                    None => (token, &mut inner),
                };
                let mut characters = text.chars();
                if let (Some(only), None) = (characters.next(), characters.next()) {
                    table.insert(only, id);
                }
            }
        }
        let merges = Merges::new(ranked.into_iter());
        Ok(Self { merges, bytes, inner, last, end_of_text, unknown, file, parts })
    }

    /// Writes `tokenizer.json` to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        Ok(files::write(path, &self.file)?)
    }

    /// Writes into `folder` what Python's `transformers` loads: `tokenizer.json`, `vocab.json`,
    /// `merges.txt` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn export(&self, folder: &Path) -> Result<(), DataError> {
        files::create_folders(folder)?;
        file::export(&self.parts, folder)?;
        self.save(&folder.join(FILE_NAME))
    }

    /// How the tokenizer makes words.
    pub fn kind(&self) -> Kind {
        self.parts.kind
    }

    /// Number of token ids; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.parts.tokens.len()
    }

    /// The id of the token between documents.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The id that stands for what has no token; byte-bpe has none.
    pub fn unknown(&self) -> Option<u32> {
        matches!(self.parts.kind, Kind::MosesBpe(_)).then_some(self.unknown)
    }

    /// BLAKE3 of the file, in hexadecimal: equal hashes encode alike.
    pub fn hash(&self) -> String {
        blake3::Hash::from(self.digest()).to_hex().to_string()
    }

    /// BLAKE3 of the file.
    pub(crate) fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.file).into()
    }

    /// The ids of `text`. Special tokens typed in the text are encoded as ordinary characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        Encoder::new(self).encode(text, &mut ids);
        ids
    }

    /// [`encode`](Self::encode) for many texts, in parallel, in order.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        let encode = |encoder: &mut Encoder<'_>, text: &T| {
            let mut ids = Vec::new();
            encoder.encode(text.as_ref(), &mut ids);
            ids
        };
        texts.par_iter().map_init(|| Encoder::new(self), encode).collect()
    }

    /// The token strings of `ids`, as written in files.
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn tokens(&self, ids: &[u32]) -> Result<Vec<&str>, DataError> {
        let token = |(at, &id): (usize, &u32)| {
            self.parts.tokens.get(id as usize).map(String::as_str).ok_or_else(|| {
                let vocab_size = self.vocab_size();
                RequestProblem::NoSuchToken { id, position: at, vocab_size }.into()
            })
        };
        ids.iter().enumerate().map(token).collect()
    }

    /// Pairs of token strings to join, in order of rank.
    pub fn merges(&self) -> &[(String, String)] {
        &self.parts.merges
    }

    /// What each of `ids` adds to a text, in bytes: a character may be cut between tokens. With
    /// moses-bpe a word's last token ends in a blank, for [`moses::detokenize`] to set.
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<Vec<u8>>, DataError> {
        let piece = |token: &str| match self.parts.kind {
            Kind::ByteBpe => {
                byte_level::bytes_of(token).unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Kind::MosesBpe(_) => token.replace(END_OF_WORD, " ").into_bytes(),
        };
        Ok(self.tokens(ids)?.into_iter().map(piece).collect())
    }

    /// The text of `ids`. The token between documents appears as itself; bytes that do not form
    /// UTF-8, as when a character is cut between tokens, appear as U+FFFD. With moses-bpe, blanks
    /// are set by [`moses::detokenize`].
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        Ok(match self.parts.kind {
            Kind::ByteBpe => String::from_utf8_lossy(&self.pieces(ids)?.concat()).into_owned(),
            Kind::MosesBpe(_) => {
                let tokens = self.tokens(ids)?;
                let documents = tokens.split(|token| *token == "</s>");
                let texts =
                    documents.map(|d| moses::detokenize(&d.concat().replace(END_OF_WORD, " ")));
                texts.collect::<Vec<_>>().join("</s>")
            }
        })
    }

    /// The single symbols of a word, before any merge.
    fn spell(&self, word: &str) -> Vec<u32> {
        let mut symbols = Vec::new();
        self.spell_into(word, &mut symbols);
        symbols
    }

    fn spell_into(&self, word: &str, symbols: &mut Vec<u32>) {
        symbols.clear();
        match self.parts.kind {
            Kind::ByteBpe => symbols.extend(word.bytes().map(|byte| self.bytes[byte as usize])),
            Kind::MosesBpe(_) => {
                let mut characters = word.chars();
                let end = characters.next_back();
                let id =
                    |table: &FxHashMap<char, u32>, c| table.get(&c).copied().unwrap_or(UNKNOWN);
                symbols.extend(characters.map(|c| id(&self.inner, c)));
                symbols.extend(end.map(|c| id(&self.last, c)));
            }
        }
    }
}

/// Encodes many texts, remembering the words it has met. One for each thread.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Word → where its ids lie in `ids`.
    known: FxHashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
    symbols: Vec<u32>,
    scratch: Scratch,
}

impl<'a> Encoder<'a> {
    /// Words remembered; when they are too many, all are forgotten, and the frequent ones are soon
    /// back.
    const CAPACITY: usize = 1 << 16;

    /// Longer words hardly come twice.
    const LONGEST: usize = 64;

    /// An encoder that knows no word yet.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            known: FxHashMap::default(),
            ids: Vec::new(),
            symbols: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Appends the ids of `text` to `out`.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        self.tokenizer.parts.kind.for_each_word(text, |word| self.word(word, out));
    }

    fn word(&mut self, word: &str, out: &mut Vec<u32>) {
        if word.len() > Self::LONGEST {
            let mut rest = word;
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.floor_char_boundary(MAX_WORD));
                self.merge(part);
                out.extend_from_slice(&self.symbols);
                rest = after;
            }
            return;
        }
        if let Some(&(from, to)) = self.known.get(word) {
            out.extend_from_slice(&self.ids[from as usize..to as usize]);
            return;
        }
        self.merge(word);
        out.extend_from_slice(&self.symbols);
        if self.known.len() == Self::CAPACITY {
            self.known.clear();
            self.ids.clear();
        }
        let from = self.ids.len() as u32;
        self.ids.extend_from_slice(&self.symbols);
        self.known.insert(word.into(), (from, self.ids.len() as u32));
    }

    /// Leaves the ids of `word` in `symbols`.
    fn merge(&mut self, word: &str) {
        let Self { tokenizer, symbols, scratch, .. } = self;
        tokenizer.spell_into(word, symbols);
        tokenizer.merges.apply(symbols, scratch);
        if let Some(unknown) = tokenizer.unknown() {
            let size = tokenizer.vocab_size() as u32;
            symbols.iter_mut().filter(|id| **id >= size).for_each(|id| *id = unknown);
        }
    }
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
        Tokenizer::train(Kind::ByteBpe, texts.iter().map(|t| Ok((*t).to_owned())), 400, 2)
            .expect("train")
    }

    static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| train(&TEXTS));

    static MOSES: LazyLock<Tokenizer> = LazyLock::new(|| {
        let texts = TEXTS.iter().map(|t| Ok((*t).to_owned()));
        Tokenizer::train(Kind::MosesBpe(moses::Options::default()), texts, 300, 1).expect("train")
    });

    /// Hugging Face's implementation, of the same file.
    static OTHER: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
        let mut other = tokenizers::Tokenizer::from_bytes(&TRAINED.file).expect("load");
        other.set_encode_special_tokens(true);
        other
    });

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let ids = TRAINED.encode(&text);
            prop_assert_eq!(TRAINED.decode(&ids).expect("decode"), text);
        }

        #[test]
        fn ids_are_those_of_another_implementation(text in prop_oneof![any::<String>(), "[a-z0-9 '\\n.éβ]{0,80}"]) {
            let theirs = OTHER.encode_fast(text.as_str(), false).expect("encode");
            prop_assert_eq!(TRAINED.encode(&text), theirs.get_ids());
        }

        #[test]
        fn moses_words_are_encoded_as_another_implementation_does(text in "[a-zA-Z0-9 '.,&é-]{0,80}") {
            let words = moses::tokenize(&text, &moses::Options::default());
            let other = tokenizers::Tokenizer::from_bytes(&MOSES.file).expect("load");
            let theirs = other.encode_fast(words.as_str(), false).expect("encode");
            prop_assert_eq!(MOSES.encode(&text), theirs.get_ids());
        }
    }

    #[test]
    fn odd_texts_come_back() {
        for text in
            ["", "\0", "\u{feff}bom", "e\u{301} é", "a\u{200b}b", "שלום عالم", "\r\n\t  \n", "🩺"]
        {
            assert_eq!(TRAINED.decode(&TRAINED.encode(text)).expect("decode"), text);
        }
        for long in ["a".repeat(3 << 20), " ".repeat(3 << 20)] {
            assert!(TRAINED.decode(&TRAINED.encode(&long)).expect("decode") == long);
        }
    }

    #[test]
    fn typed_special_tokens_stay_text() {
        let text = format!("before {END_OF_TEXT} after{END_OF_TEXT}");
        let ids = TRAINED.encode(&text);
        assert!(!ids.contains(&TRAINED.end_of_text()));
        assert_eq!(TRAINED.decode(&ids).expect("decode"), text);
        assert_eq!(TRAINED.decode(&[TRAINED.end_of_text()]).expect("decode"), END_OF_TEXT);
    }

    #[test]
    fn training_depends_on_the_texts_alone() {
        let mut reversed = TEXTS;
        reversed.reverse();
        for _ in 0..3 {
            assert_eq!(train(&reversed).file, TRAINED.file);
        }
        assert!(TRAINED.vocab_size() > MIN_VOCAB_SIZE);
        let encoded = TRAINED.encode("ejection fraction");
        assert!(encoded.len() < "ejection fraction".len(), "merges are used: {encoded:?}");
    }

    #[test]
    fn saved_and_loaded_are_the_same() {
        let folder = tempfile::tempdir().expect("temporary folder");
        TRAINED.save(&folder.path().join(FILE_NAME)).expect("save");
        let loaded = Tokenizer::load(folder.path()).expect("load");
        assert_eq!(loaded.hash(), TRAINED.hash());
        assert_eq!(loaded.encode(TEXTS[0]), TRAINED.encode(TEXTS[0]));
    }

    #[test]
    fn impossible_requests_are_errors() {
        assert!(
            Tokenizer::train(Kind::ByteBpe, std::iter::once(Ok("text".to_owned())), 256, 1)
                .is_err()
        );
        assert!(Tokenizer::train(Kind::ByteBpe, std::iter::empty(), 300, 1).is_err());
        let message = TRAINED.decode(&[1, 9999]).expect_err("out of range").to_string();
        assert!(message.contains("9999") && message.contains("position 1"), "{message}");
    }

    #[test]
    fn foreign_files_are_errors() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(FILE_NAME);
        let whole = String::from_utf8(TRAINED.file.clone()).expect("UTF-8");
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
        let whole = &TRAINED.file;
        for at in (0..1000).chain((1000..whole.len()).step_by(29)) {
            for replacement in [b'"', b'}', b'0', 0xFF] {
                let mut damaged = whole.clone();
                damaged[at] = replacement;
                if let Ok(tokenizer) = Tokenizer::from_bytes(damaged, Path::new(FILE_NAME)) {
                    let ids = tokenizer.encode(TEXTS[2]);
                    assert_eq!(tokenizer.decode(&ids).expect("decode"), TEXTS[2]);
                }
            }
        }
    }
}
