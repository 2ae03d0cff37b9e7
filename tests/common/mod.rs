//! Calls of the program, and what must hold of them.
#![allow(dead_code, reason = "no test needs all of them")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program, to run in `folder` on the default instruction set.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediswift"));
    command.current_dir(folder).env_remove("MEDISWIFT_ISA").stdin(Stdio::null());
    command
}

/// Splits at blanks: no argument in these tests contains one.
pub fn run(folder: &Path, command_line: &str) -> Output {
    program(folder).args(command_line.split_whitespace()).output().expect("the program starts")
}

/// The JSON object of a successful call.
#[track_caller]
pub fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Checks that a call failed as calls should, and returns its one line.
#[track_caller]
pub fn failure(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout: {}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Every file under a folder with its bytes.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).expect("read"));
        }
    }
    files
}

/// PQA-L's shape: 80 questions, three in ten of them `no` and one `maybe`.
pub fn questions() -> Value {
    let item = |i: usize| {
        let answer = ["yes", "yes", "no", "yes", "maybe", "no", "yes", "no", "yes", "yes"][i % 10];
        let item = serde_json::json!({
            "QUESTION": format!("Is it {answer}?"),
            "CONTEXTS": [format!("Number {i}."), "It is."],
            "LONG_ANSWER": "It is.",
            "final_decision": answer,
        });
        ((1000 + i).to_string(), item)
    };
    Value::Object((0..80).map(item).collect())
}
