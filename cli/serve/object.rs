//! JSON objects and small values of them, read without more memory than they deserve.

use std::fmt;
use std::marker::PhantomData;

use mediswift_model::object::Object;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use super::problem::Problem;

/// The object that a body is.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let Object(value) = serde_json::from_slice(body)
        .map_err(|error| Problem::bad(None, format!("the body is not as it should be: {error}")))?;
    Ok(value)
}

/// How many entries an object has; they are not kept.
pub struct Entries(pub usize);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;

        impl<'de> Visitor<'de> for Count {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut count = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Entries(count))
            }
        }

        deserializer.deserialize_map(Count)
    }
}

/// A list of at most `MOST` values, which is not read further than that.
pub struct AtMost<T, const MOST: usize>(pub Vec<T>);

impl<T, const MOST: usize> AtMost<T, MOST> {
    /// Reads a list whose beginning is `known`.
    pub fn read<'de, A: SeqAccess<'de>>(mut known: Vec<T>, mut list: A) -> Result<Self, A::Error>
    where
        T: Deserialize<'de>,
    {
        while let Some(value) = list.next_element()? {
            if known.len() == MOST {
                return Err(A::Error::custom(format_args!("a list of more than {MOST}")));
            }
            known.push(value);
        }
        Ok(Self(known))
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for AtMost<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
            type Value = AtMost<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                AtMost::read(Vec::new(), list)
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}
