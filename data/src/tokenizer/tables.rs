//! A vocabulary made ready for encoding.

use rustc_hash::FxHashMap;

use super::byte_level;
use super::kind::{END_OF_TEXT, END_OF_WORD, Kind, MOSES_SPECIALS, UNKNOWN_TOKEN};
use super::merge::{Merges, Scratch, UNKNOWN};
use super::vocabulary::Vocabulary;
use crate::error::TokenizerProblem;

/// Symbols and merges by number.
pub(crate) struct Tables {
    pub kind: Kind,
    /// Tokens in the vocabulary; symbols from here on are made on the way only.
    size: u32,
    merges: Merges,
    /// Ids of the 256 bytes (byte-bpe).
    bytes: Vec<u32>,
    /// Ids of characters within and at the end of words (moses-bpe).
    inner: FxHashMap<char, u32>,
    last: FxHashMap<char, u32>,
    pub end_of_text: u32,
    /// What unknown characters become (moses-bpe).
    pub unknown: u32,
}

impl Tables {
    /// The tables of a vocabulary, or what is wrong with it.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizerProblem> {
        let Vocabulary { kind, tokens, merges } = vocabulary;
        let mut ids: FxHashMap<&str, u32> = FxHashMap::default();
        for (token, id) in tokens.iter().map(String::as_str).zip(0..) {
            if let Some(first) = ids.insert(token, id) {
                let token = token.to_owned();
                return Err(TokenizerProblem::TokenTwice { token, first, second: id });
            }
        }
        let id_of = |token: &str| {
            let missing = || TokenizerProblem::NoToken { token: token.to_owned() };
            ids.get(token).copied().ok_or_else(missing)
        };
        let end_of_text = id_of(kind.end_token())?;
        let (mut bytes, mut inner, mut last) =
            (Vec::new(), FxHashMap::default(), FxHashMap::default());
        let mut unknown = end_of_text;
        match kind {
            // A byte without a token would vanish from every text.
            Kind::ByteBpe => {
                for character in byte_level::CHARACTERS.iter() {
                    bytes.push(id_of(character.encode_utf8(&mut [0; 4]))?);
                }
                let special = |token: &&String| *token != END_OF_TEXT;
                if let Some(token) =
                    tokens.iter().filter(special).find(|t| byte_level::bytes_of(t).is_none())
                {
                    return Err(TokenizerProblem::NotBytes { token: token.clone() });
                }
            }
            Kind::MosesBpe(_) => {
                for special in MOSES_SPECIALS {
                    id_of(special)?;
                }
                unknown = id_of(UNKNOWN_TOKEN)?;
            }
        }
        // moses-bpe vocabularies may lack tokens that their merges make on the way (fastBPE drops
        // rare ones): such symbols get ids beyond the vocabulary, and are unknown at the end.
        let mut symbols = ids;
        let mut beyond = tokens.len() as u32;
        let mut ranked = Vec::with_capacity(merges.len());
        let joined: Vec<String> = merges.iter().map(|(l, r)| format!("{l}{r}")).collect();
        let is_moses = matches!(kind, Kind::MosesBpe(_));
        for ((left, right), joined) in merges.iter().zip(&joined) {
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
        Ok(Self {
            kind: *kind,
            size: tokens.len() as u32,
            merges: Merges::new(ranked.into_iter()),
            bytes,
            inner,
            last,
            end_of_text,
            unknown,
        })
    }

    /// The single symbols of a word, before any merge.
    pub fn spell(&self, word: &str) -> Vec<u32> {
        let mut symbols = Vec::new();
        self.spell_into(word, &mut symbols);
        symbols
    }

    fn spell_into(&self, word: &str, symbols: &mut Vec<u32>) {
        symbols.clear();
        match self.kind {
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

    /// Leaves the ids of `word` in `symbols`.
    pub fn encode(&self, word: &str, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        self.spell_into(word, symbols);
        self.merges.apply(symbols, scratch);
        if matches!(self.kind, Kind::MosesBpe(_)) {
            let unknown = |id: &&mut u32| **id >= self.size;
            symbols.iter_mut().filter(unknown).for_each(|id| *id = self.unknown);
        }
    }
}
