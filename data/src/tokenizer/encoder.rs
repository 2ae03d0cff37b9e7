//! Encoding many texts.

use rustc_hash::FxHashMap;

use super::merge::Scratch;
use super::tables::Tables;

/// Encodes many texts, remembering the words it has met. One for each thread.
pub struct Encoder<'a> {
    tables: &'a Tables,
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

    /// Longer words are encoded in parts, so that memory stays bounded.
    const MAX_WORD: usize = 1 << 20;

    /// Longer words hardly come twice.
    const LONGEST: usize = 64;

    /// An encoder that knows no word yet.
    pub(crate) fn new(tables: &'a Tables) -> Self {
        Self {
            tables,
            known: FxHashMap::default(),
            ids: Vec::new(),
            symbols: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Appends the ids of `text` to `out`.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        self.tables.kind.for_each_word(text, |word| self.word(word, out));
    }

    fn word(&mut self, word: &str, out: &mut Vec<u32>) {
        if word.len() > Self::LONGEST {
            let mut rest = word;
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.floor_char_boundary(Self::MAX_WORD));
                self.tables.encode(part, &mut self.symbols, &mut self.scratch);
                out.extend_from_slice(&self.symbols);
                rest = after;
            }
            return;
        }
        if let Some(&(from, to)) = self.known.get(word) {
            out.extend_from_slice(&self.ids[from as usize..to as usize]);
            return;
        }
        self.tables.encode(word, &mut self.symbols, &mut self.scratch);
        out.extend_from_slice(&self.symbols);
        if self.known.len() == Self::CAPACITY {
            self.known.clear();
            self.ids.clear();
        }
        let from = self.ids.len() as u32;
        self.ids.extend_from_slice(&self.symbols);
        self.known.insert(word.into(), (from, self.ids.len() as u32));
    }
}
