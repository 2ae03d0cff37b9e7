//! The files that are meant by a file or a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::format::format_of;
use super::passed_over::PassedOver;
use crate::DataError;
use crate::error::{InputProblem, RequestProblem};

/// The files that inputs stand for.
#[derive(Debug)]
pub struct Found {
    /// Each with the index of its input, in order.
    pub files: Vec<(usize, PathBuf)>,
    /// What was passed over in folders, counted and named: a message for each input that has any.
    pub passed_over: Vec<DataError>,
}

/// The files that `inputs` stand for. A folder stands for the files of known formats in it and below,
/// sorted by path; links are followed, and a folder that can be reached in several ways is read once.
/// Names that begin with a dot are nobody's.
///
/// # Errors
/// When an input does not exist or is of no known format, or a folder holds none.
pub fn find(inputs: &[PathBuf]) -> Result<Found, DataError> {
    let mut files = Vec::new();
    let mut passed_over = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let kind = fs::metadata(input).map_err(|e| DataError::io("open", input, e))?;
        if kind.is_dir() {
            let mut search = Search::default();
            search.all(input)?;
            if search.files.is_empty() {
                let problem = InputProblem::EmptyFolder { kinds: search.passed_over.kinds() };
                return Err(DataError::input(input, None, problem));
            }
            let note = search.passed_over.problem();
            passed_over.extend(note.map(|problem| DataError::input(input, None, problem)));
            search.files.sort();
            files.extend(search.files.into_iter().map(|path| (index, path)));
        } else if !kind.is_file() {
            return Err(DataError::input(input, None, InputProblem::NotAFile));
        } else if format_of(input).is_none() {
            return Err(DataError::input(input, None, InputProblem::UnknownName));
        } else {
            files.push((index, input.clone()));
        }
    }
    if files.is_empty() {
        return Err(RequestProblem::NoInput.into());
    }
    Ok(Found { files, passed_over })
}

/// A walk through a folder.
#[derive(Default)]
struct Search {
    files: Vec<PathBuf>,
    passed_over: PassedOver,
    /// Folders that were entered, by their only name without links.
    entered: BTreeSet<PathBuf>,
    /// Links to folders, which come after what lies here itself.
    links: Vec<PathBuf>,
}

impl Search {
    fn all(&mut self, folder: &Path) -> Result<(), DataError> {
        self.folder(folder)?;
        while let Some(link) = self.links.pop() {
            self.folder(&link)?;
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Path) -> Result<(), DataError> {
        let real = fs::canonicalize(folder).map_err(|e| DataError::io("open", folder, e))?;
        if !self.entered.insert(real) {
            self.passed_over.add("folder that is read under another name", folder.display());
            return Ok(());
        }
        let listed = |e| DataError::io("list", folder, e);
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(listed)? {
            let entry = entry.map_err(listed)?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                paths.push(entry.path());
            }
        }
        paths.sort();
        let links_before = self.links.len();
        for path in paths {
            let is_link = fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_symlink());
            match fs::metadata(&path) {
                Ok(kind) if kind.is_dir() && is_link => self.links.push(path),
                Ok(kind) if kind.is_dir() => self.folder(&path)?,
                Ok(kind) if !kind.is_file() => {
                    self.passed_over.add("pipe, socket or device", path.display());
                }
                Ok(_) if format_of(&path).is_some() => self.files.push(path),
                Ok(_) => self.passed_over.name(&path),
                Err(_) if is_link => self.passed_over.add("link to nothing", path.display()),
                Err(error) => return Err(DataError::io("open", &path, error)),
            }
        }
        // The last one is followed first.
        self.links[links_before..].reverse();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_the_rest_is_named() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["in/b", "elsewhere/deep"] {
            fs::create_dir_all(at(name)).expect("create");
        }
        for name in [
            "in/a.jsonl",
            "in/x.json",
            "in/y.json",
            "in/x.txt.bz2",
            "in/README",
            "in/.hidden.json",
            "in/b/b.txt",
            "elsewhere/c.xml",
            "elsewhere/deep/d.txt",
        ] {
            fs::write(at(name), "").expect("write");
        }
        // A circle, two ways to one folder, a file and nothing.
        symlink(at("in"), at("in/b/circle")).expect("link");
        symlink(at("elsewhere"), at("in/linked")).expect("link");
        symlink(at("elsewhere/deep"), at("in/again")).expect("link");
        symlink(at("elsewhere/c.xml"), at("in/c.xml")).expect("link");
        symlink(at("nowhere"), at("in/dangling.txt")).expect("link");
        let found = find(&[at("in")]).expect("found");
        let names: Vec<String> = found
            .files
            .iter()
            .map(|(_, path)| path.strip_prefix(at("in")).expect("below").display().to_string())
            .collect();
        assert_eq!(names, ["a.jsonl", "again/d.txt", "b/b.txt", "c.xml", "linked/c.xml"]);
        assert_eq!(found.passed_over.len(), 1);
        let message = found.passed_over[0].to_string();
        for says in [
            "7 were passed over",
            "2 .json (",
            "x.json",
            "1 .bz2 (",
            "1 without an ending (",
            "1 link to nothing (",
            "dangling.txt",
            "2 folder that is read under another name (",
        ] {
            assert!(message.contains(says), "{message} does not say {says}");
        }
        assert!(!message.contains("hidden"), "{message}");
        assert!(find(&[at("in/x.json")]).is_err() && find(&[at("in/b"), at("no")]).is_err());
    }
}
