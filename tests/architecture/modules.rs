//! Which file of a crate uses which other, read from the source.
//!
//! A file uses another where it names something that is *defined* there: in a `use`, or in a path
//! within the code. Re-exports are followed to where the name comes from, so a parent that declares and
//! re-exports its children does not use them, and a child that takes a sibling's item by way of the
//! parent uses the sibling. Code for tests does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The path of a module from the crate's root, which is empty.
type Module = Vec<String>;

/// The uses of one crate.
#[derive(Default)]
pub struct Crate {
    /// The file that each module is written in; a module in braces lies in its parent's.
    files: BTreeMap<Module, PathBuf>,
    scopes: BTreeMap<Module, Scope>,
}

/// What stands in one module.
#[derive(Default)]
struct Scope {
    imports: BTreeMap<String, Import>,
    /// Modules that all names are imported from.
    globs: Vec<Vec<String>>,
    /// Paths in the code.
    paths: Vec<Vec<String>>,
    /// Identifiers in the code, outside imports.
    words: BTreeSet<String>,
}

struct Import {
    path: Vec<String>,
    /// Visible elsewhere: a mere re-export, if the module does not need the name itself.
    public: bool,
}

impl Crate {
    /// Reads a crate from its root file and the sources there are, by path.
    pub fn read(root: &Path, sources: &BTreeMap<PathBuf, String>) -> Self {
        let mut read = Self::default();
        let folder = root.parent().expect("a file lies in a folder");
        read.file(Vec::new(), root, folder, sources);
        read
    }

