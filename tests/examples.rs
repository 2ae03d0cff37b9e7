//! Every example runs, and needs no crate but this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of the examples with their sources.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(folder).expect("list").map(|entry| entry.expect("entry").path());
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.map(|path| (name(&path), fs::read_to_string(&path).expect("read"))).collect()
}

#[test]
fn every_example_runs() {
    let program = Path::new(env!("CARGO_BIN_EXE_mediswift"));
    for (name, _) in examples() {
        // `cargo test` builds them beside the program.
        let path = program.with_file_name("examples").join(&name);
        let done = Command::new(&path).output();
        let done =
            done.unwrap_or_else(|e| panic!("{}: {e}: cargo build --examples", path.display()));
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && !done.stdout.is_empty(), "{name}: {errors}");
    }
}

#[test]
fn examples_need_this_crate_alone() {
    let examples = examples();
    assert!(examples.len() >= 5);
    for (name, source) in examples {
        assert!(
            source.contains(&format!("--example {name}`")),
            "{name} does not say how to run it"
        );
        for line in source.lines().filter(|line| line.starts_with("use ")) {
            let known = ["use mediswift::", "use std::"];
            assert!(known.iter().any(|known| line.starts_with(known)), "{name}: {line}");
        }
    }
}
