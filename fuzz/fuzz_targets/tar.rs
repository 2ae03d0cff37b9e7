//! Archives. Sums of headers are made right, or the fuzzer would never come past them.
#![no_main]

const BLOCK: usize = 512;

/// Where the sum of a header lies.
const SUM: std::ops::Range<usize> = 148..156;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[SUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    mediswift_fuzz::read("input.tar", &bytes);
});
