//! Token shards. Both sums are made right half of the time, or the fuzzer would never come past them.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use mediswift_data::shard::Shard;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let mut bytes = rest.to_vec();
    if first % 2 == 0 && bytes.len() >= 128 {
        let sum = crc32fast::hash(&bytes[128..]);
        bytes[44..48].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..124]);
        bytes[124..128].copy_from_slice(&sum.to_le_bytes());
    }
    let path = FOLDER.path().join("input.bin");
    fs::write(&path, &bytes).expect("write");
    match Shard::open(&path) {
        Ok(shard) => {
            let header = *shard.header();
            let lengths: u64 = shard.document_lengths().expect("whole").iter().sum();
            assert_eq!(lengths, if header.documents == 0 { 0 } else { header.tokens });
            for document in 0..header.documents {
                let ids = shard.document(document).expect("whole");
                assert!(ids.iter().all(|&id| u64::from(id) < header.vocab_size));
            }
        }
        Err(error) => mediswift_fuzz::check(&error),
    }
});
