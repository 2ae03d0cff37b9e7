//! PubMed citations and JATS articles.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mediswift_fuzz::read("input.xml", bytes));
