//! [`Setting`]: a value that a key can have, checked when it is read.

use crate::error::{Error, Place};
use crate::named::Named;
use mediswift_files as files;
use std::collections::BTreeMap;
use toml::Value;

/// A value of a key.
pub(crate) trait Setting: Sized {
    /// Reads it. `key` is the key's whole path, `place` where it was found.
    /// # Errors
    /// If the value is none of this type.
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error>;

    /// Changes it to what is read; of a table, the keys that are there.
    /// # Errors
    /// If the value is none of this type.
    fn change(&mut self, value: Value, key: &str, place: &Place) -> Result<(), Error> {
        *self = Self::read(value, key, place)?;
        Ok(())
    }
}

impl Setting for bool {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        value.as_bool().ok_or_else(|| wrong_type(place, key, "boolean", &value))
    }
}

impl Setting for usize {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let whole = value.as_integer().and_then(|n| n.try_into().ok());
        whole.ok_or_else(|| {
            wrong_type(place, key, "whole number of at least 0 and below 2^63", &value)
        })
    }
}

impl Setting for u64 {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let whole = value.as_integer().and_then(|n| n.try_into().ok());
        whole.ok_or_else(|| {
            wrong_type(place, key, "whole number of at least 0 and below 2^63", &value)
        })
    }
}

/// Whole numbers stand for fractions too.
impl Setting for f64 {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let number = value.as_float().or(value.as_integer().map(|n| n as f64));
        number.ok_or_else(|| wrong_type(place, key, "number", &value))
    }
}

impl Setting for String {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(place, key, "string", &other)),
        }
    }
}

impl<T: Named> Setting for T {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        T::named(&String::read(value, key, place)?, place.within(key))
    }
}

/// A value that is no list stands for a list of itself.
impl<T: Setting> Setting for Vec<T> {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let Value::Array(values) = value else {
            return Ok(vec![T::read(value, key, place)?]);
        };
        // People count from 1.
        let read = |(at, value)| T::read(value, &format!("{key}[{}]", at + 1), place);
        values.into_iter().enumerate().map(read).collect()
    }
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn read(value: Value, key: &str, place: &Place) -> Result<Self, Error> {
        let Value::Table(values) = value else {
            return Err(wrong_type(place, key, "table", &value));
        };
        let read = |(name, value)| {
            let value = T::read(value, &format!("{key}.\"{name}\""), place)?;
            Ok((name, value))
        };
        values.into_iter().map(read).collect()
    }
}

/// The error of a value that has another type than its key.
pub(crate) fn wrong_type(place: &Place, key: &str, expected: &'static str, found: &Value) -> Error {
    let value = found.to_string().replace('\n', " ");
    let found = format!("{} {}", found.type_str(), files::brief(value));
    Error::WrongType { place: place.clone(), key: files::brief(key), expected, found }
}
