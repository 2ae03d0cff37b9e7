//! Settings as text: files and assignments are read, whole settings printed with what they mean.
//!
//! A [`Section`] is a table of keys, declared by `tables!`; [`Tables`] are all that decide a run,
//! declared by `settings!`.

use super::value::wrong_type;
use crate::error::{Error, Place};
use mediswift_files as files;
use serde::Serialize;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// Lines of documentation.
pub(crate) type Comment = &'static [&'static str];

/// A table of settings.
pub(crate) trait Section {
    /// The names of its keys.
    fn keys(&self) -> &'static [&'static str];

    /// Changes one of its keys. `path` is the key behind the table's name, `place` where the value
    /// was found.
    /// # Errors
    /// If the value has another type than the key.
    /// # Panics
    /// If there is no such key.
    fn set(&mut self, key: &str, value: Value, path: &str, place: &Place) -> Result<(), Error>;

    /// What a table or a key is, line by line, as in its documentation: of all that are declared
    /// together with this one.
    fn comment(path: &str) -> Option<Comment>
    where
        Self: Sized;
}

/// The name of a key: what the language needs besides, where it is a word of its own, is no part of it.
pub(crate) const fn key_name(identifier: &'static str) -> &'static str {
    match identifier.as_bytes() {
        [b'r', b'#', ..] => identifier.split_at(2).1,
        _ => identifier,
    }
}

/// All tables that decide a run.
pub(crate) trait Tables: Serialize {
    /// Their names.
    const NAMES: &'static [&'static str];

    /// The table of that name.
    fn section(&mut self, name: &str) -> Option<&mut dyn Section>;

    /// What a table or a key is.
    fn comment(path: &str) -> Option<Comment>;

    /// Changes the keys that are in `over`; those that have moved may also stand where they were.
    /// # Errors
    /// If a table or key is unknown, a value has the wrong type, or a key is given in both places.
    fn overlay(&mut self, over: Table, place: &Place) -> Result<(), Error> {
        let mut given = BTreeSet::new();
        for (name, table) in over {
            let Some(section) = self.section(&name) else {
                return Err(Error::unknown(
                    place.clone(),
                    "table",
                    &name,
                    Self::NAMES.iter().copied(),
                ));
            };
            let known = section.keys();
            let Value::Table(table) = table else {
                return Err(wrong_type(place, &name, "table", &table));
            };
            for (key, value) in table {
                let home = match known.contains(&&*key) {
                    true => &*name,
                    false => super::moved::home(&name, &key).ok_or_else(|| {
                        let place = place.within(&format!("[{name}]"));
                        Error::unknown(place, "key", &key, known.iter().copied())
                    })?,
                };
                let path = format!("{home}.{key}");
                if !given.insert(path.clone()) {
                    let problem = format!("{path} is given twice: its old place is [{name}]");
                    return Err(Error::setting(place.clone(), problem));
                }
                let section = self.section(home).expect("moved keys have a table");
                section.set(&key, value, &path, place)?;
            }
        }
        Ok(())
    }

    /// The settings as TOML values.
    /// # Panics
    /// If a seed or a count has 64 bits, which no TOML can hold.
    fn to_table(&self) -> Table {
        Table::try_from(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// Keys that differ from those of `other`, as `train.lr is 0.1 here, but 0.2 there`, without the
    /// tables and keys that are `free` to.
    fn differing(&self, other: &Self, free: &[&str]) -> Vec<String> {
        let (here, there) = (self.to_table(), other.to_table());
        let mut differences = Vec::new();
        for (name, table) in here.iter().filter(|(name, _)| !free.contains(&name.as_str())) {
            for (key, value) in table.as_table().expect("settings are tables of keys") {
                let (path, other) = (format!("{name}.{key}"), &there[name][key]);
                if value != other && !free.contains(&path.as_str()) {
                    differences.push(format!("{path} is {value} here, but {other} there"));
                }
            }
        }
        differences
    }

    /// The settings as TOML.
    /// # Panics
    /// As for [`Tables::to_table`].
    fn plain(&self) -> String {
        toml::to_string(self).expect("seeds and counts fit the 63 bits of TOML's integers")
    }

    /// The settings as TOML, with a comment above every table and key that says what it is.
    /// # Panics
    /// As for [`Tables::to_table`].
    fn commented(&self) -> String {
        let (mut text, mut table) = (String::new(), String::new());
        let mut said = BTreeSet::new();
        let mut comment = |path: &str| {
            // Once is enough where several groups have the same keys.
            let lines = Self::comment(path).filter(|_| said.insert(path.to_string()));
            lines.unwrap_or_default().iter().map(|line| format!("#{line}\n")).collect::<String>()
        };
        for line in self.plain().lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = name.trim_matches(['[', ']']).to_string();
                text += &comment(&table);
            } else if let Some((key, _)) = line.split_once(" = ") {
                text += &comment(&format!("{table}.{key}"));
            }
            text += &format!("{line}\n");
        }
        text
    }
}

/// The tables in a file's `text`.
/// # Errors
/// If it is not TOML; the place has the line.
pub(crate) fn parse(text: &str, place: &Place) -> Result<Table, Error> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(before).filter(|&byte| byte == b'\n').count();
        Error::setting(place.line(line), files::brief(error.message().replace('\n', "; ")))
    })
}

/// `table.key=value` as a table of tables, and its place for messages; a value that is not TOML is a
/// string. A key of a table within the table is `table.key.key`.
/// # Errors
/// If the assignment is malformed.
pub(crate) fn parse_assignment(assignment: &str) -> Result<(Table, Place), Error> {
    let place = Place::from(format!("--set {}", files::brief(assignment)));
    let malformed =
        || Error::setting(place.clone(), "expected table.key=value, as in train.lr=1e-3");
    let (key, value) = assignment.split_once('=').ok_or_else(malformed)?;
    let (table, key) = key.trim().split_once('.').ok_or_else(malformed)?;
    let value = value.trim();
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").ok_or_else(malformed)?,
        _ => Value::String(value.to_string()),
    };
    let within = |value, key: &str| Value::Table(Table::from_iter([(key.to_string(), value)]));
    let keys = key.rsplit('.').fold(value, within);
    Ok((Table::from_iter([(table.to_string(), keys)]), place))
}
