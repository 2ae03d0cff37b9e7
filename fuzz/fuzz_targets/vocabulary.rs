//! Vocabularies and merges made elsewhere: two files, with a NUL between them.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use mediswift_data::Tokenizer;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let paths = ["input-vocabulary", "input-merges"].map(|name| FOLDER.path().join(name));
    for path in &paths {
        fs::write(path, parts.next().unwrap_or_default()).expect("write");
    }
    match Tokenizer::import(&paths[0], &paths[1]) {
        Ok(imported) => {
            // What is imported can be saved and loaded.
            let path = FOLDER.path().join("saved.json");
            imported.save(&path).expect("save");
            let loaded = Tokenizer::load(&path).expect("our own file");
            let text = "ab <unk> naïve, don't";
            assert_eq!(imported.encode(text), loaded.encode(text));
        }
        Err(error) => mediswift_fuzz::check(&error),
    }
});
