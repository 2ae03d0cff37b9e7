//! The book is whole: every chapter is listed, every link leads somewhere, the reference is what the
//! program says, and the book is built, without a network.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdbook_driver::MDBook;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The chapters, without the list of them.
fn chapters() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(docs()).expect("docs").map(|entry| entry.expect("entry").path());
    let chapters = entries.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    chapters.filter(|path| !path.ends_with("SUMMARY.md")).collect()
}

/// A chapter without blocks of code, and without code in lines if that is asked for.
fn prose(text: &str, with_code: bool) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            let parts = line.split('`').enumerate();
            let kept = parts.filter(|(at, _)| with_code || at % 2 == 0).map(|(_, part)| part);
            prose.extend(kept);
            prose.push('\n');
        }
    }
    prose
}

/// Targets of the links and pictures in a chapter.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text, false);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_string).collect()
}

/// What a link to a heading says, in books and on GitHub alike.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text, true);
    let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_chapter_is_in_the_summary_and_every_entry_is_a_chapter() {
    let listed: BTreeSet<PathBuf> =
        links(&read(&docs().join("SUMMARY.md"))).iter().map(|link| docs().join(link)).collect();
    assert!(listed.len() > 8, "{listed:?}");
    for chapter in &listed {
        assert!(read(chapter).starts_with("# "), "{} has no title", chapter.display());
    }
    let missing: Vec<_> = chapters().difference(&listed).cloned().collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md lacks {missing:?}");
    let book: Vec<String> = read(&docs().join("book.toml")).lines().map(str::to_string).collect();
    assert!(book.contains(&"src = \".\"".to_string()), "the book is made of these chapters");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut problems = Vec::new();
    let mut found = 0;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    for chapter in chapters().into_iter().chain([readme.clone()]) {
        let text = read(&chapter);
        for link in links(&text).iter().filter(|link| !link.starts_with("http")) {
            found += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => chapter.clone(),
                file => chapter.parent().expect("a folder").join(file),
            };
            let problem = if !target.exists() {
                "there is no such file"
            } else if chapter != readme && file.starts_with("..") {
                "it leads out of the book"
            } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                "there is no such heading"
            } else {
                continue;
            };
            problems.push(format!("{}: {link}: {problem}", chapter.display()));
        }
    }
    assert!(found > 20, "the check must see the links: {found}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Where the links, pictures, styles and scripts of a page lead.
fn targets(page: &str) -> Vec<String> {
    let targets = ["href=\"", "src=\""].map(|attribute| page.split(attribute).skip(1));
    let targets = targets.into_iter().flatten().filter_map(|rest| rest.split('"').next());
    targets.map(str::to_string).collect()
}

#[test]
fn the_book_builds_and_nothing_in_it_is_missing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut book = MDBook::load(docs()).unwrap_or_else(|error| panic!("{error:#}"));
    book.config.build.build_dir = folder.path().join("book");
    book.build().unwrap_or_else(|error| panic!("{error:#}"));
    let mut missing = Vec::new();
    for chapter in links(&read(&docs().join("SUMMARY.md"))) {
        let text = read(&docs().join(&chapter));
        let path = folder.path().join("book").join(&chapter).with_extension("html");
        let page = read(&path);
        let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a title");
        assert!(page.contains(&format!(">{title}</a></h1>")), "{chapter} has no title");
        for target in targets(&page) {
            let file = target.split('#').next().expect("a part");
            let is_elsewhere = file.contains(':') || file.is_empty();
            if !is_elsewhere && !path.parent().expect("a folder").join(file).exists() {
                missing.push(format!("{chapter}: {target}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_reference_is_what_the_program_says() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mediswift"));
    let said = program.arg("reference").env_remove("MEDISWIFT_ISA").output().expect("it starts");
    let said = String::from_utf8(said.stdout).expect("UTF-8");
    assert!(
        said.contains("### `mediswift data prepare`") && said.contains("[optimiser]"),
        "{said}"
    );
    // Where it differs, not all of it.
    let known = read(&docs().join("reference.md"));
    let differs = said.lines().zip(known.lines()).find(|(said, known)| said != known);
    assert!(
        said == known,
        "docs/reference.md is out of date: make it again with 'mediswift reference > docs/reference.md'; {differs:?}"
    );
}
