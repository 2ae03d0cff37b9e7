//! The rules of ARCHITECTURE.md, checked.

mod calls;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::modules::Crate;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The workspace's own crates that a manifest depends on, for the program or for its tests.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let manifest = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if let Some(rest) = line.strip_prefix("mediswift-") {
            // `[workspace.dependencies]` only says where the crates are.
            if section.ends_with("dependencies") && !section.starts_with("workspace") {
                found.insert(rest.split(['.', ' ', '=']).next().unwrap_or(rest).to_string());
            }
        }
    }
    found
}

#[test]
fn data_flows_one_way() {
    for (folder, allowed) in [
        // Its tests turn its faults on.
        ("files", &["files"][..]),
        ("kernels", &["files"]),
        ("engine", &["kernels"]),
        ("data", &["files"]),
        ("ranks", &[]),
        ("model", &["data", "engine", "files", "kernels", "ranks"]),
        (".", &["data", "engine", "files", "kernels", "model", "ranks"]),
        // Only the library's face.
        ("python", &[]),
    ] {
        let allowed: BTreeSet<String> = allowed.iter().map(ToString::to_string).collect();
        let found = dependencies(folder);
        assert!(found.is_subset(&allowed), "{folder} depends on {found:?}, allowed is {allowed:?}");
    }
    assert!(dependencies(".").contains("model"), "the check must see what is there");
}

/// Rust files below a folder of the repository, by path relative to it.
fn sources(folder: &str, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root().join(folder)).expect("list") {
        let path = entry.expect("entry").path();
        let relative = path.strip_prefix(root()).expect("below the root").to_path_buf();
        if path.is_dir() && !path.ends_with("target") {
            sources(&relative.to_string_lossy(), files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(relative, fs::read_to_string(&path).expect("read"));
        }
    }
}

#[test]
fn no_circle_of_files_inside_a_crate() {
    let mut files = BTreeMap::new();
    for folder in ["cli", "data", "engine", "files", "kernels", "model", "python", "ranks", "src"] {
        sources(folder, &mut files);
    }
    let is_root = |path: &&PathBuf| path.ends_with("src/lib.rs") || path.ends_with("cli/main.rs");
    let roots: Vec<&PathBuf> = files.keys().filter(is_root).collect();
    assert_eq!(roots.len(), 9, "the check must see every crate: {roots:?}");
    let circles = roots.iter().flat_map(|root| Crate::read(root, &files).circles());
    let circles: Vec<String> = circles.map(|uses| uses.join("\n  ")).collect();
    assert!(
        circles.is_empty(),
        "files that use each other in a circle:\n  {}",
        circles.join("\n\n  ")
    );
}

/// Whether a source has the keyword: outside comments, followed by what may follow it.
fn is_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.split("unsafe").skip(1).any(|rest| rest.is_empty() || rest.starts_with([' ', '{']))
    })
}

#[test]
fn unsafe_code_is_in_kernels_alone() {
    let mut files = BTreeMap::new();
    // Not the benchmarks: a baseline may be a crate with an unsafe interface.
    for folder in ["cli", "data", "engine", "files", "kernels", "model", "python", "ranks", "tests"]
    {
        sources(folder, &mut files);
    }
    files.retain(|_, source| is_unsafe(source));
    assert!(files.keys().any(|path| path.starts_with("kernels/src")), "the check must see some");
    files.retain(|path, _| !path.starts_with("kernels/src"));
    assert!(files.is_empty(), "only kernels need it, but here it is: {:?}", files.keys());
}

/// Whether a source is nothing but tests.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| ["tests", "tests.rs", "faults.rs"].iter().any(|name| part == *name))
}

/// What of `names` is called outside `files/`, by file.
fn called_outside_files(names: &calls::Names) -> BTreeMap<PathBuf, Vec<String>> {
    let mut sources_of = BTreeMap::new();
    for folder in ["cli", "data", "engine", "files", "kernels", "model", "python"] {
        sources(folder, &mut sources_of);
    }
    let mut found: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (path, source) in sources_of.into_iter().filter(|(path, _)| !is_test(path)) {
        let tokens = source.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let calls = calls::calls(names, tokens);
        if !calls.is_empty() {
            found.insert(path, calls);
        }
    }
    assert!(found.keys().any(|path| path.starts_with("files/src")), "the check must see some");
    found.retain(|path, _| !path.starts_with("files/src"));
    found
}

#[test]
fn nothing_writes_but_files() {
    let found = called_outside_files(&calls::WRITING);
    assert!(found.is_empty(), "what a crash leaves is decided in files/ alone: {found:#?}");
}

#[test]
fn nothing_opens_but_files() {
    let found = called_outside_files(&calls::READING);
    assert!(found.is_empty(), "pipes in the place of files are known in files/ alone: {found:#?}");
}

#[test]
fn the_readme_has_its_two_commands() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        println!("skipped: there is no README.md yet");
        return;
    };
    for command in ["cargo run --release -- demo", "cargo test --release --workspace"] {
        let there = readme.lines().any(|line| line.starts_with(command));
        assert!(there, "README.md lacks the command: {command}");
    }
}
