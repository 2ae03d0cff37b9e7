//! A small trained model, and calls on it.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{json, program, run};
use crate::prepared::prepared;

/// A folder with `corpus.jsonl`, `dataset/` with a vocabulary of 500, and a trained `run/` with 64
/// positions.
pub fn trained() -> TempDir {
    let folder = prepared(150, "--vocab-size 500 --validation 0.1");
    let at = folder.path();
    let pretrain = "--json pretrain --preset micro --data dataset --sparsity 0.75 --out run \
                    --set train.steps=40 --set train.batch=4 --set train.lr=5e-3 \
                    --set eval.sequences=0";
    json(&run(at, pretrain));
    folder
}

/// The JSON object of a call whose arguments may hold blanks.
#[track_caller]
pub fn call(at: &Path, arguments: &[&str]) -> Value {
    json(&program(at).arg("--json").args(arguments).output().expect("the program starts"))
}

#[track_caller]
pub fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array()
        .unwrap_or_else(|| panic!("{list} is no list"))
        .iter()
        .map(Value::as_f64)
        .collect()
}
