//! A corpus of three records, of which the second is whatever comes: the others are read all the same.
//! The first byte chooses the format.
#![no_main]

use std::path::Path;

use mediswift_data::source::{Event, read_bytes};

/// What stands around the second record, and what must not be in it: it would end another one.
const FORMATS: [(&str, [&str; 2], &[&str]); 4] = [
    ("input.jsonl", ["{\"text\": \"first\"}\n", "\n{\"text\": \"third\"}\n"], &[]),
    ("input.txt", ["first\n\n", "\n\nthird\n"], &[]),
    (
        "input.xml",
        [
            "<s><article><body><p>first</p></body></article>",
            "<article><body><p>third</p></body></article></s>",
        ],
        &["<!--", "<![CDATA[", "article"],
    ),
    (
        "input.xml",
        [
            "<article><body><p>first</p></body></article><article><body><p>",
            "</p></body></article><article><body><p>third</p></body></article>",
        ],
        &["article"],
    ),
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, middle)) = bytes.split_first() else { return };
    let (name, [before, after], excluded) = FORMATS[usize::from(first) % FORMATS.len()];
    let is_in = |part: &&str| middle.windows(part.len()).any(|window| window == part.as_bytes());
    if excluded.iter().any(|part| is_in(part)) {
        return;
    }
    let bytes = [before.as_bytes(), middle, after.as_bytes()].concat();
    let mut texts = Vec::new();
    let read = read_bytes(Path::new(name), &bytes, &mut |event| {
        if let Event::Record(record) = event {
            texts.extend(record.paragraphs.iter().map(|text| text.trim().to_owned()));
        }
        Ok(())
    });
    for text in ["first", "third"] {
        assert!(texts.iter().any(|found| found == text), "{text} of {texts:?}, {read:?}");
    }
});
