//! Finding and reading task files, plain or gzip.

use crate::error::Error;
use flate2::read::MultiGzDecoder;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// No task file is longer: 2 GiB of text.
const LIMIT: u64 = 2 << 30;

/// The file `name`, or `name.gz`, in the first folder that has it.
pub fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let names = [name.to_string(), format!("{name}.gz")];
    let paths = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    paths.into_iter().find(|path| path.is_file())
}

/// The same, which must be there.
pub fn need(folders: &[PathBuf], name: &str) -> Result<PathBuf, Error> {
    if let Some(missing) = folders.iter().find(|folder| !folder.is_dir()) {
        return Err(Error::not_found(missing, "there is no such folder"));
    }
    find(folders, name).ok_or_else(|| {
        let problem = format!("it holds neither {name} nor {name}.gz: fetch the task's files");
        Error::not_found(&folders[0], problem)
    })
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    let read = match path.extension().is_some_and(|extension| extension == "gz") {
        true => MultiGzDecoder::new(file).take(LIMIT).read_to_end(&mut bytes),
        false => file.take(LIMIT).read_to_end(&mut bytes),
    };
    if read.map_err(Error::io("read", path))? as u64 == LIMIT {
        return Err(Error::malformed(path, format!("it holds more than {LIMIT} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::malformed(path, format!("byte {at} is not UTF-8"))
    })
}

/// The names of the files in a folder that end in `ending`, in order.
pub fn list(folder: &Path, ending: &str) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        names.extend(name.to_string_lossy().strip_suffix(ending).map(str::to_string));
    }
    names.sort();
    Ok(names)
}

/// Parses JSON; errors name line and column.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_str(&read(path)?).map_err(|error| Error::malformed(path, error.to_string()))
}

/// Parses one JSON object a line; blank lines are passed over.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>, Error> {
    let text = read(path)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(record) => Ok((number, record)),
        Err(error) => {
            // A line is all there is: its number here is the one that counts.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            Err(Error::malformed(
                path,
                format!("line {number}, column {}: {message}", error.column()),
            ))
        }
    };
    lines.map(parse).collect()
}

/// A JSON object as a list in its own order, in which no key appears twice.
pub struct Entries<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from ids to items")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    let named = |e: A::Error| serde::de::Error::custom(format!("item {key}: {e}"));
                    let value = map.next_value().map_err(named)?;
                    if !seen.insert(key.clone()) {
                        let message = format!("id {key} appears twice: keep one of them");
                        return Err(serde::de::Error::custom(message));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}

/// Runs of white space as single blanks, none at the ends.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
