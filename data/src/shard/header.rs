//! The first 128 bytes of a shard.

use crate::error::ShardProblem;

const MAGIC: [u8; 8] = *b"MSWTOK1\0";
const VERSION: u32 = 1;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 128;

/// What a shard says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tokens in the shard, end tokens included.
    pub tokens: u64,
    /// Documents in the shard.
    pub documents: u64,
    /// Every token is below this.
    pub vocab_size: u64,
    /// The id that closes every document.
    pub end_of_text: u32,
    /// CRC-32 of tokens, padding and document index.
    pub payload_crc: u32,
    /// BLAKE3 of the tokenizer that made the tokens.
    pub tokenizer_hash: [u8; 32],
}

impl Header {
    pub(crate) fn token_bytes(&self) -> u64 {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// Byte offset of the document index; `None` for counts no file could hold.
    pub(crate) fn index_at(&self) -> Option<u64> {
        let tokens = self.tokens.checked_mul(self.token_bytes())?.checked_next_multiple_of(8)?;
        tokens.checked_add(HEADER_BYTES as u64)
    }

    /// Bytes of the whole file; `None` for counts no file could hold.
    pub(crate) fn file_size(&self) -> Option<u64> {
        self.index_at()?.checked_add(self.documents.checked_mul(8)?)
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.token_bytes() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.vocab_size.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.end_of_text.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.tokenizer_hash);
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, or what is wrong with it and at which byte.
    pub(crate) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, (u64, ShardProblem)> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let magic = std::array::from_fn(|i| bytes[i]);
        if magic != MAGIC {
            return Err((0, ShardProblem::Foreign { begins: magic }));
        }
        if u32_at(8) != VERSION {
            return Err((8, ShardProblem::Version { found: u32_at(8), known: VERSION }));
        }
        let (stored, computed) = (u32_at(124), crc32fast::hash(&bytes[..124]));
        if stored != computed {
            return Err((124, ShardProblem::HeaderSum { stored, computed }));
        }
        let header = Self {
            tokens: u64_at(16),
            documents: u64_at(24),
            vocab_size: u64_at(32),
            end_of_text: u32_at(40),
            payload_crc: u32_at(44),
            tokenizer_hash: std::array::from_fn(|i| bytes[48 + i]),
        };
        if u64::from(u32_at(12)) != header.token_bytes() {
            return Err((12, ShardProblem::TokenBytes { found: u32_at(12) }));
        }
        Ok(header)
    }
}
