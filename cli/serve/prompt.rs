//! What a completion request may have in the place of its prompt and of what stops it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::object::AtMost;

/// Most prompts × `n`.
pub const MOST_CHOICES: usize = 1024;

/// Most tokens of a request: those of its prompts, read as often as there are continuations, and those that
/// may be added.
pub const MOST_TOKENS: usize = 1 << 18;

/// Most stop strings.
pub const MOST_STOPS: usize = 64;

/// One prompt or several, as text or tokens.
#[derive(Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens.
    Ids(Vec<u32>),
    /// Tokens of several prompts.
    ManyIds(Vec<Vec<u32>>),
}

impl Prompt {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Ids(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::ManyIds(lists) => lists.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                let wrong = |error: A::Error| A::Error::custom(format_args!("{EXPECTED}: {error}"));
                Ok(match list.next_element().map_err(wrong)? {
                    // An empty list reads as a list of texts.
                    None => Prompt::Texts(Vec::new()),
                    Some(First::Text(text)) => {
                        let texts: AtMost<_, MOST_CHOICES> =
                            AtMost::read(vec![text], list).map_err(wrong)?;
                        Prompt::Texts(texts.0)
                    }
                    Some(First::Id(id)) => {
                        let ids: AtMost<_, MOST_TOKENS> =
                            AtMost::read(vec![id], list).map_err(wrong)?;
                        Prompt::Ids(ids.0)
                    }
                    Some(First::Ids(ids)) => {
                        let lists: AtMost<_, MOST_CHOICES> =
                            AtMost::read(vec![AtMost(ids)], list).map_err(wrong)?;
                        let lists = lists.0.into_iter().map(|AtMost::<_, MOST_TOKENS>(ids)| ids);
                        Prompt::ManyIds(lists.collect())
                    }
                })
            }
        }

        deserializer.deserialize_any(Any)
    }
}

const EXPECTED: &str = "`prompt` must be a string, a list of strings, a list of token ids or a list \
                        of lists of token ids";

/// The first element of a list, which says what the others are.
enum First {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<First, E> {
                Ok(First::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<First, E> {
                let id = u32::try_from(id);
                id.map(First::Id).map_err(|_| E::custom("a token id of more than 32 bits"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<First, A::Error> {
                let AtMost::<_, MOST_TOKENS>(ids) = AtMost::read(Vec::new(), list)?;
                Ok(First::Ids(ids))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Texts before which to stop.
#[derive(Debug, Default, PartialEq)]
pub struct Stop(pub Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`stop` must be a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Stop, A::Error> {
                let wrong = |error: A::Error| A::Error::custom(format_args!("`stop`: {error}"));
                let texts: AtMost<_, MOST_STOPS> = AtMost::read(Vec::new(), list).map_err(wrong)?;
                Ok(Stop(texts.0))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// How many of the likeliest tokens to list beside each. The chat protocol's `true` lists the tokens taken
/// alone, as 0 does, and `false` nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprobs(pub Option<usize>);

impl<'de> Deserialize<'de> for Logprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Logprobs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`logprobs` must be a number from 0, true or false")
            }

            fn visit_bool<E: Error>(self, wanted: bool) -> Result<Logprobs, E> {
                Ok(Logprobs(wanted.then_some(0)))
            }

            fn visit_u64<E: Error>(self, count: u64) -> Result<Logprobs, E> {
                Ok(Logprobs(Some(usize::try_from(count).unwrap_or(usize::MAX))))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
