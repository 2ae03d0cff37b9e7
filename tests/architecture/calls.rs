//! Calls that open or write files, found in the source.

use proc_macro2::{TokenStream, TokenTree};

use super::modules::{is_for_tests, item_length};

/// Names of the standard library that do something.
pub struct Names {
    /// Such that do it wherever they stand.
    words: &'static [&'static str],
    /// Such that do it where they follow a module or a type, or are imported from it.
    members: &'static [(&'static str, &'static [&'static str])],
}

/// What writes.
pub const WRITING: Names = Names {
    words: &[
        "OpenOptions",
        "DirBuilder",
        "create_dir",
        "create_dir_all",
        "create_new",
        "hard_link",
        "remove_dir",
        "remove_dir_all",
        "remove_file",
        "set_len",
        "set_permissions",
        "sync_all",
        "sync_data",
    ],
    members: &[
        ("fs", &["write", "rename", "copy"]),
        ("File", &["create", "create_buffered", "options"]),
    ],
};

/// What opens a file to read it.
pub const READING: Names = Names {
    words: &[],
    members: &[("fs", &["read", "read_to_string"]), ("File", &["open", "open_buffered"])],
};

/// Which of the names a source calls, but for its tests.
pub fn calls(names: &Names, source: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    scan(names, source, &mut found);
    found
}

fn scan(names: &Names, tokens: TokenStream, found: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_for_tests(&tokens[at..]) {
            at += item_length(&tokens[at..]);
            continue;
        }
        match &tokens[at] {
            TokenTree::Group(group) => scan(names, group.stream(), found),
            TokenTree::Ident(word) => {
                let word = word.to_string();
                for (owner, members) in names.members {
                    if word == *owner && tokens[at + 1..].iter().take(2).all(is_colon) {
                        let member = tokens.get(at + 3).map(words).unwrap_or_default();
                        found.extend(
                            member
                                .into_iter()
                                .filter(|word| members.contains(&word.as_str()))
                                .map(|word| format!("{owner}::{word}")),
                        );
                    }
                }
                if names.words.contains(&word.as_str()) {
                    found.push(word);
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        at += 1;
    }
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':')
}

/// A word, or those in the braces of an import.
fn words(token: &TokenTree) -> Vec<String> {
    match token {
        TokenTree::Ident(word) => vec![word.to_string()],
        TokenTree::Group(group) => group.stream().into_iter().flat_map(|t| words(&t)).collect(),
        TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
    }
}

#[test]
fn calls_are_found_but_in_tests_and_texts() {
    let found = |source: &str| calls(&WRITING, source.parse().expect("Rust"));
    for (source, call) in [
        ("fn a() { std::fs::write(path, text)?; }", "fs::write"),
        ("use std::fs::{self, read, rename};", "fs::rename"),
        ("fn a() { vec![fs::remove_file(path)] }", "remove_file"),
        ("fn a() { let file = File::create(path); }", "File::create"),
        ("fn a() { File::options().append(true) }", "File::options"),
    ] {
        assert_eq!(found(source), [call], "{source}");
    }
    for source in [
        "fn a() { files::write(path, text); File::open(path); fs::read(path); }",
        "#[cfg(test)] mod tests { fn a() { fs::write(path, text) } }",
        "/// fs::write\nfn write() { say(\"fs::write\"); file.write(bytes) }",
    ] {
        assert!(found(source).is_empty(), "{source}");
    }
    let source = "use std::fs::{self, File}; fn a() { File::open(path); fs::read(path); fs::write(path, a) }";
    assert_eq!(calls(&READING, source.parse().expect("Rust")), ["File::open", "fs::read"]);
}
