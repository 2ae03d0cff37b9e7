//! A tokenizer: made, kept in a file, and put to use.

use std::path::{Path, PathBuf};

use mediswift_files::{self as files, LARGE};
use rayon::prelude::*;

use super::encoder::Encoder;
use super::kind::{END_OF_SENTENCE, END_OF_WORD, Kind};
use super::tables::Tables;
use super::train::train;
use super::vocabulary::Vocabulary;
use super::{byte_level, file, foreign, moses};
use crate::DataError;
use crate::error::RequestProblem;

/// File name of a tokenizer within a folder.
pub const FILE_NAME: &str = "tokenizer.json";

/// A trained tokenizer.
///
/// ```
/// use mediswift_data::Tokenizer;
/// use mediswift_data::tokenizer::Kind;
///
/// let texts = ["Aspirin inhibits platelets.", "Platelets are inhibited by aspirin."];
/// let texts = texts.into_iter().map(|text| Ok(text.to_owned()));
/// let tokenizer = Tokenizer::train(Kind::ByteBpe, texts, 300, 2)?;
/// let ids = tokenizer.encode("aspirin");
/// assert!(ids.len() < 7, "some letters were joined");
/// assert_eq!(tokenizer.decode(&ids)?, "aspirin");
/// # Ok::<(), mediswift_data::DataError>(())
/// ```
pub struct Tokenizer {
    vocabulary: Vocabulary,
    tables: Tables,
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
    /// The first error of `texts`; a vocabulary too small for its alphabet (with byte-bpe, below 257);
    /// no text at all.
    pub fn train(
        kind: Kind,
        texts: impl Iterator<Item = Result<String, DataError>>,
        vocab_size: usize,
        min_frequency: u64,
    ) -> Result<Self, DataError> {
        Self::describe(train(kind, texts, vocab_size, min_frequency)?, Path::new(FILE_NAME))
    }

    /// Loads a `tokenizer.json`, or the one in a folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not a BPE of one of the two kinds, lacks a token it needs,
    /// or its ids have gaps.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { PathBuf::from(path) };
        let text = files::read_text(&path, LARGE)?;
        Self::from_bytes(text.into_bytes(), &path)
    }

    /// Imports GPT-2's or BioGPT's vocabulary: `vocabulary` is an `encoder.json`, `vocab.json` or
    /// `dict.txt`, `merges` a `vocab.bpe`, `merges.txt` or `bpecodes`.
    ///
    /// # Errors
    /// When a file cannot be read or a line of it understood, or the two do not fit together.
    pub fn import(vocabulary: &Path, merges: &Path) -> Result<Self, DataError> {
        Self::describe(foreign::import(vocabulary, merges)?, vocabulary)
    }

    /// The tokenizer of a vocabulary; errors call it `path`.
    fn describe(vocabulary: Vocabulary, path: &Path) -> Result<Self, DataError> {
        let file = file::describe(&vocabulary);
        Self::build(vocabulary, file, path)
    }

    /// The tokenizer of a `tokenizer.json` in memory; errors call it `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self, DataError> {
        Self::build(file::parse(&bytes, path)?, bytes, path)
    }

    fn build(vocabulary: Vocabulary, file: Vec<u8>, path: &Path) -> Result<Self, DataError> {
        let tables = Tables::new(&vocabulary);
        let tables = tables.map_err(|problem| DataError::tokenizer(path, problem))?;
        Ok(Self { vocabulary, tables, file })
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
        foreign::export(&self.vocabulary, folder)?;
        self.save(&folder.join(FILE_NAME))
    }

    /// How the tokenizer makes words.
    pub fn kind(&self) -> Kind {
        self.vocabulary.kind
    }

    /// Number of token ids; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// The id of the token between documents.
    pub fn end_of_text(&self) -> u32 {
        self.tables.end_of_text
    }

    /// The id that stands for what has no token; byte-bpe has none.
    pub fn unknown(&self) -> Option<u32> {
        matches!(self.vocabulary.kind, Kind::MosesBpe(_)).then_some(self.tables.unknown)
    }

    /// BLAKE3 of the file, in hexadecimal: equal hashes encode alike.
    pub fn hash(&self) -> String {
        blake3::Hash::from(self.digest()).to_hex().to_string()
    }

    /// BLAKE3 of the file.
    pub(crate) fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.file).into()
    }

    /// An encoder that knows no word yet, for many texts on one thread.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.tables)
    }

    /// The ids of `text`. Special tokens typed in the text are encoded as ordinary characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encoder().encode(text, &mut ids);
        ids
    }

    /// [`encode`](Self::encode) for many texts, in parallel, in order.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        let encode = |encoder: &mut Encoder<'_>, text: &T| {
            let mut ids = Vec::new();
            encoder.encode(text.as_ref(), &mut ids);
            ids
        };
        texts.par_iter().map_init(|| self.encoder(), encode).collect()
    }

    /// The token strings of `ids`, as written in files.
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn tokens(&self, ids: &[u32]) -> Result<Vec<&str>, DataError> {
        let token = |(at, &id): (usize, &u32)| {
            self.vocabulary.tokens.get(id as usize).map(String::as_str).ok_or_else(|| {
                let vocab_size = self.vocab_size();
                RequestProblem::NoSuchToken { id, position: at, vocab_size }.into()
            })
        };
        ids.iter().enumerate().map(token).collect()
    }

    /// Pairs of token strings to join, in order of rank.
    pub fn merges(&self) -> &[(String, String)] {
        &self.vocabulary.merges
    }

    /// What each of `ids` adds to a text, in bytes: a character may be cut between tokens. With
    /// moses-bpe a word's last token ends in a blank, for [`moses::detokenize`] to set.
    ///
    /// # Errors
    /// When an id is not below [`vocab_size`](Self::vocab_size).
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<Vec<u8>>, DataError> {
        let piece = |token: &str| match self.vocabulary.kind {
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
        Ok(match self.vocabulary.kind {
            Kind::ByteBpe => String::from_utf8_lossy(&self.pieces(ids)?.concat()).into_owned(),
            Kind::MosesBpe(_) => {
                let tokens = self.tokens(ids)?;
                let documents = tokens.split(|token| *token == END_OF_SENTENCE);
                let texts =
                    documents.map(|d| moses::detokenize(&d.concat().replace(END_OF_WORD, " ")));
                texts.collect::<Vec<_>>().join(END_OF_SENTENCE)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::END_OF_TEXT;
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
        assert!(TRAINED.vocab_size() > 257, "256 bytes and the end token are no merges");
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
            std::fs::write(&path, &bad).expect("write");
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
