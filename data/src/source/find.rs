//! The files that are meant by a file or a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::format::format_of;
use crate::DataError;
use crate::error::{InputProblem, RequestProblem};

/// The files that `inputs` stand for, in order, each with the index of its input. A folder stands
/// for the files of known formats in it and below, sorted by path.
///
/// # Errors
/// When an input does not exist or is of no known format, or a folder holds none.
pub fn find(inputs: &[PathBuf]) -> Result<Vec<(usize, PathBuf)>, DataError> {
    let mut files = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let kind = fs::metadata(input).map_err(|e| DataError::io("open", input, e))?;
        let before = files.len();
        if kind.is_dir() {
            let mut found = Vec::new();
            walk(input, &mut found)?;
            found.sort();
            files.extend(found.into_iter().map(|path| (index, path)));
        } else if !kind.is_file() {
            return Err(DataError::input(input, None, InputProblem::NotAFile));
        } else if format_of(input).is_none() {
            return Err(DataError::input(input, None, InputProblem::UnknownName));
        } else {
            files.push((index, input.clone()));
        }
        if files.len() == before {
            return Err(DataError::input(input, None, InputProblem::EmptyFolder));
        }
    }
    if files.is_empty() {
        return Err(RequestProblem::NoInput.into());
    }
    Ok(files)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(|e| DataError::io("list", folder, e))? {
        let path = entry.map_err(|e| DataError::io("list", folder, e))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_dir());
        if is_folder {
            walk(&path, found)?;
        } else if format_of(&path).is_some() && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