    /// `folder` is where the children of the module lie.
    fn file(
        &mut self,
        module: Module,
        path: &Path,
        folder: &Path,
        sources: &BTreeMap<PathBuf, String>,
    ) {
        let source = sources.get(path).unwrap_or_else(|| panic!("{}: not read", path.display()));
        let tokens = source.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.files.insert(module.clone(), path.to_path_buf());
        let mut children = Vec::new();
        self.scope(&module, tokens, &mut children);
        for name in children {
            let (flat, nested) =
                (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
            let path = if sources.contains_key(&flat) { flat } else { nested };
            let child = [module.as_slice(), std::slice::from_ref(&name)].concat();
            self.file(child, &path, &folder.join(&name), sources);
        }
    }

    /// Reads the tokens of a module, and adds the children that have files of their own.
    fn scope(&mut self, module: &Module, tokens: TokenStream, children: &mut Vec<String>) {
        self.scopes.entry(module.clone()).or_default();
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_for_tests(&tokens[at..]) {
                at += item_length(&tokens[at..]);
                continue;
            }
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.scope(module, group.stream(), children);
                    at += 1;
                }
                TokenTree::Ident(word) if word == "mod" => {
                    at += 1 + match &tokens[at + 1..] {
                        [TokenTree::Ident(name), TokenTree::Group(body), ..] => {
                            let inner = [module.as_slice(), &[name.to_string()]].concat();
                            self.files.insert(inner.clone(), self.files[module].clone());
                            self.scope(&inner, body.stream(), children);
                            2
                        }
                        [TokenTree::Ident(name), ..] => {
                            children.push(name.to_string());
                            1
                        }
                        _ => 0,
                    }
                }
                TokenTree::Ident(word) if word == "use" && !is_punct(&tokens, at + 1, '<') => {
                    let end = (at..tokens.len()).find(|&end| is_punct(&tokens, end, ';'));
                    let end = end.expect("an import ends");
                    let public = match at.checked_sub(1).map(|before| &tokens[before]) {
                        Some(TokenTree::Ident(word)) => word == "pub",
                        Some(TokenTree::Group(of)) => of.delimiter() == Delimiter::Parenthesis,
                        _ => false,
                    };
                    self.import(module, &[], &tokens[at + 1..end], public);
                    at = end;
                }
                TokenTree::Ident(_) => {
                    let path = path_at(&tokens, at);
                    let follows =
                        at > 0 && (is_punct(&tokens, at - 1, '.') || is_separator(&tokens, at - 1));
                    at += 3 * path.len() - 2;
                    let scope = self.scopes.get_mut(module).expect("made above");
                    if !follows {
                        scope.words.insert(path[0].clone());
                        scope.paths.push(path);
                    }
                }
                _ => at += 1,
            }
        }
    }

    /// One tree of an import, below `prefix`.
    fn import(&mut self, module: &Module, prefix: &[String], tree: &[TokenTree], public: bool) {
        let scope = self.scopes.get_mut(module).expect("made by the caller");
        let mut path = prefix.to_vec();
        let mut at = if is_separator(tree, 1) { 2 } else { 0 };
        while let Some(token) = tree.get(at) {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    let name = tree[at + 1].to_string();
                    scope.imports.insert(name, Import { path, public });
                    return;
                }
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in trees
                        .split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','))
                    {
                        if !tree.is_empty() {
                            self.import(module, &path, tree, public);
                        }
                    }
                    return;
                }
                TokenTree::Punct(punct) if punct.as_char() == '*' => {
                    scope.globs.push(path);
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        // `use a::b::{self}` imports `b`.
        path.pop_if(|last| last == "self");
        if let Some(name) = path.last() {
            scope.imports.insert(name.clone(), Import { path, public });
        }
    }

    /// The file that defines what a path names from within a module: none for other crates' and the
    /// module's own names, nor for a module, which is used only where something in it is.
    fn defines(&self, module: &Module, path: &[String]) -> Option<&Path> {
        let (mut at, mut rest) = self.start(module, path)?;
        while let Some((name, further)) = rest.split_first() {
            let child = [at.as_slice(), std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop();
            } else if self.files.contains_key(&child) {
                at = child;
            } else if let Some(import) = self.scopes[&at].imports.get(name) {
                return self.defines(&at, &[import.path.as_slice(), further].concat());
            } else {
                return Some(&self.files[&at]);
            }
            rest = further;
        }
        None
    }

    /// The module where the search for a path begins, and what is left of the path.
    fn start<'p>(&self, module: &Module, path: &'p [String]) -> Option<(Module, &'p [String])> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some((Vec::new(), rest)),
            "self" => Some((module.clone(), rest)),
            "super" => Some((module[..module.len().checked_sub(1)?].to_vec(), rest)),
            name => {
                let child = [module.as_slice(), std::slice::from_ref(first)].concat();
                let import = self.scopes[module].imports.get(name);
                // An import that begins with its own name is another crate's: `use half;`.
                let import = import.filter(|import| import.path[0] != *first);
                (self.files.contains_key(&child) || import.is_some())
                    .then(|| (module.clone(), path))
            }
        }
    }

    /// What each file uses, and a name of it.
    fn uses(&self) -> BTreeMap<&Path, BTreeMap<&Path, String>> {
        let mut uses: BTreeMap<&Path, BTreeMap<&Path, String>> = BTreeMap::new();
        for (module, scope) in &self.scopes {
            let needed = scope
                .imports
                .iter()
                .filter(|(name, import)| !import.public || scope.words.contains(*name))
                .map(|(_, import)| import.path.clone());
            let all = |path: &Vec<String>| [path.as_slice(), &["*".to_string()]].concat();
            let paths =
                scope.paths.iter().cloned().chain(scope.globs.iter().map(all)).chain(needed);
            let from = self.files[module].as_path();
            let used = uses.entry(from).or_default();
            for path in paths {
                if let Some(to) = self.defines(module, &path).filter(|to| *to != from) {
                    used.entry(to).or_insert_with(|| path.join("::"));
                }
            }
        }
        uses
    }

    /// The groups of files that use each other in a circle, directly or by way of others: which file uses
    /// which, and a name of it.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let uses = self.uses();
        let mut reached: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for &from in uses.keys() {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(file) = open.pop() {
                open.extend(uses[file].keys().filter(|next| seen.insert(**next)));
            }
            reached.insert(from, seen);
        }
        let mut circles = Vec::new();
        let mut told = BTreeSet::new();
        for (&file, seen) in &reached {
            if !seen.contains(file) || told.contains(file) {
                continue;
            }
            let files: Vec<&Path> =
                seen.iter().copied().filter(|other| reached[other].contains(file)).collect();
            let within = files.iter().flat_map(|&from| {
                let to = uses[from].iter().filter(|(to, _)| files.contains(to));
                to.map(move |(to, name)| {
                    format!("{} uses {name} of {}", from.display(), to.display())
                })
            });
            circles.push(within.collect());
            told.extend(files);
        }
        circles
    }
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Whether the second colon of `::` is at `at`.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    at > 0 && is_punct(tokens, at - 1, ':') && is_punct(tokens, at, ':')
}

