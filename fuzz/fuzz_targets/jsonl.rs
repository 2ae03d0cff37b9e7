//! One JSON object a line.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mediswift_fuzz::read("input.jsonl", bytes));
