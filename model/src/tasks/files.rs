//! Finding and reading task files, plain or gzip.

use crate::error::Error;
use crate::object::Object;
use mediswift_data::source;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

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
    Ok(source::read_text(path)?)
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

/// Parses a JSON object; errors name line and column.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let parsed: Result<Object<T>, _> = serde_json::from_str(&read(path)?);
    parsed.map(|Object(value)| value).map_err(|error| Error::malformed(path, error.to_string()))
}

/// Parses one JSON object a line; blank lines are passed over.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>, Error> {
    let text = read(path)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(Object(record)) => Ok((number, record)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A value for which a list would do, if it were asked for its fields in order.
    #[derive(Debug, Deserialize, PartialEq)]
    struct Item {
        a: u32,
        b: Option<u32>,
    }

    #[test]
    fn only_objects_are_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let item = Item { a: 1, b: None };
        fs::write(&path, "\u{feff}{\"a\": 1}").unwrap();
        assert_eq!(json::<Item>(&path).unwrap(), item);
        assert_eq!(json_lines::<Item>(&path).unwrap(), [(1, item)]);
        for text in ["[1, 2]", "[[1, 2]]", "1", "null", "\"a\""] {
            fs::write(&path, text).unwrap();
            let message = json::<Item>(&path).unwrap_err().to_string();
            assert!(message.contains("expected a JSON object"), "{message}");
            fs::write(&path, format!("{{\"a\": 1}}\n{text}\n")).unwrap();
            let message = json_lines::<Item>(&path).unwrap_err().to_string();
            assert!(message.contains("line 2") && message.contains("a JSON object"), "{message}");
            fs::write(&path, format!("{{\"x\": {text}}}")).unwrap();
            let message = json::<Entries<Object<Item>>>(&path).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("item x: ") && message.contains("a JSON object"), "{message}");
        }
        fs::write(&path, "{\"x\": \"y\"}").unwrap();
        assert_eq!(json::<HashMap<String, String>>(&path).unwrap()["x"], "y");
        assert_eq!(json::<Entries<String>>(&path).unwrap().0, [("x".into(), "y".into())]);
    }
}