/// The path that begins with the identifier at `at`.
fn path_at(tokens: &[TokenTree], mut at: usize) -> Vec<String> {
    let mut path = vec![tokens[at].to_string()];
    while is_separator(tokens, at + 2)
        && let Some(TokenTree::Ident(name)) = tokens.get(at + 3)
    {
        path.push(name.to_string());
        at += 3;
    }
    path
}

/// Whether an item begins with `#[cfg(test)]`.
pub fn is_for_tests(tokens: &[TokenTree]) -> bool {
    match tokens {
        [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] => {
            hash.as_char() == '#' && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
        }
        _ => false,
    }
}

/// Tokens of the item that comes first, up to its braces or its semicolon.
pub fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1)
}

#[test]
fn circles_are_found_through_re_exports_and_not_in_tests() {
    let sources = |files: &[(&str, &str)]| -> BTreeMap<PathBuf, String> {
        files.iter().map(|&(path, source)| (path.into(), source.into())).collect()
    };
    let circles = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        Crate::read(Path::new("lib.rs"), &sources(files)).circles()
    };
    // Declared, re-exported and used by siblings, but nothing of the parent's own is used.
    let parent = ("lib.rs", "mod a; mod b; pub use a::{One, helper}; pub use b::Two;");
    let one = ("a.rs", "pub struct One; pub fn helper() {}");
    let two = "use crate::One; pub struct Two(One); impl Two { fn go() { super::helper() } }";
    assert!(circles(&[parent, one, ("b.rs", two)]).is_empty());
    // The sibling uses it back: in an import, in a path of the code, within a macro, by a glob.
    for back in [
        "use crate::{b::Two};",
        "pub use super::Two as Three; type T = Three;",
        "use crate::b; fn f() { g!(b::Two); }",
        "use super::b::*;",
        "mod inner { use super::super::Two; }",
    ] {
        let one = format!("{back} pub struct One; pub fn helper() {{}}");
        let found = circles(&[parent, ("a.rs", &one), ("b.rs", two)]);
        let [uses] = &found[..] else { panic!("{back}: {found:?}") };
        let of = |from, to| uses.iter().any(|u| u.starts_with(from) && u.ends_with(to));
        assert!(uses.len() == 2 && of("a.rs", "b.rs") && of("b.rs", "a.rs"), "{back}: {uses:?}");
    }
    for no_use in [
        "#[cfg(test)] mod tests { use crate::Two; }",
        "/// See [`Two`](crate::Two).\n",
        "pub use super::Two;",
        "use b::Two; // another crate's",
        "fn f(x: X) { x.b::<u8>() }",
    ] {
        let one = format!("{no_use} pub struct One; pub fn helper() {{}}");
        let found = circles(&[parent, ("a.rs", &one), ("b.rs", two)]);
        assert!(found.is_empty(), "{no_use}: {found:?}");
    }
    // A child that needs its parent, whose parent needs it.
    let child = ("a/inner.rs", "use super::One; pub struct Inner(One);");
    for (own, circle) in [("use inner::Inner;", true), ("pub use inner::Inner;", false)] {
        let one = format!("mod inner; {own} pub struct One;");
        let found = circles(&[("lib.rs", "mod a;"), ("a.rs", &one), child]);
        assert_eq!(!found.is_empty(), circle, "{own}");
    }
}
