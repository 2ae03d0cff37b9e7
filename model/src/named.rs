//! [`Named`]: things that are chosen by name, in settings and on the command line.

use crate::error::{Error, Place};
use mediswift_kernels::Precision;

/// One of a list of things that have names.
pub trait Named: Copy + 'static {
    /// What they are, for messages.
    const WHAT: &'static str;

    /// All of them, the usual one first.
    fn all() -> impl Iterator<Item = Self>;

    /// Its name.
    fn name(&self) -> &'static str;

    /// All names, as a sentence lists them: `a, b or c`.
    fn names() -> String {
        let names: Vec<&str> = Self::all().map(|one| one.name()).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => names.concat(),
        }
    }

    /// The one of that name, which was found in `place`.
    /// # Errors
    /// If there is none; the message names the nearest.
    fn named(name: &str, place: impl Into<Place>) -> Result<Self, Error> {
        Self::all().find(|one| one.name() == name).ok_or_else(|| {
            Error::unknown(place, Self::WHAT, name, Self::all().map(|one| one.name()))
        })
    }
}

impl Named for Precision {
    const WHAT: &'static str = "precision";

    fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    fn name(&self) -> &'static str {
        Precision::name(*self)
    }
}

/// Declares an enum whose values have names, in JSON too.
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $name:ident: $what:literal {
            $($(#[$doc:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $crate::named::Named for $name {
            const WHAT: &'static str = $what;

            fn all() -> impl Iterator<Item = Self> {
                [$(Self::$variant),+].into_iter()
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}
pub(crate) use named;
