//! A folder with a prepared dataset, from which most tests begin.

use tempfile::TempDir;

use crate::common::{json, run};

/// A folder with so many synthetic documents in `corpus.jsonl`, and `dataset/` prepared from them.
pub fn prepared(documents: usize, options: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    json(&run(
        at,
        &format!("--json data synth --documents {documents} --seed 4 --out corpus.jsonl"),
    ));
    json(&run(at, &format!("--json data prepare corpus.jsonl --out dataset {options}")));
    folder
}
