//! Plain text, also behind the two decompressors: the first byte chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let name = ["input.txt", "input.txt.gz", "input.txt.zst"][usize::from(first) % 3];
    mediswift_fuzz::read(name, rest);
});
